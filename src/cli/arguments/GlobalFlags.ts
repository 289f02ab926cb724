/** What every subcommand can be told: where the database is, and how to speak. */
import { Flag, GlobalFlag } from "effect/cli"

const url = GlobalFlag.Setting("url")({
  flag: Flag.Redacted("url").pipe(
    Flag.optional,
    Flag.withMetavar("postgres://..."),
    Flag.withDescription("The server; else DATABASE_URL, or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD")
  )
})

const schema = GlobalFlag.Setting("schema")({
  flag: Flag.String("schema").pipe(
    Flag.optional,
    Flag.withMetavar("NAME"),
    Flag.withDescription("The schema of the tables; else DB_SCHEMA, or where the search path finds them")
  )
})

const pglite = GlobalFlag.Setting("pglite")({
  flag: Flag.String("pglite").pipe(
    Flag.optional,
    Flag.withMetavar("DIR"),
    Flag.withDescription("A Postgres inside this process, with its data in DIR, instead of a server")
  )
})

const json = GlobalFlag.Setting("json")({
  flag: Flag.Boolean("json").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("One JSON value per line instead of a table")
  )
})

const verbose = GlobalFlag.Setting("verbose")({
  flag: Flag.Boolean("verbose").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("More of what happens, and the whole of an error")
  )
})

export const Settings = { url, schema, pglite, json, verbose } as const

export const all = [url, schema, pglite, json, verbose] as const
