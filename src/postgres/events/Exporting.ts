/**
 * The log as lines of JSON: an event in each, in the order of the log, and a checksum at their end.
 *
 * **Details**
 *
 * JSON goes from `jsonb` to text as the server writes it, so that numbers which JavaScript would round survive, as well as the
 * microseconds of a time.
 */
import { Effect, Option, Schema, Stream } from "effect"
import { createHash, type Hash } from "node:crypto"
import * as LastSeen from "../../events/LastSeen.ts"
import { printableJson } from "../../internal/PrintableJson.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import { tooLargeRow } from "./EventRow.ts"
import { columnsOfPart, type Part, readPage } from "./LongTexts.ts"
import * as PageSize from "./PageSize.ts"
import * as Settling from "./Settling.ts"
import * as TagTable from "./TagTable.ts"

/** A row of the log, its JSON as text. */
export const Row = Schema.Struct({
  version: Schema.BigInt,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  data: Schema.NullOr(Schema.String),
  metadata: Schema.NullOr(Schema.String),
  createdAtText: Schema.NullOr(Schema.String),
  tags: Schema.NullOr(Schema.Array(Schema.String))
})

/** The line of an event. It may end on a terminal, so that nothing in it is a control character. */
export const lineOf = (row: typeof Row.Type): string => {
  const { aggregateId, createdAtText: createdAt, data, eventType, id, metadata, tags, version } = row
  const parts = { version: String(version), id, aggregateId, eventType, createdAt, ...(tags === null ? {} : { tags }) }
  return printableJson(`${JSON.stringify(parts).slice(0, -1)},"data":${data},"metadata":${metadata}}\n`)
}

/** Counts and hashes the lines of events, and makes the last line of them. */
export class Checksum {
  events = 0
  readonly hash: Hash

  constructor() {
    this.hash = createHash("sha256")
  }

  add(lines: string, count: number): void {
    this.hash.update(lines)
    this.events += count
  }

  /** The SHA-256 of the lines that were added. */
  get sha256(): string {
    return this.hash.copy().digest("hex")
  }

  /** The last line of a file with the lines that were added. */
  get line(): string {
    return `${JSON.stringify({ events: this.events, sha256: this.sha256 })}\n`
  }
}

/** How many events a page has at most. They are fewer if they are large. */
const largestPage = 1024

const microseconds = `to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "createdAtText"`

/** A page of the log: the events above `after`, up to `last`, and how many the next page is to have. */
export const pageAfter = Effect.fnUntraced(function* (after: bigint, last: bigint, limit: number) {
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
  return { isFull, nextLimit, rows: yield* decodeRows(Row, names.events, ["version"])(fine) }
})

/** The events above `after`, up to `last`, in pages. */
export const pagesUpTo = (after: bigint, last: bigint) =>
  Stream.paginate({ after, limit: largestPage }, ({ after, limit }) =>
    Effect.map(pageAfter(after, last, limit), ({ isFull, nextLimit, rows }) => {
      const next = { after: rows.at(-1)?.version ?? after, limit: nextLimit }
      return [rows.length === 0 ? [] : [rows], isFull ? Option.some(next) : Option.none()] as const
    })
  )

const Count = Schema.Struct({ count: Schema.Int })

/** How many events there are above a version. */
export const countAfter = Effect.fnUntraced(function* (after: bigint) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`SELECT count(*)::float8 AS count FROM ${tables.events} WHERE version > ${after}`)
  const [row] = yield* decodeRows(Count, names.events, [])(rows)
  return row?.count ?? 0
})

/** The pages of the log from a version on, up to the last version that is settled. */
export const settledPages = Effect.fnUntraced(function* (after: bigint) {
  const { marks } = yield* Settling.make
  let from = after
  return Stream.flatMap(marks(LastSeen.of(after)), ({ version: mark }) => {
    const pages = pagesUpTo(from, mark)
    from = mark
    return pages
  })
})
