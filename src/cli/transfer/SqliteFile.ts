/**
 * The SQLite store of go-sync-kit: the rows of its table of events, in the order of their versions.
 *
 * **Details**
 *
 * SQLite runs in this thread, where no signal comes through while it works, and the file may be made by somebody hostile. So
 * only a table is read, by its key and a limited number of rows at a time, and no text that is too long.
 */
import { Effect, Option, Schema, type Scope, Stream } from "effect"
import { existsSync } from "node:fs"
import type { DatabaseSync } from "node:sqlite"
import type { Entry } from "../../postgres/events/Importing.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { faultOf, isKey, type Limits, timestampOf } from "./StorableValues.ts"

const pageSize = 1000

/** How many rows are counted at a time. */
const countedRows = 10_000

/** How many characters a page has at most, unless it has only one row. */
const pageLength = 8 * 1024 * 1024

/** Of a text in a file, each character has six at most: `\u0001`. */
const escapeLength = 6

/** The least integer that SQLite can store. */
const belowAllVersions = -(2n ** 63n)

const Row = Schema.Struct({
  version: Schema.BigInt,
  id: Schema.Unknown,
  aggregate_id: Schema.Unknown,
  event_type: Schema.Unknown,
  data: Schema.Unknown,
  metadata: Schema.Unknown,
  created_at: Schema.Unknown,
  excess: Schema.NullOr(Schema.BigInt)
})
const decodeRow = Schema.decodeUnknownSync(Row)
const decodeVersions = Schema.decodeUnknownSync(Schema.Array(Schema.Struct({ version: Schema.BigInt })))

const Column = Schema.Struct({ name: Schema.String, type: Schema.String, pk: Schema.BigInt, hidden: Schema.BigInt })
const decodeColumns = Schema.decodeUnknownSync(Schema.Array(Column))
const decodeKinds = Schema.decodeUnknownSync(Schema.Array(Schema.Struct({ type: Schema.String })))

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
        try: () => {
          const database = new DatabaseSync(path, { readOnly: true, readBigInts: true, defensive: true })
          // What the file itself defines may call no function that has effects, and its pages are checked.
          database.exec("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0")
          return database
        },
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

/** Ends an attempt. */
const refuse = (message: string): never => {
  throw new Error(message)
}

/** Fails unless `events` is a table that has its rows by their version: a view could have any number, of anything. */
const checkTable = (database: DatabaseSync): void => {
  const kinds = decodeKinds(
    database.prepare("SELECT type FROM pragma_table_list('events') WHERE schema = 'main'").all()
  )
  if (kinds[0] === undefined) refuse("no such table: events")
  if (kinds.length !== 1 || kinds[0]?.type !== "table") refuse("events is no table")
  const columns = decodeColumns(database.prepare("PRAGMA main.table_xinfo(events)").all())
  const [key, ...others] = columns.filter(({ pk }) => pk !== 0n)
  if (key?.name !== "version" || key.type.toUpperCase() !== "INTEGER" || others.length > 0) {
    refuse('the key of events is not "version"')
  }
  if (columns.some(({ hidden }) => hidden !== 0n)) refuse("a column of events is computed")
}

/** The JSON of a column. Go writes `null` where there is no value; other programs may have left the column empty. */
const jsonOf = (value: unknown): string | undefined => {
  if (value === null) return "null"
  return typeof value === "string" ? value : undefined
}

/** The event of a row, or what is wrong with the row. A text that is too long has not been read. */
const entryOf = (path: string, row: typeof Row.Type, limits: Limits): Entry | CommandFailed => {
  const where = `version ${row.version} of ${path}`
  const wrong = (message: string) => new CommandFailed({ message: `${where} cannot be imported: ${message}` })
  const { aggregate_id: aggregateId, event_type: eventType, id } = row
  if (row.excess !== null) return wrong(`it has ${row.excess} bytes, more than can be stored`)
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
  return { where, from: String(row.version), id, aggregateId, eventType, createdAt, tags: [], json }
}

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

type Attempt = <A>(f: () => A) => Effect.Effect<A, CommandFailed>

const outOfOrder = "its rows are not in the order of their versions: the file is damaged"

/** How many rows there are. Between the parts signals come through. */
const countRows = Effect.fnUntraced(function* (database: DatabaseSync, attempt: Attempt) {
  const part = yield* attempt(() =>
    database.prepare(
      `SELECT version FROM main.events NOT INDEXED WHERE version > ? ORDER BY version LIMIT ${countedRows}`
    )
  )
  let total = 0
  let after = belowAllVersions
  while (true) {
    const rows = yield* attempt(() => decodeVersions(part.all(after)))
    total += rows.length
    const last = rows.at(-1)?.version
    if (last === undefined || rows.length < countedRows) return total
    if (last <= after) return yield* attempt(() => refuse(outOfOrder))
    after = last
    yield* Effect.sleep(0)
  }
})

const texts = ["id", "aggregate_id", "event_type", "data", "metadata", "created_at"]

/** A row whose texts have more than so many bytes has none of them, and how many they are. */
const selectRows = (maxBytes: number) => `
  SELECT version, ${texts.map((name) => `iif(bytes > ${maxBytes}, NULL, ${name}) AS ${name}`).join(", ")},
    iif(bytes > ${maxBytes}, bytes, NULL) AS excess
  FROM (
    SELECT version, ${texts.join(", ")}, ${texts.map((name) => `coalesce(octet_length(${name}), 0)`).join(" + ")} AS bytes
    FROM main.events NOT INDEXED WHERE version > ? ORDER BY version LIMIT ${pageSize}
  )`

/** How many events a file has, and the events. */
export const read = Effect.fnUntraced(function* (path: string, limits: Limits) {
  const database = yield* open(path)
  const attempt: Attempt = (f) => Effect.try({ try: f, catch: (cause) => unreadable(path, cause) })
  yield* attempt(() => checkTable(database))
  const total = yield* countRows(database, attempt)
  const page = yield* attempt(() => database.prepare(selectRows(limits.maxBytes * escapeLength)))
  const pageAfter = (after: bigint) => {
    const rows: Array<typeof Row.Type> = []
    let length = 0
    for (const found of page.iterate(after)) {
      const row = decodeRow(found)
      if (row.version <= (rows.at(-1)?.version ?? after)) refuse(outOfOrder)
      rows.push(row)
      length += [row.data, row.metadata].reduce<number>((sum, text) => sum + String(text ?? "").length, 0)
      if (length > pageLength) break
    }
    return { rows, isFull: rows.length === pageSize || length > pageLength }
  }
  const entries = Stream.paginate(belowAllVersions, (after: bigint) =>
    Effect.gen(function* () {
      const { isFull, rows } = yield* attempt(() => pageAfter(after))
      const found: Array<Entry> = []
      for (const row of rows) {
        const entry = entryOf(path, row, limits)
        if (entry instanceof CommandFailed) return yield* entry
        found.push(entry)
      }
      const last = rows.at(-1)
      return [found, isFull && last !== undefined ? Option.some(last.version) : Option.none()] as const
    })
  )
  return { total, entries }
})
