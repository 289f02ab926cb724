/** The start of a session: from the first packet of the driver to the moment at which the server is ready for statements. */
import { Effect } from "effect"
import type { Duplex } from "node:stream"
import { HostFailure } from "./HostSocket.ts"

/** What a server has to be, in the words of libpq. */
export const sessionAttributes = ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"] as const

export type SessionAttributes = (typeof sessionAttributes)[number]

/** A server that is ready, and what it has said on the way that the driver has not been told yet. */
export interface Ready {
  readonly unread: Buffer
  /** The process id and the secret, as a request to cancel has them. */
  readonly key: string
}

/** The server refuses the session, in a message for the driver: no other server would have to. */
export class Refused {
  readonly _tag = "Refused"
  readonly message: Buffer

  constructor(message: Buffer) {
    this.message = message
  }
}

const headerBytes = 5

/** No start is longer, and nobody who is no server can fill our memory with more. */
const maxStartBytes = 1024 * 1024

const notPostgres = new HostFailure({ message: "The server does not answer as PostgreSQL does" })

/** The texts of a message's body, each of which ends with a NUL. */
const texts = (message: Buffer): ReadonlyArray<string> => message.toString("utf8", headerBytes).split("\0")

/** The field of an error that has this letter. */
const errorField = (message: Buffer, letter: string): string =>
  texts(message)
    .find((text) => text.startsWith(letter))
    ?.slice(1) ?? ""

/** The server starts, stops, or recovers from a crash. */
const cannotConnectNow = "57P03"

/** Why a server with these settings is not what is wanted. */
const objection = (wanted: SessionAttributes, settings: ReadonlyMap<string, string>): string | undefined => {
  if (wanted === "any" || wanted === "prefer-standby") return undefined
  const recovers = settings.get("in_hot_standby")
  const readOnly = settings.get("default_transaction_read_only")
  if (recovers === undefined || readOnly === undefined) return "it does not say whether it is a standby"
  const isStandby = recovers === "on"
  const isReadOnly = isStandby || readOnly === "on"
  switch (wanted) {
    case "primary":
      return isStandby ? "it is a standby" : undefined
    case "standby":
      return isStandby ? undefined : "it is no standby"
    case "read-write":
      return isReadOnly ? (isStandby ? "it is a standby" : "it is read-only") : undefined
    case "read-only":
      return isReadOnly ? undefined : "it is not read-only"
  }
}

/** The whole messages at the start of the bytes, and what is left. */
const split = (bytes: Buffer): { readonly messages: ReadonlyArray<Buffer>; readonly rest: Buffer } | undefined => {
  const messages: Array<Buffer> = []
  let rest = bytes
  while (rest.length >= headerBytes) {
    const length = 1 + rest.readUInt32BE(1)
    if (length < headerBytes || length > maxStartBytes) return undefined
    if (rest.length < length) break
    messages.push(rest.subarray(0, length))
    rest = rest.subarray(length)
  }
  return { messages, rest }
}

/**
 * Sends the packet, and gives the server once it is ready and is what is wanted.
 *
 * **Details**
 *
 * `ask` is given what the server asks of the driver: how the user proves who he is. The driver answers on the socket. It is
 * told the rest only when the server fits, because then there is no way back to another one.
 */
export const startUp = (
  socket: Duplex,
  packet: Buffer,
  wanted: SessionAttributes,
  ask: (message: Buffer) => void
): Effect.Effect<Ready, HostFailure | Refused> =>
  Effect.callback((resume) => {
    const settings = new Map<string, string>()
    const held: Array<Buffer> = []
    let key = ""
    let unread = Buffer.alloc(0)
    let received = 0

    const settle = (result: Effect.Effect<Ready, HostFailure | Refused>) => {
      forget()
      // Until somebody reads it again, the socket keeps what comes.
      socket.pause()
      resume(result)
    }
    const refuse = (message: Buffer) =>
      errorField(message, "C") === cannotConnectNow
        ? new HostFailure({ message: errorField(message, "M") })
        : new Refused(message)
    const ready = (rest: Buffer) => {
      const problem = objection(wanted, settings)
      return problem === undefined
        ? Effect.succeed({ unread: Buffer.concat([...held, rest]), key })
        : Effect.fail(new HostFailure({ message: `${problem}, and target_session_attrs is ${wanted}` }))
    }

    const read = (chunk: Buffer) => {
      received += chunk.length
      const found = received > maxStartBytes ? undefined : split(Buffer.concat([unread, chunk]))
      if (found === undefined) return settle(Effect.fail(notPostgres))
      unread = Buffer.from(found.rest)
      for (const [index, message] of found.messages.entries()) {
        switch (String.fromCharCode(message[0] ?? 0)) {
          case "R": // Authentication
            ask(message)
            break
          case "E": // ErrorResponse
            return settle(Effect.fail(refuse(message)))
          case "S": {
            // ParameterStatus
            const [name = "", value = ""] = texts(message)
            settings.set(name, value)
            held.push(message)
            break
          }
          case "K": // BackendKeyData
            key = message.toString("hex", headerBytes)
            held.push(message)
            break
          case "Z": // ReadyForQuery
            return settle(ready(Buffer.concat([...found.messages.slice(index), found.rest])))
          default:
            held.push(message)
        }
      }
    }
    const failed = (error: Error) => settle(Effect.fail(new HostFailure({ message: error.message })))
    const closed = () => settle(Effect.fail(new HostFailure({ message: "the server closed the connection" })))
    const forget = () => {
      socket.off("data", read).off("error", failed).off("close", closed)
    }
    socket.on("data", read).on("error", failed).on("close", closed)
    socket.resume()
    socket.write(packet)
    return Effect.sync(forget)
  })
