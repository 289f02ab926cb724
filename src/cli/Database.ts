/** The database that a subcommand works on, as the flags and the environment name it. */
import { PgClient } from "@effect/sql-pg"
import { ConfigProvider, Effect, Layer, Option, Redacted } from "effect"
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Pglite from "../pglite/index.ts"
import * as Postgres from "../postgres/index.ts"
import { Settings } from "./arguments/GlobalFlags.ts"
import { Failed, WrongUsage } from "./terminal/Failure.ts"

const { PostgresConfig, PostgresDatabase } = Postgres

/** The environment, where `--url` takes the place of DATABASE_URL: so one place reads it. */
const settings = Effect.map(Settings.url, (url) =>
  Option.match(url, {
    onNone: () => ConfigProvider.fromEnv(),
    onSome: (url) =>
      ConfigProvider.orElse(ConfigProvider.fromUnknown({ DATABASE_URL: Redacted.value(url) }), ConfigProvider.fromEnv())
  })
)

const server = Effect.gen(function* () {
  const pool = yield* Effect.provideService(PostgresConfig.pool, ConfigProvider.ConfigProvider, yield* settings)
  if ("host" in pool && [pool.host, pool.database, pool.username].every((part) => part === undefined)) {
    return yield* new WrongUsage({ message: "no database is named; give --url or --pglite DIR, or set DATABASE_URL" })
  }
  // Opened as they are needed: the most by the proof of the doctor, which has many writers.
  const maxConnections = Math.min(pool.maxConnections ?? 20, 20)
  // A pooler in transaction mode may not know what was prepared on another connection: this is to work there, too.
  return PgClient.layer({ ...pool, maxConnections, minConnections: 1, prepare: false })
})

const embedded = Effect.fnUntraced(function* (dataDir: string, create: boolean) {
  if (Option.isSome(yield* Settings.url)) {
    return yield* new WrongUsage({ message: "--url and --pglite name two databases; give one of them" })
  }
  if (!create && !existsSync(join(dataDir, "PG_VERSION"))) {
    return yield* new Failed({
      message: `there is no database in ${dataDir}; make one with: strata migrate --pglite ${dataDir}`
    })
  }
  return Pglite.layer({ dataDir })
})

/** The client, on what the flags name. Only who may make a database makes one where there is none. */
const layerClient = (create: boolean) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const dataDir = yield* Settings.pglite
      return Option.isNone(dataDir) ? yield* server : yield* embedded(dataDir.value, create)
    })
  )

/** What only some want of the migrations. */
type Extras = Pick<Postgres.Options, "notify" | "index">

const options = Effect.gen(function* () {
  const schema = Option.getOrUndefined(yield* Settings.schema) ?? (yield* PostgresConfig.schema)
  return schema === undefined ? {} : { schema }
})

/** The names of the tables, and how to run statements on them. */
export const layerTables = ({ create = false, ...extras }: { readonly create?: boolean } & Extras = {}) =>
  Layer.provideMerge(
    Layer.unwrap(Effect.map(options, (options) => PostgresDatabase.layer({ ...options, ...extras }))),
    layerClient(create)
  )

/** Every store, on tables that are there, and all that `layerTables` gives. */
export const layer = Layer.provideMerge(Layer.unwrap(Effect.map(options, Postgres.layerStorage)), layerTables())
