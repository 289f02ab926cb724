/** The database that a subcommand works on, as the flags and the environment name it. */
import { PgClient } from "@effect/sql-pg"
import { Config, ConfigProvider, Effect, Layer, Option, Redacted, Schema, SchemaIssue } from "effect"
import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Pglite from "../../pglite/index.ts"
import * as ConnectionConfig from "../../postgres/connecting/ConnectionConfig.ts"
import * as Postgres from "../../postgres/index.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import { CommandFailed, WrongUsage } from "../terminal/CommandErrors.ts"

const { PostgresConfig, PostgresDatabase } = Postgres

/** Connections are opened as they are needed. The proof of the doctor needs the most: its 12 writers, and a subscriber. */
const mostConnections = 20

/** The file that has the URL, if one is named, and what names it. */
const urlFile = Effect.gen(function* () {
  const named = yield* Settings.urlFile
  return Option.isSome(named)
    ? Option.some({ name: "--url-file", path: named.value })
    : Option.map(yield* Config.option(Config.String("DATABASE_URL_FILE")), (path) => ({
        name: "DATABASE_URL_FILE",
        path
      }))
})

const readUrl = (path: string) =>
  Effect.map(
    Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => new CommandFailed({ message: cause instanceof Error ? cause.message : String(cause), cause })
    }),
    (text) => text.trim()
  )

/**
 * The URL of `--url` or of a file, and what gives it. An argument is in the list of processes, which all users of the machine can
 * see.
 */
const givenUrl = Effect.gen(function* () {
  const url = yield* Settings.url
  if (Option.isNone(url)) {
    const file = yield* urlFile
    return Option.isNone(file)
      ? Option.none()
      : Option.some({ name: file.value.name, text: yield* readUrl(file.value.path) })
  }
  if (Option.isSome(yield* Settings.urlFile)) {
    return yield* new WrongUsage({ message: "--url and --url-file name two databases; give one of them" })
  }
  const text = Redacted.value(url.value)
  if (URL.canParse(text) && new URL(text).password !== "") {
    yield* Effect.logWarning(
      "everybody on this machine can see the password of --url; use --url-file, DATABASE_URL or DATABASE_URL_FILE instead"
    )
  }
  return Option.some({ name: "--url", text })
})

/** The refusal of a URL, with the name of what gave it. */
const refusalOf = (name: string) => (error: Config.ConfigError) => {
  if (!Schema.isSchemaError(error.cause)) return error
  const { issue } = error.cause
  if (issue._tag !== "Pointer" || issue.path[0] !== "DATABASE_URL") return error
  return new Config.ConfigError(
    new Schema.SchemaError(new SchemaIssue.Pointer([name, ...issue.path.slice(1)], issue.issue))
  )
}

/**
 * What the environment says, with the given URL in place of DATABASE_URL, so that `PostgresConfig` is the only place that reads
 * it.
 */
const settings = Effect.gen(function* () {
  const read = Effect.all({ isNamed: ConnectionConfig.isNamed, pool: PostgresConfig.pool })
  const environment = yield* ConfigProvider.ConfigProvider
  const url = yield* givenUrl
  if (Option.isNone(url)) return yield* read
  const { name, text } = url.value
  return yield* Effect.provideService(
    Effect.mapError(read, refusalOf(name)),
    ConfigProvider.ConfigProvider,
    ConfigProvider.orElse(ConfigProvider.fromUnknown({ DATABASE_URL: text }), environment)
  )
})

const server = Effect.gen(function* () {
  const { isNamed, pool } = yield* settings
  if (!isNamed) {
    return yield* new WrongUsage({ message: "no database is named; give --url or --pglite DIR, or set DATABASE_URL" })
  }
  const maxConnections = Math.min(pool.maxConnections ?? mostConnections, mostConnections)
  // Behind a pooler in transaction mode, a statement that one connection has prepared is unknown to the next one.
  return PgClient.layer({ ...pool, maxConnections, minConnections: 1, prepare: false })
})

const embedded = Effect.fnUntraced(function* (dataDir: string, create: boolean) {
  const url = Option.isSome(yield* Settings.url) ? "--url" : Option.isSome(yield* Settings.urlFile) ? "--url-file" : ""
  if (url !== "") {
    return yield* new WrongUsage({ message: `${url} and --pglite name two databases; give one of them` })
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

/** The options of migrations. */
type Extras = Pick<Postgres.Options, "notify" | "index" | "layout" | "owners" | "partitions">

const options = Effect.gen(function* () {
  const schema = Option.getOrUndefined(yield* Settings.schema)
  const { listen, ...options } = yield* PostgresConfig.options
  // It belongs to the server of the environment, and to no other.
  const isNamed = Option.isSome(yield* Settings.url) || Option.isSome(yield* Settings.pglite)
  return {
    ...options,
    ...(schema === undefined ? {} : { schema }),
    ...(listen === undefined || isNamed ? {} : { listen })
  }
})

/** The names of the tables, and a way to run statements on them. The tables need not exist. */
export const layerTables = ({ create = false, ...extras }: { readonly create?: boolean } & Extras = {}) =>
  Layer.provideMerge(
    Layer.unwrap(Effect.map(options, (options) => PostgresDatabase.layer({ ...options, ...extras }))),
    layerClient(create)
  )

/**
 * Every store, on tables that exist, all that `layerTables` gives, and the archive that is set. Integers beyond 2^53 are shown, and
 * taken.
 */
export const layerStores = (extras: Extras = {}) =>
  Layer.provideMerge(
    Layer.unwrap(Effect.map(options, (options) => Postgres.layerStorage({ ...options, largeIntegers: "bigint" }))),
    Layer.merge(layerTables(extras), Postgres.layerArchiveConfig)
  )

/** The same, as nearly every subcommand needs it. */
export const layer = layerStores()
