/**
 * Postgres inside the process: a `PgClient` on an embedded database, with which the layers of `effect-strata/postgres` run
 * without a server.
 *
 * ```ts
 * import { Layer } from "effect"
 * import * as Pglite from "effect-strata/pglite"
 * import * as Postgres from "effect-strata/postgres"
 *
 * export const stores = Postgres.layer().pipe(Layer.provideMerge(Pglite.layer({ dataDir: "./data" })))
 * ```
 */
import { PgClient } from "@effect/sql-pg"
import type { PGlite } from "@electric-sql/pglite"
import { Effect, type Layer, type Scope } from "effect"
import type { Reactivity } from "effect/reactivity"
import type { SqlClient, SqlError } from "effect/sql"
import * as Client from "./PgliteClient.ts"
import * as DataDir from "./PgliteDataDir.ts"
import { PgliteError } from "./PgliteError.ts"
import { PgliteSession } from "./PgliteSession.ts"

export { PgliteError } from "./PgliteError.ts"

/** How to open an embedded database: its directory, and the options of `PgClient.layer` that do not concern a network. */
export interface Options extends Client.ClientOptions {
  /**
   * The directory of the database, which is made if it does not exist. It must be empty, or hold a database of the same
   * major version of Postgres. If other users may enter it, it is closed to them. Without a directory the database is in
   * memory, and gone when the scope closes.
   */
  readonly dataDir?: string | undefined
}

/**
 * Opens a Postgres inside this process, and gives a `PgClient` on it. When the scope closes, the database is closed.
 *
 * **Details**
 *
 * It is a real Postgres (PGlite: Postgres compiled to WebAssembly), with UTC and UTF8 as its defaults, and the user and
 * database `postgres`. Statements, transactions, streams, `listen` and `notify` behave, and fail, as on a server.
 *
 * A commit that was acknowledged survives the death of this process, by SIGKILL too. It can be lost when the operating
 * system dies: PGlite never asks it to flush a file.
 *
 * **Gotchas**
 *
 * - There is one session. Statements run one after another, and transactions never interleave: the second begins when the
 *   first has ended. If a fiber waits, within its transaction, for another fiber that needs the database, both wait for
 *   ever. Session-level advisory locks exclude nobody, since all connections share the session.
 * - A statement runs on the thread of JavaScript, so that no timer and no other fiber runs meanwhile. It can neither be
 *   interrupted nor time out (`statement_timeout` has no effect).
 * - The rows of a stream are in memory all at once.
 * - A `notify` outside the transaction that is open goes out when that transaction ends.
 * - Making a database takes a second or more, opening one about 0.3 seconds, and each takes some 500 MB of memory.
 * - No background process runs: no autovacuum, so tables with many updates want a `VACUUM` now and then.
 */
export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<PgClient.PgClient, PgliteError | SqlError.SqlError, Scope.Scope | Reactivity.Reactivity> {
  const directory = options.dataDir === undefined ? undefined : yield* DataDir.open(options.dataDir)
  const pglite = yield* Effect.acquireRelease(start(directory?.path), (pglite) => Effect.promise(() => stop(pglite)))
  if (directory !== undefined) yield* directory.initialized
  const session = yield* Effect.acquireRelease(
    Effect.sync(() => new PgliteSession(pglite)),
    (session) => Effect.sync(() => session.close())
  )
  return yield* Client.make(session, options)
})

/**
 * {@link make} as a layer: one line for `PgClient.layer`, with no server to install.
 *
 * **Example**
 *
 * ```ts
 * import * as Pglite from "effect-strata/pglite"
 *
 * const Database = Pglite.layer({ dataDir: "./data" })
 * ```
 */
export const layer = (
  options?: Options
): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient, PgliteError | SqlError.SqlError> =>
  PgClient.layerFrom(make(options))

const start = (path: string | undefined): Effect.Effect<PGlite, PgliteError> =>
  Effect.gen(function* () {
    const { PGlite } = yield* Effect.tryPromise({
      try: () => import("@electric-sql/pglite"),
      catch: (cause) =>
        new PgliteError({
          reason: "Unavailable",
          dataDir: path,
          message: "PGlite cannot be loaded: is it installed? (npm install @electric-sql/pglite)",
          cause
        })
    })
    // Postgres says only in its log why it does not start.
    let log: Array<string> | undefined = []
    return yield* Effect.tryPromise({
      try: async () => {
        const pglite = await PGlite.create({
          ...(path === undefined ? undefined : { dataDir: path }),
          // Postgres keeps this much of its log after a checkpoint, however small the database is. The default is 1 GB.
          startParams: [...PGlite.defaultStartParams, "-c", "max_wal_size=128MB"],
          onStderr: (line) => {
            log?.push(line)
            return true
          }
        })
        log = undefined
        return pglite
      },
      catch: (cause) => {
        const said = (log ?? []).flatMap((line) => /\b(?:FATAL|PANIC|DETAIL|HINT):\s+(.*)/.exec(line)?.[1] ?? [])
        const problem = said.length === 0 ? (log?.at(-1) ?? String(cause)) : said.join("; ")
        return path === undefined
          ? new PgliteError({
              reason: "Unavailable",
              dataDir: path,
              message: `PGlite did not start: ${problem}`,
              cause
            })
          : DataDir.unusable(path, `holds a database that PGlite cannot open: ${problem}`, cause)
      }
    })
  })

const stop = async (pglite: PGlite): Promise<void> => {
  try {
    await pglite.close()
  } catch {
    // PGlite broke before. What was acknowledged is in its files, from which the next start recovers it.
  }
}
