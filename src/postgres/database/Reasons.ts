/** What Postgres's errors mean to a store. */
import { Predicate } from "effect"
import type { SqlError } from "effect/sql"
import {
  Contention,
  Denied,
  isReason,
  type Reason,
  SchemaMissing,
  Timeout,
  Unavailable,
  Unexpected
} from "../../StoreError.ts"
import { grantFor, type Place } from "./Needs.ts"

/** The text of a property, on one line. */
const textOf = (value: unknown, property: string): string | undefined => {
  const text = Predicate.hasProperty(value, property) ? value[property] : undefined
  return typeof text === "string" && text !== "" ? text.replaceAll(/\s+/g, " ") : undefined
}

/** If a host with several addresses refuses at each of them, the error has no message of its own, but one for each. */
const messageOf = (cause: unknown): string | undefined =>
  textOf(cause, "message") ?? (cause instanceof AggregateError ? textOf(cause.errors[0], "message") : undefined)

const migrate =
  "run the migrations: strata migrate, Postgres.layer or Postgres.layerMigrations, or psql -f the files of resources/postgres; " +
  "where they have run in another schema, name it: the option schema of the layer, DB_SCHEMA or --schema"

const timeout = (message: string, cause: unknown) =>
  new Timeout({ message: `a time limit of the server ran out: ${message}; call again, or raise the limit`, cause })

const otherSession = (message: string, cause: unknown) =>
  new Unexpected({
    message: `the statement reached another session of the server: ${message}; behind a pooler in transaction mode build the PgClient with prepare: false`,
    cause
  })

/** What a SQLSTATE means, where the driver's own classes are too coarse. A key of two characters stands for a whole class. */
const bySqlState: Readonly<Record<string, (message: string, cause: unknown) => Reason>> = {
  "22P05": (message, cause) =>
    new Unexpected({
      message: `the encoding of the database lacks a character: ${message}; use a database with the encoding UTF8`,
      cause
    }),
  "25006": (message, cause) =>
    new Denied({
      message: `the server or the session is read-only: ${message}; connect to a server that can write`,
      cause,
      // Nobody can tell a standby from a session whose default is read-only: both refuse a write in the same words.
      mayPass: true
    }),
  "25P02": (_, cause) =>
    new Unexpected({ message: "an earlier error ended this transaction; roll it back and start again", cause }),
  "25P03": timeout,
  "25P04": timeout,
  "3D000": (message, cause) =>
    new SchemaMissing({ message: `${message}: create it, or connect to another one`, cause }),
  "26000": otherSession,
  "42P05": otherSession,
  "3F000": (message, cause) => new SchemaMissing({ message: `${message}: ${migrate}`, cause }),
  "42P01": (message, cause) => new SchemaMissing({ message: `${message}: ${migrate}`, cause }),
  "42883": (message, cause) => new SchemaMissing({ message: `${message}: ${migrate}`, cause }),
  "42703": (message, cause) => new SchemaMissing({ message: `${message}: ${migrate}`, cause }),
  "53": (message, cause) =>
    new Unavailable({ message: `the server is out of resources: ${message}; call again once it has some`, cause }),
  "53300": (message, cause) =>
    new Unavailable({ message: `${message}; use smaller pools, or raise the server's limit`, cause }),
  "57P": (message, cause) =>
    new Unavailable({ message: `the server closed the connection: ${message}; call again once it is back`, cause })
}

/** What to do about a server to which there is no connection. */
const remedyOf = (message: string): string => {
  if (message.includes("does not support TLS"))
    return "check its setting ssl, or ask for a plain connection by sslmode=disable"
  return message.includes("certificate")
    ? "check the name of the host, or name the authority that vouches for the certificate by sslrootcert"
    : "check that it runs and can be reached"
}

/** The words of the driver for a row that is larger than it takes. */
const messageLimit = "exceeds maxMessageSize"

/** Whether the driver does not take a row: the next connection would be lost by it, too. */
export const isTooLarge = ({ message }: Reason): boolean => message.includes(messageLimit)

/** Where the statement has failed, if that is known: whose tables a missing privilege may be of. */
interface Where extends Place {
  readonly role: string | undefined
}

/** What the error means. */
export const reasonOf = ({ reason }: SqlError.SqlError, where?: Where): Reason => {
  if (isReason(reason.cause)) return reason.cause
  const { cause } = reason
  const code = textOf(cause, "code") ?? ""
  const message = messageOf(cause) ?? reason.message
  // The driver closes the connection, but the server is there: to connect again does not help.
  if (message.includes(messageLimit)) {
    return new Unexpected({
      message: `a row is larger than the driver takes: ${message}; raise maxMessageSize in the settings of the client`,
      cause
    })
  }
  const known = bySqlState[code] ?? bySqlState[code.slice(0, 3)] ?? bySqlState[code.slice(0, 2)]
  if (known !== undefined) return known(message, cause)
  switch (reason._tag) {
    case "ConnectionError":
      return new Unavailable({ message: `no connection to the server: ${message}; ${remedyOf(message)}`, cause })
    case "AuthenticationError":
      return new Denied({ message: `the server refuses the login: ${message}; check the user and the password`, cause })
    case "AuthorizationError": {
      const grant = where && grantFor(message, where, where.role)
      const help = grant === undefined ? "" : `: ${grant}; strata grants ROLE prints all that a role needs`
      return new Denied({ message: `${message}: grant it to the role of this connection${help}`, cause })
    }
    case "DeadlockError":
    case "SerializationError":
    case "LockTimeoutError":
      return new Contention({
        message: `lost against a concurrent transaction: ${message}; run the transaction again`,
        cause
      })
    case "StatementTimeoutError":
      return timeout(message, cause)
    default:
      return new Unexpected({ message, cause })
  }
}

/** Whether the server has refused to write in this session: it is a standby, or the session is read-only by default. */
export const isReadOnlySession = ({ cause }: { readonly cause?: unknown }): boolean => textOf(cause, "code") === "25006"

/** Whether another row has the same unique key. */
export const isUniqueViolation = ({ cause }: Reason): boolean => textOf(cause, "code") === "23505"

/** Whether the table has no partition for a row. */
export const isWithoutPartition = ({ cause }: Reason): boolean =>
  textOf(cause, "code") === "23514" && textOf(cause, "routine") === "ExecFindPartition"

/** Whether the statement has waited for a lock for as long as `lock_timeout` says. */
export const isLockTimeout = ({ cause }: Reason): boolean => textOf(cause, "code") === "55P03"

/** Whether the server has ended the transaction, because it and others waited for each other. */
export const isDeadlock = ({ cause }: Reason): boolean => textOf(cause, "code") === "40P01"

/** Whether a text would have more than the gigabyte that the server can make. */
export const isTextTooLong = ({ cause }: Reason): boolean => textOf(cause, "code") === "54000"

/** Whether a NOTIFY of the statement, or of a trigger, was refused: the channel's name or the payload is too long. */
export const isNotifyRefusal = ({ cause }: Reason): boolean =>
  textOf(cause, "code") === "22023" && textOf(cause, "routine") === "Async_Notify"

/**
 * Whether the server has refused the statement, has done nothing of it, and may accept a part of it. A statement that ran
 * out of time, or lost against another transaction, was not refused: its parts would fail in the same way.
 */
export const isRefusal = ({ cause, isRetryable }: Reason): boolean =>
  !isRetryable && textOf(cause, "code") !== undefined
