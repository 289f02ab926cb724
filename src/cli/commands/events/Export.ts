/** `strata events export`: the log as a file of JSON lines. */
import { Effect, Option, Schema, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import type { FileHandle } from "node:fs/promises"
import * as LastSeen from "../../../events/LastSeen.ts"
import { decodeRows } from "../../../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import { longestBytes } from "../../../postgres/database/RowSize.ts"
import { tooLargeRow } from "../../../postgres/events/EventRow.ts"
import * as EventTable from "../../../postgres/events/EventTable.ts"
import { columnsOfPart, type Part, readPage } from "../../../postgres/events/LongTexts.ts"
import * as PageSize from "../../../postgres/events/PageSize.ts"
import * as Settling from "../../../postgres/events/Settling.ts"
import * as TagTable from "../../../postgres/events/TagTable.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import { CommandFailed, WrongUsage } from "../../terminal/CommandErrors.ts"
import type { HostProcess } from "../../terminal/HostProcess.ts"
import * as Output from "../../terminal/Output.ts"
import * as Progress from "../../terminal/Progress.ts"
import * as EventFile from "../../transfer/EventFile.ts"
import { bytesOfOpen, fileError, type FileError } from "../../transfer/Lines.ts"
import { openToAppend } from "../../transfer/NewFile.ts"

/** How many events a page has at most. They are fewer if they are large. */
const largestPage = 1024

const microseconds = `to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "createdAtText"`

/** A page of the log: the events above `after`, up to `last`, and how many the next page is to have. */
const pageAfter = Effect.fnUntraced(function* (after: bigint, last: bigint, limit: number) {
  const { names, query, schema, sql, tables } = yield* PostgresDatabase
  const tags = TagTable.tableOf({ names, schema, sql })
  const page = (part: Part) => {
    const { read, sent } = columnsOfPart(part, PageSize.shareBytes(limit, longestBytes(sql)))
    const only = typeof part === "bigint" ? sql`AND version = ${part}` : sql.literal("")
    return sql`
      SELECT ${sql.literal(sent)}, "createdAtText", (
        SELECT pg_catalog.array_agg(tag ORDER BY tag) FROM ${tags} WHERE version + 0 = page.version AND tag <> ''::text
      ) AS tags FROM (
        SELECT ${sql.literal(read)}, ${sql.literal(microseconds)} FROM ${tables.events}
        WHERE version > ${after} AND version <= ${last} ${only} ORDER BY version LIMIT ${limit}
      ) AS page ORDER BY version`
  }
  const found = yield* readPage(query, page)
  const { isFull, nextLimit, rows } = PageSize.pageOf(found, limit, largestPage)
  const corrupt = tooLargeRow(names.events, rows[0])
  if (corrupt !== undefined) return yield* corrupt
  // The events before such a row are exported first; the next page fails.
  const fine = rows.filter((row) => tooLargeRow(names.events, row) === undefined)
  return { isFull, nextLimit, rows: yield* decodeRows(EventFile.Row, names.events, ["version"])(fine) }
})

const Count = Schema.Struct({ count: Schema.Int })

const countAfter = Effect.fnUntraced(function* (after: bigint) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`SELECT count(*)::float8 AS count FROM ${tables.events} WHERE version > ${after}`)
  const [row] = yield* decodeRows(Count, names.events, [])(rows)
  return row?.count ?? 0
})

/** The pages of the log from a version on, up to the last version that is settled. */
const settledPages = Effect.fnUntraced(function* (after: bigint) {
  const { marks } = yield* Settling.make
  let from = after
  return Stream.flatMap(marks(LastSeen.of(after)), ({ version: mark }) =>
    Stream.paginate({ after: from, limit: largestPage }, ({ after, limit }) =>
      Effect.map(pageAfter(after, mark, limit), ({ isFull, nextLimit, rows }) => {
        from = mark
        const next = { after: rows.at(-1)?.version ?? after, limit: nextLimit }
        return [rows.length === 0 ? [] : [rows], isFull ? Option.some(next) : Option.none()] as const
      })
    )
  )
})

/** Where the events go, and what is there already. */
interface Target {
  readonly write: (text: string) => Effect.Effect<void, Output.OutputClosed | FileError, HostProcess>
  /** Makes sure that what was written stays. */
  readonly finish: Effect.Effect<void, FileError>
  readonly checksum: EventFile.Checksum
  readonly after: bigint
}

