/** The log as rows for `EventLines`, in its order: what is archived of it, and then what the table has. */
import { Effect, Option, Schema, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import * as LastSeen from "../../events/LastSeen.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import { Row } from "./EventLines.ts"
import { tooLargeRow } from "./EventRow.ts"
import { columnsOfPart, type Part, readPage } from "./LongTexts.ts"
import * as PageSize from "./PageSize.ts"
import * as Partitions from "./Partitions.ts"
import * as Settling from "./Settling.ts"
import * as TagTable from "./TagTable.ts"

/** How many events a page has at most. They are fewer if they are large. */
const largestPage = 1024

/** `to_char` gives nothing for infinity. */
const microseconds = `CASE WHEN isfinite(created_at) THEN to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    ELSE created_at::text END AS "createdAtText"`

/** A page of the log: the events above `after`, up to `last`, and how many the next page is to have. */
const pageAfter = Effect.fnUntraced(function* (after: bigint, last: bigint, limit: number, guard?: Fragment) {
  const database = yield* PostgresDatabase
  const { names, query, sql, tables } = database
  const { limitOf } = yield* Partitions.make
  const archived = ArchivedEnd.make(database)
  const tags = TagTable.tableOf(database)
  const page = (part: Part) => {
    const { read, sent } = columnsOfPart(part, PageSize.shareBytes(limit, longestBytes(sql)))
    const only = typeof part === "bigint" ? sql`AND version = ${part}` : sql.literal("")
    return sql`
      SELECT ${sql.literal(sent)}, "createdAtText", (
        SELECT pg_catalog.array_agg(tag ORDER BY tag) FROM ${tags} WHERE version + 0 = page.version AND tag <> ''::text
      ) AS tags FROM (
        SELECT ${sql.literal(read)}, ${sql.literal(microseconds)} FROM ${tables.events}
        WHERE version > ${after} AND version <= ${last} ${only} ${guard === undefined ? sql.literal("") : sql`AND ${guard}`}
        ORDER BY version LIMIT ${limitOf(limit)}
      ) AS page ORDER BY version`
  }
  const { end, rows: found } =
    guard === undefined
      ? { rows: yield* readPage(query, page), end: 0n }
      : yield* ArchivedEnd.again(
          Effect.flatMap(
            readPage(query, (part) => archived.withEnd(page(part))),
            archived.split
          )
        )
  const { isFull, nextLimit, rows } = PageSize.pageOf(found, limit, largestPage)
  const corrupt = tooLargeRow(names.events, rows[0])
  if (corrupt !== undefined) return yield* corrupt
  // The events before such a row are exported first; the next page fails.
  const fine = rows.filter((row) => tooLargeRow(names.events, row) === undefined)
  return { isFull, nextLimit, end, rows: yield* decodeRows(Row, names.events, ["version"])(fine) }
})

/** The events of the table above `after`, up to `last`, in pages. */
export const pagesUpTo = (after: bigint, last: bigint) =>
  Stream.paginate({ after, limit: largestPage }, ({ after, limit }) =>
    Effect.map(pageAfter(after, last, limit), ({ isFull, nextLimit, rows }) => {
      const next = { after: rows.at(-1)?.version ?? after, limit: nextLimit }
      return [rows.length === 0 ? [] : [rows], isFull ? Option.some(next) : Option.none()] as const
    })
  )

type Rows = ReadonlyArray<typeof Row.Type>

const Tags = Schema.Struct({ version: Schema.BigInt, tags: Schema.Array(Schema.String) })

/** The rows of a page of a file with the tags that they have now: archived events can have got some. */
const withTags = Effect.fnUntraced(function* (rows: Rows) {
  const database = yield* PostgresDatabase
  const { names, query, sql } = database
  const found = yield* Effect.flatMap(
    query(sql`
      SELECT version, pg_catalog.array_agg(tag ORDER BY tag) AS tags FROM ${TagTable.tableOf(database)}
      WHERE version + 0 >= ${rows[0]?.version ?? 0n} AND version + 0 <= ${rows.at(-1)?.version ?? 0n} AND tag <> ''::text
      GROUP BY version`),
    decodeRows(Tags, TagTable.nameOf({ names }), ["version"])
  )
  const tags = new Map(found.map(({ tags, version }) => [version, tags]))
  return rows.map((row) => ({ ...row, tags: tags.get(row.version) ?? null }))
})

/** All events above `after`, up to `last`, in pages: those that are archived, too. */
const allUpTo = (after: bigint, last: bigint): Stream.Stream<Rows, Reason, PostgresDatabase> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const database = yield* PostgresDatabase
      const { read: readLog } = yield* Partitions.make
      const archive = yield* ArchivedEvents.make
      const { end } = ArchivedEnd.make(database)

      const here = Effect.provideService(PostgresDatabase, database)
      const pageOfLog = (after: bigint, limit: number) =>
        readLog({
          ofPlainTable: () => here(pageAfter(after, last, limit)),
          ofPartitions: () => here(pageAfter(after, last, limit, database.sql`${end} <= ${after + 1n}`))
        })

      const table = (after: bigint, goOn: (next: bigint) => void) =>
        Stream.paginate({ after, limit: largestPage }, ({ after, limit }) =>
          Effect.map(pageOfLog(after, limit), (page) => {
            if (page.end > after + 1n) goOn(after)
            const next = { after: page.rows.at(-1)?.version ?? after, limit: page.nextLimit }
            return [page.rows.length === 0 ? [] : [page.rows], page.isFull ? Option.some(next) : Option.none()] as const
          })
        )

      const files = (after: bigint, goOn: (next: bigint) => void) =>
        Stream.unwrap(
          Effect.map(archive.partAfter(after), (part): Stream.Stream<Rows, Reason, PostgresDatabase> => {
            goOn(after)
            if (part === undefined) return Stream.empty
            const rows = archive.rowsAfter(part, after).pipe(
              Stream.map((rows) => rows.filter(({ version }) => version <= last)),
              Stream.filter((rows) => rows.length > 0),
              Stream.mapEffect(withTags),
              Stream.tap((rows) => Effect.sync(() => goOn(rows.at(-1)?.version ?? after)))
            )
            const toEnd = Stream.onEnd(
              rows,
              Effect.sync(() => goOn(part.endVersion - 1n))
            )
            return Stream.catchTag(toEnd, "Moved", () => Stream.empty)
          })
        )

      return ArchivedEnd.inTurns(after, { table, files })
    })
  )

