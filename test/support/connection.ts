import { PgClient } from "@effect/sql-pg"
import { Effect, Redacted, Schema, type Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import type { SqlError } from "effect/sql"

/** The application name under which the test support itself connects. */
export const supportApplicationName = "strata-test-support"

/** How long the test support waits for a connection: a busy machine takes longer than the 5 seconds of the driver. */
export const connectTimeout = "2 minutes"

/** One connection of its own for the duration of `use`. */
export const withConnection = <A, E, R>(
  url: string,
  use: (sql: PgClient.PgClient) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | SqlError.SqlError, Exclude<R, Scope.Scope>> =>
  PgClient.makeClient({
    url: Redacted.make(url),
    applicationName: supportApplicationName,
    connectTimeout,
    // A test that leaves locks behind shall fail in its clean-up, not hang there.
    startupParameters: { lock_timeout: "30s" }
  }).pipe(Effect.provide(Reactivity.layer), Effect.flatMap(use), Effect.scoped)

/** Runs statements one by one, on one connection. */
export const execute = (url: string, statements: ReadonlyArray<string>) =>
  withConnection(url, (sql) =>
    Effect.forEach(statements, (statement) => sql.unsafe(statement).unprepared, { discard: true })
  )

const Version = Schema.Array(Schema.Struct({ version: Schema.String }))

/** The version of the server behind a DSN, such as `18.4`; fails if it does not answer. */
export const serverVersion = (url: string): Effect.Effect<string, SqlError.SqlError | Schema.SchemaError> =>
  withConnection(url, (sql) => sql`SELECT current_setting('server_version') AS version`).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Version)),
    Effect.map((rows) => rows.map((row) => row.version.split(" ")[0]).join())
  )
