import type { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, Schema, type Scope } from "effect"
import { layerClient } from "effect-strata/postgres"
import type { SqlClient, SqlError } from "effect/sql"
import { inject } from "vitest"
import { withConnection } from "./connection.ts"
import { database, uniqueName } from "./databases.ts"

const urls = inject("postgresUrls")

/** The DSN of this worker's database, on the server that all test files of a run share. */
export const postgresUrl = urls[Number(process.env["VITEST_POOL_ID"]) - 1] ?? ""

/** The schema that `layerSchema` has made. */
export class TestSchema extends Context.Service<TestSchema, { readonly name: string }>()("strata-test/TestSchema") {}

/** The client's settings, and where the schema is made. */
export interface SchemaOptions extends PgClient.PgPoolConfig {
  /** The DSN of the server on which the schema is made and dropped. Also the default of `url`. */
  readonly server?: string
}

const layerTestSchema = (server: string): Layer.Layer<TestSchema, SqlError.SqlError> =>
  Layer.effect(
    TestSchema,
    Effect.acquireRelease(
      Effect.tap(uniqueName, (name) => withConnection(server, (sql) => sql`CREATE SCHEMA ${sql(name)}`)),
      (name) => Effect.orDie(withConnection(server, (sql) => sql`DROP SCHEMA ${sql(name)} CASCADE`))
    ).pipe(Effect.map((name) => ({ name })))
  )

/**
 * A pool on a schema of its own, first in the `search_path`, which is dropped after the pool has been closed.
 *
 * **Details**
 *
 * Each call gives another layer, so another schema: build it once per test file. The schema is made and dropped on a
 * connection of its own to `server`, so that `url` can lead through a proxy.
 */
export const layerSchema = (
  options: SchemaOptions = {}
): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient | TestSchema, SqlError.SqlError> => {
  const { server = postgresUrl, ...config } = options
  return Layer.unwrap(
    TestSchema.useSync((schema) =>
      layerClient({
        url: Redacted.make(server),
        ...config,
        startupParameters: { search_path: schema.name, ...config.startupParameters }
      })
    )
  ).pipe(Layer.provideMerge(layerTestSchema(server)))
}

/** A connection as the server sees it. */
export const Backend = Schema.Struct({ pid: Schema.Int, state: Schema.String, query: Schema.String })
export type Backend = typeof Backend.Type

const readBackends = (sql: PgClient.PgClient, applicationName: string) =>
  sql`
    SELECT pid, coalesce(state, '') AS state, query
    FROM pg_stat_activity
    WHERE application_name = ${applicationName}
    ORDER BY pid
  `.pipe(Effect.flatMap(Schema.decodeUnknownEffect(Schema.Array(Backend))), Effect.catchTag("SchemaError", Effect.die))

/** The connections that the server has for an application name at this moment, for leak checks. */
export const backends = (
  applicationName: string,
  server: string = postgresUrl
): Effect.Effect<ReadonlyArray<Backend>, SqlError.SqlError> =>
  withConnection(server, (sql) => readBackends(sql, applicationName))

/**
 * Waits until the connections of an application name satisfy `until` and returns them; after a minute or more
 * returns them as they are, for the test's assertion to show.
 *
 * **Details**
 *
 * A server notices after the client that a connection has ended. It is the server that sleeps between two looks, so this
 * also works in a test whose clock stands still.
 */
export const waitForBackends = (
  applicationName: string,
  until: (backends: ReadonlyArray<Backend>) => boolean,
  server: string = postgresUrl
): Effect.Effect<ReadonlyArray<Backend>, SqlError.SqlError> =>
  withConnection(
    server,
    Effect.fnUntraced(function* (sql) {
      let found = yield* readBackends(sql, applicationName)
      for (let looks = 0; looks < 3000 && !until(found); looks++) {
        yield* sql`SELECT 1 FROM pg_sleep(0.02)`
        found = yield* readBackends(sql, applicationName)
      }
      return found
    })
  )

/** The DSN of a new, empty database, which is dropped with the scope, even if clients are still connected to it. */
export const scratchDatabase = (server: string = postgresUrl): Effect.Effect<string, SqlError.SqlError, Scope.Scope> =>
  database(server)

/** Runs `use` with the DSN of a `scratchDatabase`. */
export const withDatabase = <A, E, R>(
  use: (url: string) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | SqlError.SqlError, Exclude<R, Scope.Scope>> =>
  Effect.scoped(Effect.flatMap(scratchDatabase(), use))