const toStdout = (after: Option.Option<bigint>): Target => ({
  write: Output.write,
  finish: Effect.void,
  checksum: new EventFile.Checksum(),
  after: Option.getOrElse(after, () => 0n)
})

/** The version of the last event in a file, once it is certain that this log has the same event. */
const lastVersionOf = Effect.fnUntraced(function* (path: string, lastEvent: string) {
  const { sql } = yield* PostgresDatabase
  const last = EventFile.entryOf(`the last line of ${path}`, lastEvent, { maxBytes: longestBytes(sql) })
  if (last instanceof CommandFailed) return yield* last
  const version = BigInt(last.from ?? "0")
  const [stored] = (yield* pageAfter(version - 1n, version, 1)).rows
  if (stored?.id !== last.id) {
    return yield* new CommandFailed({
      message: `${path} is of another log: its last event, version ${version}, is not in this one`
    })
  }
  return version
})

/**
 * Opens a file to append to it. A file that has events already, complete or not, is cut after its last whole event, and goes
 * on from there.
 */
const toFile = Effect.fnUntraced(function* (path: string, after: Option.Option<bigint>) {
  const attempt = <A>(f: () => Promise<A>) => Effect.tryPromise({ try: f, catch: (cause) => fileError(path, cause) })
  const targetOf = (file: FileHandle, checksum: EventFile.Checksum, after: bigint): Target => ({
    write: (text) => attempt(() => file.appendFile(text)),
    finish: attempt(() => file.sync()),
    checksum,
    after
  })
  const file = yield* openToAppend(path)
  const found = yield* EventFile.scan(path, bytesOfOpen(path, file))
  if (found.lastEvent === undefined && found.rest !== undefined && !EventFile.isBeginning(found.rest)) {
    return yield* new CommandFailed({ message: `${path} is there already, and is no export; name another file` })
  }
  if (found.lastEvent === undefined) {
    yield* attempt(() => file.truncate(0))
    return targetOf(
      file,
      new EventFile.Checksum(),
      Option.getOrElse(after, () => 0n)
    )
  }
  if (Option.isSome(after)) {
    return yield* new WrongUsage({
      message: `${path} has events, and goes on after the last of them; leave out --after`
    })
  }
  const version = yield* lastVersionOf(path, found.lastEvent)
  yield* attempt(() => file.truncate(found.end))
  return targetOf(file, found.checksum, version)
})

/** Writes the events and the checksum, and returns how many events were written. */
const writeLog = Effect.fnUntraced(function* ({ after, checksum, finish, write }: Target) {
  const before = checksum.events
  const pages = yield* settledPages(after)
  yield* Progress.during({ verb: "exported", total: yield* countAfter(after) }, ({ advance }) =>
    Stream.runForEach(pages, (rows) =>
      Effect.gen(function* () {
        const text = rows.map(EventFile.lineOf).join("")
        yield* write(text)
        checksum.add(text, rows.length)
        yield* advance(rows.length)
      })
    )
  )
  yield* write(checksum.line)
  yield* finish
  return checksum.events - before
})

const flags = {
  file: Argument.String("file").pipe(
    Argument.optional,
    Argument.withDescription("The file; stdout unless given. A file that has events already goes on after the last one")
  ),
  after: Parameters.version("after").pipe(Flag.optional, Flag.withDescription("Only versions above this one"))
}

export const exportEvents = Command.make("export", flags).pipe(
  Command.withDescription(
    "Writes the log as JSON lines, with a checksum at the end. Run again, it adds to the file what is new"
  ),
  Command.withExamples([
    { command: "strata events export events.jsonl", description: "To a file; run it again for what is new since" },
    { command: "strata events export | gzip > events.jsonl.gz", description: "To another program" }
  ]),
  Command.withHandler(({ after, file }) =>
    Effect.gen(function* () {
      yield* EventTable.checkAndWarn
      if (Option.isNone(file)) return void (yield* writeLog(toStdout(after)))
      const target = yield* toFile(file.value, after)
      const added = yield* writeLog(target)
      const { events } = target.checksum
      const isNew = added === events ? "" : `, ${added.toLocaleString("en-US")} of them new`
      yield* Output.done(`${Output.count(events, "event")} in ${file.value}${isNew}`, {
        file: file.value,
        events,
        added
      })
    }).pipe(Effect.scoped)
  ),
  Command.provide(Database.layer)
)
