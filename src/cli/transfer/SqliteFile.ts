/** The SQLite store of go-sync-kit: the rows of its table of events, in the order of their versions. */
import { Effect, Option, Schema, type Scope, Stream } from "effect"
import { existsSync } from "node:fs"
import type { DatabaseSync } from "node:sqlite"
import type { Entry } from "../../postgres/events/Importing.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { faultOf, isKey, type Limits, timestampOf } from "./StorableValues.ts"

const pageSize = 1000

/** The least integer that SQLite can store. */
const belowAllVersions = -(2n ** 63n)

const Row = Schema.Struct({
  version: Schema.BigInt,
  id: Schema.Unknown,
  aggregate_id: Schema.Unknown,
  event_type: Schema.Unknown,
  data: Schema.Unknown,
  metadata: Schema.Unknown,
  created_at: Schema.Unknown
})
const decodeRows = Schema.decodeUnknownSync(Schema.Array(Row))
const decodeCount = Schema.decodeUnknownSync(Schema.Struct({ count: Schema.BigInt }))

const open = (path: string): Effect.Effect<DatabaseSync, CommandFailed, Scope.Scope> =>
  Effect.gen(function* () {
    const { DatabaseSync } = yield* Effect.tryPromise({
      try: () => import("node:sqlite"),
      catch: (cause) =>
        new CommandFailed({
          message: `Node ${process.versions.node} has no SQLite; run this with Node 22.13 or later`,
          cause
        })
    })
    // SQLite would make a file that is missing.
    if (!existsSync(path)) return yield* new CommandFailed({ message: `there is no file ${path}` })
    return yield* Effect.acquireRelease(
      Effect.try({
        try: () => new DatabaseSync(path, { readOnly: true, readBigInts: true }),
        catch: (cause) => unreadable(path, cause)
      }),
      (database) => Effect.sync(() => database.close())
    )
  })

const unreadable = (path: string, cause: unknown) =>
  new CommandFailed({
    message: `${path} is no SQLite file of go-sync-kit: ${cause instanceof Error ? cause.message : String(cause)}`,
    cause
  })

/** The JSON of a column. Go writes `null` where there is no value; other programs may have left the column empty. */
const jsonOf = (value: unknown): string | undefined => {
  if (value === null) return "null"
  return typeof value === "string" ? value : undefined
}

/** The event of a row, or what is wrong with the row. */
const entryOf = (path: string, row: typeof Row.Type, limits: Limits): Entry | CommandFailed => {
  const where = `version ${row.version} of ${path}`
  const wrong = (message: string) => new CommandFailed({ message: `${where} cannot be imported: ${message}` })
  const { aggregate_id: aggregateId, event_type: eventType, id } = row
  if (!isKey(id) || !isKey(aggregateId) || !isKey(eventType)) {
    return wrong("its id, aggregate_id and event_type have to be texts of 1 to 512 characters")
  }
  const createdAt = timestampOf(row.created_at)
  if (createdAt === undefined) return wrong(`created_at is no time: ${String(row.created_at)}`)
  const data = jsonOf(row.data)
  const metadata = jsonOf(row.metadata)
  const json = `{"data":${data},"metadata":${metadata}}`
  if (data === undefined || metadata === undefined || !isJson(data) || !isJson(metadata)) {
    return wrong("data and metadata have to be JSON")
  }
  const fault = faultOf(json, () => JSON.parse(json), limits)
  if (fault !== undefined) return wrong(fault)
  return { where, from: String(row.version), id, aggregateId, eventType, createdAt, json }
}

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** How many events a file has, and the events. */
export const read = Effect.fnUntraced(function* (path: string, limits: Limits) {
  const database = yield* open(path)
  const attempt = <A>(f: () => A) => Effect.try({ try: f, catch: (cause) => unreadable(path, cause) })
  const total = yield* attempt(() =>
    Number(decodeCount(database.prepare("SELECT count(*) AS count FROM events").get()).count)
  )
  const page = yield* attempt(() =>
    database.prepare(
      `SELECT version, id, aggregate_id, event_type, data, metadata, created_at FROM events
       WHERE version > ? ORDER BY version LIMIT ${pageSize}`
    )
  )
  const entries = Stream.paginate(belowAllVersions, (after: bigint) =>
    Effect.gen(function* () {
      const rows = yield* attempt(() => decodeRows(page.all(after)))
      const found: Array<Entry> = []
      for (const row of rows) {
        const entry = entryOf(path, row, limits)
        if (entry instanceof CommandFailed) return yield* entry
        found.push(entry)
      }
      const last = rows.at(-1)
      return [found, rows.length < pageSize || last === undefined ? Option.none() : Option.some(last.version)] as const
    })
  )
  return { total, entries }
})
