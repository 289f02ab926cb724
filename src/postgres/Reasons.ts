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
} from "../StoreError.ts"

/** The text of a property, on one line. */
const textOf = (value: unknown, property: string): string | undefined => {
  const text = Predicate.hasProperty(value, property) ? value[property] : undefined
  return typeof text === "string" && text !== "" ? text.replaceAll(/\s+/g, " ") : undefined
}

/** A host with several addresses is refused by each of them, in an error that has no message of its own. */
const messageOf = (cause: unknown): string | undefined =>
  textOf(cause, "message") ?? (cause instanceof AggregateError ? textOf(cause.errors[0], "message") : undefined)

const migrate =
  "run the migrations: provide Postgres.layer or Postgres.layerMigrations, or psql -f the files of resources/postgres"

const timeout = (detail: string, cause: unknown) =>
  new Timeout({ detail: `a time limit of the server ran out: ${detail}; call again, or raise the limit`, cause })

/** By SQLSTATE, where the driver's own classes are too coarse; a key of two characters is a whole class. */
const bySqlState: Readonly<Record<string, (detail: string, cause: unknown) => Reason>> = {
  "25006": (detail, cause) =>
    new Denied({ detail: `the server or the session is read-only: ${detail}; connect to one that can write`, cause }),
  "25P02": (_, cause) =>
    new Unexpected({ detail: "an earlier error ended this transaction; roll it back and start again", cause }),
  "25P03": timeout,
  "25P04": timeout,
  "3D000": (detail, cause) => new SchemaMissing({ detail: `${detail}: create it, or connect to another one`, cause }),
  "3F000": (detail, cause) => new SchemaMissing({ detail: `${detail}: ${migrate}`, cause }),
  "42P01": (detail, cause) => new SchemaMissing({ detail: `${detail}: ${migrate}`, cause }),
  "42703": (detail, cause) => new SchemaMissing({ detail: `${detail}: ${migrate}`, cause }),
  "53": (detail, cause) =>
    new Unavailable({ detail: `the server is out of resources: ${detail}; call again once it has some`, cause }),
  "53300": (detail, cause) =>
    new Unavailable({ detail: `${detail}; use smaller pools, or raise the server's limit`, cause }),
  "57P": (detail, cause) =>
    new Unavailable({ detail: `the server closed the connection: ${detail}; call again once it is back`, cause })
}

/** What the error means. */
export const reasonOf = ({ reason }: SqlError.SqlError): Reason => {
  if (isReason(reason.cause)) return reason.cause
  const { cause } = reason
  const code = textOf(cause, "code") ?? ""
  const detail = messageOf(cause) ?? reason.message
  const known = bySqlState[code] ?? bySqlState[code.slice(0, 3)] ?? bySqlState[code.slice(0, 2)]
  if (known !== undefined) return known(detail, cause)
  switch (reason._tag) {
    case "ConnectionError":
      return new Unavailable({
        detail: `no connection to the server: ${detail}; check that it runs and can be reached`,
        cause
      })
    case "AuthenticationError":
      return new Denied({ detail: `the server refuses the login: ${detail}; check the user and the password`, cause })
    case "AuthorizationError":
      return new Denied({ detail: `${detail}: grant it to the role of this connection`, cause })
    case "DeadlockError":
    case "SerializationError":
    case "LockTimeoutError":
      return new Contention({
        detail: `lost against a concurrent transaction: ${detail}; run the transaction again`,
        cause
      })
    case "StatementTimeoutError":
      return timeout(detail, cause)
    default:
      return new Unexpected({ detail, cause })
  }
}
