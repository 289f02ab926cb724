/** The database that a subcommand works on, as the flags and the environment name it. */
import { PgClient } from "@effect/sql-pg"
import { ConfigProvider, Effect, Layer, Option, Redacted } from "effect"
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Pglite from "../../pglite/index.ts"
import * as Postgres from "../../postgres/index.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import { CommandFailed, WrongUsage } from "../terminal/CommandErrors.ts"

const { PostgresConfig, PostgresDatabase } = Postgres

/** Connections are opened as they are needed. The proof of the doctor needs the most: its 12 writers, and a subscriber. */
const mostConnections = 20

/** The environment, with `--url` in place of DATABASE_URL, so that `PostgresConfig` is the only place that reads it. */
const settings = Effect.gen(function* () {
  const environment = yield* ConfigProvider.ConfigProvider
  const url = yield* Settings.url
  if (Option.isNone(url)) return environment
  return ConfigProvider.orElse(ConfigProvider.fromUnknown({ DATABASE_URL: Redacted.value(url.value) }), environment)
})

const server = Effect.gen(function* () {
  const pool = yield* Effect.provideService(PostgresConfig.pool, ConfigProvider.ConfigProvider, yield* settings)
  if ("host" in pool && [pool.host, pool.database, pool.username].every((part) => part === undefined)) {
    return yield* new WrongUsage({ message: "no database is named; give --url or --pglite DIR, or set DATABASE_URL" })
  }
  const maxConnections = Math.min(pool.maxConnections ?? mostConnections, mostConnections)
  // Behind a pooler in transaction mode, a statement that one connection has prepared is unknown to the next one.
  return PgClient.layer({ ...pool, maxConnections, minConnections: 1, prepare: false })
})

const embedded = Effect.fnUntraced(function* (dataDir: string, create: boolean) {
  if (Option.isSome(yield* Settings.url)) {
    return yield* new WrongUsage({ message: "--url and --pglite name two databases; give one of them" })
  }
  if (!create && !existsSync(join(dataDir, "PG_VERSION"))) {
    return yield* new CommandFailed({
      message: `there is no database in ${dataDir}; make one with: strata migrate --pglite ${dataDir}`
    })
  }
  return Pglite.layer({ dataDir })
})

/** The client of the database that the flags name. An embedded database that does not exist is made only with `create`. */
const layerClient = (create: boolean) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const dataDir = yield* Settings.pglite
      return Option.isNone(dataDir) ? yield* server : yield* embedded(dataDir.value, create)
    })
  )

/** The options of migrations that do not run unless they are asked for. */
type Extras = Pick<Postgres.Options, "notify" | "index">

const options = Effect.gen(function* () {
  const schema = yield* Settings.schema
  return { ...(yield* PostgresConfig.options), ...(Option.isNone(schema) ? {} : { schema: schema.value }) }
})

/** The names of the tables, and a way to run statements on them. The tables need not exist. */
export const layerTables = ({ create = false, ...extras }: { readonly create?: boolean } & Extras = {}) =>
  Layer.provideMerge(
    Layer.unwrap(Effect.map(options, (options) => PostgresDatabase.layer({ ...options, ...extras }))),
    layerClient(create)
  )

/** Every store, on tables that exist, and all that `layerTables` gives. */
export const layer = Layer.provideMerge(Layer.unwrap(Effect.map(options, Postgres.layerStorage)), layerTables())
