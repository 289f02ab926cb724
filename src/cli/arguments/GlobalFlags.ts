/** The flags of every subcommand: which database it works on, and how it speaks. */
import { Flag, GlobalFlag } from "effect/cli"
import * as Parameters from "./Parameters.ts"

const url = GlobalFlag.Setting("url")({
  flag: Flag.Redacted("url").pipe(
    Flag.optional,
    Flag.withMetavar("postgres://..."),
    Flag.withDescription(
      "The server, or several as postgres://one,two; without it DATABASE_URL, or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD name it"
    )
  )
})

const urlFile = GlobalFlag.Setting("url-file")({
  flag: Flag.String("url-file").pipe(
    Flag.optional,
    Flag.withMetavar("FILE"),
    Flag.withDescription(
      "The file that has this URL, so that nobody sees it in the list of processes; or DATABASE_URL_FILE"
    )
  )
})

const schema = GlobalFlag.Setting("schema")({
  flag: Flag.String("schema").pipe(
    Flag.optional,
    Flag.withMetavar("NAME"),
    Flag.withDescription("The schema of the tables; without it DB_SCHEMA, or the search path of the connection")
  )
})

const pglite = GlobalFlag.Setting("pglite")({
  flag: Flag.String("pglite").pipe(
    Flag.optional,
    Flag.withMetavar("DIR"),
    Flag.withDescription("Use a Postgres inside this process, with its data in DIR, instead of a server")
  )
})

const json = GlobalFlag.Setting("json")({
  flag: Parameters.toggle("json", "Write one JSON value per line instead of a table")
})

const verbose = GlobalFlag.Setting("verbose")({
  flag: Parameters.toggle(
    "verbose",
    "Write the debug log of the stores, and an error with its causes and stack, to stderr"
  )
})

export const Settings = { url, urlFile, schema, pglite, json, verbose } as const

export const all = [url, urlFile, schema, pglite, json, verbose] as const
