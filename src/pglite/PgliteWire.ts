import type { PgConnection } from "@effect/sql-pg"
import { ConnectionError, SqlError, SqlSyntaxError, UnknownError } from "effect/sql/SqlError"

// The messages that PgliteSession itself sends to PGlite, and the parts of the answers that it has to understand. All else
// passes through unread.

/** Where an exchange has left the session. It is `busy` until the `Sync` that ends the cycle of messages. */
export type Status = "idle" | "transaction" | "failed" | "busy"

/** An `ErrorResponse`: the message as it came, and the error that it stands for. */
export interface ErrorResponse {
  readonly raw: Buffer
  readonly sqlError: SqlError
}

/** The whole answer to one exchange. */
export interface Reply {
  readonly bytes: Buffer
  readonly status: Status
  readonly notifications: ReadonlyArray<PgConnection.Notification>
  /** Whether a statement of the application has ended every `LISTEN`. */
  readonly unlistened: boolean
  /** Whether Postgres has begun to read the data of a `COPY .. FROM STDIN`. */
  readonly copiesIn: boolean
  readonly error: ErrorResponse | undefined
}

/** The answer of a session that is over. */
export const emptyReply: Reply = {
  bytes: Buffer.alloc(0),
  status: "idle",
  notifications: [],
  unlistened: false,
  copiesIn: false,
  error: undefined
}

const none: ReadonlyArray<never> = []

/** Reads what PgliteSession has to know of an answer, which always ends with a whole message. */
export const readReply = (bytes: Buffer): Reply => {
  let status: Status = "busy"
  let unlistened = false
  let copiesIn = false
  let error: ErrorResponse | undefined
  let notifications: Array<PgConnection.Notification> | undefined
  for (let at = 0; at + 5 <= bytes.length;) {
    const type = bytes[at]
    const end = at + 1 + bytes.readUInt32BE(at + 1)
    // ParameterStatus (S) and NoticeResponse (N) may come at any time, also outside a cycle.
    if (type !== 0x5a && type !== 0x41 && type !== 0x53 && type !== 0x4e) status = "busy"
    if (type === 0x5a /* Z: ReadyForQuery */) {
      status = bytes[at + 5] === 0x49 ? "idle" : bytes[at + 5] === 0x54 ? "transaction" : "failed"
    } else if (type === 0x41 /* A: NotificationResponse */) {
      const channelEnd = bytes.indexOf(0, at + 9)
      notifications ??= []
      notifications.push({
        processId: bytes.readInt32BE(at + 5),
        channel: bytes.toString("utf8", at + 9, channelEnd),
        payload: bytes.toString("utf8", channelEnd + 1, end - 1)
      })
    } else if (type === 0x43 /* C: CommandComplete */ && !unlistened) {
      const initial = bytes[at + 5]
      if (initial === 0x55 || initial === 0x44) {
        const tag = bytes.toString("latin1", at + 5, end - 1)
        unlistened = tag === "UNLISTEN" || tag === "DISCARD ALL"
      }
    } else if (type === 0x45 /* E: ErrorResponse */ && error === undefined) {
      error = readError(bytes.subarray(at, end))
    } else if (type === 0x47 /* G: CopyInResponse */) {
      copiesIn = true
    }
    at = end
  }
  return { bytes, status, notifications: notifications ?? none, unlistened, copiesIn, error }
}

const readError = (raw: Buffer): ErrorResponse => {
  const fields = new Map<string, string>()
  for (const field of raw.toString("utf8", 5).split("\0")) fields.set(field.slice(0, 1), field.slice(1))
  return { raw, sqlError: sqlError(fields.get("C") ?? "XX000", fields.get("M") ?? "Unknown PostgreSQL error") }
}

/** The error that the driver would make of this code and message of a server, for the classes of errors that occur here. */
export const sqlError = (code: string, message: string, cause?: Error): SqlError => {
  const props = {
    cause: Object.assign(new Error(message, { cause }), { code }),
    message: "Pglite: Query failed",
    operation: "query"
  }
  const reason = code.startsWith("08")
    ? new ConnectionError(props)
    : code.startsWith("42")
      ? new SqlSyntaxError(props)
      : new UnknownError(props)
  return new SqlError({ reason })
}

const message = (type: string, body: string): Buffer => {
  const bytes = Buffer.from(`${type}\0\0\0\0${body}`)
  bytes.writeUInt32BE(bytes.length - 1, 1)
  return bytes
}

/** A `Query` message. */
export const query = (sql: string): Buffer => message("Q", `${sql}\0`)

/** A `Sync` message. */
export const sync: Buffer = message("S", "")

/** A `CopyFail` message. */
export const copyFail: Buffer = message("f", "COPY is not supported here\0")

/** The length of a `ReadyForQuery` message. */
export const readyBytes = 6

/** Whether a statement among these messages may be a `COPY .. FROM STDIN`. */
export const mayCopyIn = (messages: Buffer): boolean => {
  for (let at = 0; at + 5 <= messages.length;) {
    const end = at + 1 + messages.readUInt32BE(at + 1)
    const type = messages[at]
    if (
      (type === 0x50 /* P: Parse */ || type === 0x51) /* Q: Query */ &&
      /\bstdin\b/i.test(messages.toString("latin1", at + 5, end))
    ) {
      return true
    }
    at = end
  }
  return false
}

/** A startup packet. */
export const startup = (parameters: Readonly<Record<string, string>>): Uint8Array => {
  const body = Object.entries(parameters).map(([name, value]) => `${name}\0${value}\0`)
  const packet = Buffer.from(`\0\0\0\0\0\x03\0\0${body.join("")}\0`)
  packet.writeUInt32BE(packet.length, 0)
  return packet
}

/** The settings in a startup packet, without the names of the user and the database. */
export const readStartup = (packet: Buffer): ReadonlyMap<string, string> => {
  const words = packet.toString("utf8", 8).split("\0")
  const parameters = new Map<string, string>()
  for (let at = 0; at + 1 < words.length && words[at] !== ""; at += 2) {
    parameters.set(words[at] ?? "", words[at + 1] ?? "")
  }
  for (const name of ["user", "database", "replication", "options"]) parameters.delete(name)
  return parameters
}

/** The answer to a startup packet, with the cancel key of a connection. */
export const withSecret = (greeting: Buffer, secret: number): Buffer => {
  const copy = Buffer.from(greeting)
  for (let at = 0; at + 5 <= copy.length; at += 1 + copy.readUInt32BE(at + 1)) {
    if (copy[at] === 0x4b /* K: BackendKeyData */) copy.writeInt32BE(secret, at + 9)
  }
  return copy
}

/** A quoted string that means the same with `standard_conforming_strings` on and off. */
export const literal = (value: string): string => {
  const quoted = value.replaceAll("'", "''")
  return quoted.includes("\\") ? ` E'${quoted.replaceAll("\\", "\\\\")}'` : `'${quoted}'`
}