/** The event with a version, if there is one. */
export const rowsAt = (version: bigint) =>
  Effect.map(Stream.runCollect(allUpTo(version - 1n, version)), (pages) => pages.flat())

const Count = Schema.Struct({ count: Schema.Int })

/** How many events there are above a version, without those of an archived part that begins below it. */
export const countAfter = Effect.fnUntraced(function* (after: bigint) {
  const database = yield* PostgresDatabase
  const { names, query, sql, tables } = database
  const { archives } = ArchiveTable.tablesOf(database)
  const { isPartitioned } = yield* Partitions.make
  const archived = (yield* isPartitioned)
    ? sql`+ coalesce((SELECT sum(events)::float8 FROM ${archives} WHERE first_version > ${after}), 0::float8)`
    : sql.literal("")
  const rows = yield* query(
    sql`SELECT count(*)::float8 ${archived} AS count FROM ${tables.events} WHERE version > ${after}`
  )
  const [row] = yield* decodeRows(Count, names.events, [])(rows)
  return row?.count ?? 0
})

/** The pages of the log from a version on, up to the last version that is settled. */
export const settledPages = Effect.fnUntraced(function* (after: bigint) {
  const { marks } = yield* Settling.make
  let from = after
  return Stream.flatMap(marks(LastSeen.of(after)), ({ version: mark }) => {
    const pages = allUpTo(from, mark)
    from = mark
    return pages
  })
})
