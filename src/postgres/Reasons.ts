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

const textOf = (value: unknown, property: string): string | undefined => {
  const text = Predicate.hasProperty(value, property) ? value[property] : undefined
  return typeof text === "string" ? text : undefined
}

const migrate =
  "run the migrations: provide Postgres.layer or Postgres.layerMigrations, or psql -f the files of resources/postgres"

/** By SQLSTATE, where the driver's own classes are too coarse; a key of two characters is a whole class. */
const bySqlState: Readonly<Record<string, (detail: string, cause: unknown) => Reason>> = {
  "25006": (detail, cause) => new Denied({ detail: `${detail}: the server or the session is read-only`, cause }),
  "25P02": (_, cause) =>
    new Unexpected({ detail: "an earlier error ended this transaction; roll it back and start again", cause }),
  "25P03": (detail, cause) => new Timeout({ detail, cause }),
  "25P04": (detail, cause) => new Timeout({ detail, cause }),
  "3D000": (detail, cause) => new SchemaMissing({ detail: `${detail}: create it, or connect to another one`, cause }),
  "3F000": (detail, cause) => new SchemaMissing({ detail: `${detail}: ${migrate}`, cause }),
  "42P01": (detail, cause) => new SchemaMissing({ detail: `${detail}: ${migrate}`, cause }),
  "42703": (detail, cause) => new SchemaMissing({ detail: `${detail}: ${migrate}`, cause }),
  "53": (detail, cause) => new Unavailable({ detail: `the server is out of resources: ${detail}`, cause }),
  "57P": (detail, cause) => new Unavailable({ detail: `the server closed the connection: ${detail}`, cause })
}

/**
 * The cause that an error may carry around: without the connection URL, which the parser's error for a malformed one
 * repeats with its password.
 */
const withoutSecrets = (cause: unknown): unknown =>
  Predicate.hasProperty(cause, "input") ? new Error("Invalid connection URL") : cause

/** What the error means. */
export const reasonOf = ({ reason }: SqlError.SqlError): Reason => {
  if (isReason(reason.cause)) return reason.cause
  const cause = withoutSecrets(reason.cause)
  const code = textOf(cause, "code") ?? ""
  const detail = textOf(cause, "message") ?? reason.message
  const known = bySqlState[code] ?? bySqlState[code.slice(0, 3)] ?? bySqlState[code.slice(0, 2)]
  if (known !== undefined) return known(detail, cause)
  switch (reason._tag) {
    case "ConnectionError":
      return new Unavailable({ detail: `no connection to the server: ${detail}`, cause })
    case "AuthenticationError":
      return new Denied({ detail: `the server refuses the login: ${detail}`, cause })
    case "AuthorizationError":
      return new Denied({ detail: `${detail}: grant it to the role of this connection`, cause })
    case "DeadlockError":
    case "SerializationError":
    case "LockTimeoutError":
      return new Contention({ detail: `lost against a concurrent transaction: ${detail}`, cause })
    case "StatementTimeoutError":
      return new Timeout({ detail, cause })
    default:
      return new Unexpected({ detail, cause })
  }
}
