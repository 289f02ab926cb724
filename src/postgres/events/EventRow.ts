/**
 * How rows of the table of events become events.
 *
 * **Details**
 *
 * A reader that catches up reads every event there is, so nearly every row is decoded by hand: 0.8 us, after 1.2 us for the
 * server and the driver, where the schema takes 4.4 us. The schema decides about the other rows, and says what is wrong with
 * them.
 */
import { DateTime, Predicate, Result, Schema } from "effect"
import { isMetadata, toStoredEvent } from "../../events/StoredEvents.ts"
import { type StoredEvent, Version } from "../../EventStore.ts"
import { exactJson, type LargeIntegers, parseExact } from "../../internal/ExactJson.ts"
import type { CorruptRow } from "../../StoreError.ts"
import { decodeRow } from "../database/DecodeRows.ts"
import * as RowSize from "../database/RowSize.ts"

const rowOf = (integers: LargeIntegers) => {
  /** SQL's NULL and JSON's null mean the same: no data, or no metadata. */
  const Json = Schema.NullOr(exactJson(integers))
  return Schema.Struct({
    version: Version,
    id: Schema.String,
    aggregateId: Schema.String,
    eventType: Schema.String,
    data: Json,
    metadata: Json.pipe(Schema.refine(isMetadata, { expected: "a JSON object or null" })),
    createdAt: Schema.DateTimeUtcFromDate
  })
}

/** A row of the table, as `columnsOf` names its parts. */
export const Row = rowOf("fail")

const rows = { fail: Row, bigint: rowOf("bigint") }

/** The parts of a row, for `SELECT ${sent} FROM (SELECT ${read} FROM ..) AS page`. */
export interface Columns {
  readonly read: string
  readonly sent: string
}

/**
 * The parts of a row whose data and metadata together have at most so many bytes as text, for
 * `SELECT ${sent} FROM (SELECT ${read} FROM ..) AS page`. What is longer is held back: instead of it the row has its length,
 * `#17000000`.
 *
 * **Details**
 *
 * JSON comes as text, as the driver's own parser rounds numbers. The text is made once, by the inner SELECT, which has to have
 * a LIMIT or an OFFSET, or the planner makes one of the two. It is not made where even the stored form, compressed or not, is
 * more than five times as long: `jsonb` takes at most twelve bytes for the three characters of an item. The server plans such
 * a statement each time, so it has no more expressions than it needs, and casts a number that is joined to a text: without
 * the cast that takes 15 us to plan.
 *
 * The event with the version `without` comes without its JSON: it is there to be compared only. The id comes as text from a
 * compact log, too, where it is a UUID.
 */
export const columnsOf = (bytes: number, without?: string): Columns => ({
  read: `version, id::text AS id, aggregate_id AS "aggregateId", event_type AS "eventType",
    CASE ${without === undefined ? "" : `WHEN version = ${without} THEN NULL `}WHEN pg_catalog.pg_column_size(data) > ${5 * bytes}
      THEN '#'::text || pg_catalog.pg_column_size(data)::text ELSE data::text END AS data,
    ${without === undefined ? "metadata::text" : `CASE WHEN version <> ${without} THEN metadata::text END`} AS metadata,
    created_at AS "createdAt"`,
  sent: `version, id, "aggregateId", "eventType",
    CASE WHEN octet_length(data) + coalesce(octet_length(metadata), 0) > ${bytes}
      THEN '#'::text || (octet_length(data) + coalesce(octet_length(metadata), 0))::text ELSE data END AS data,
    CASE WHEN octet_length(metadata) > ${bytes}
      THEN '#'::text || octet_length(metadata)::text ELSE metadata END AS metadata, "createdAt"`
})

/** The same parts without any JSON, as if all of it had been held back. */
export const bareColumns: Columns = {
  read: `version, id::text AS id, aggregate_id AS "aggregateId", event_type AS "eventType",
    '#${RowSize.longestTextBytes}'::text AS data, NULL::text AS metadata, created_at AS "createdAt"`,
  sent: `version, id, "aggregateId", "eventType", data, metadata, "createdAt"`
}

/** How many bytes the JSON of a row has that was held back. */
export const heldBackBytes = (row: unknown): number | undefined =>
  RowSize.heldBackBytes(textOf(row, "data")) ?? RowSize.heldBackBytes(textOf(row, "metadata"))

/** The error of a row whose JSON was held back: it is too large for any page. */
export const tooLargeRow = (table: string, row: unknown): CorruptRow | undefined => {
  const bytes = heldBackBytes(row)
  if (bytes === undefined) return undefined
  return RowSize.tooLarge(table, Predicate.hasProperty(row, "version") ? String(row["version"]) : "?", bytes)
}

/** The text in a column of a row, or an empty one. */
export const textOf = (row: unknown, column: string): string =>
  Predicate.hasProperty(row, column) && typeof row[column] === "string" ? row[column] : ""

/** How many characters of JSON a row has. */
export const jsonLength = (row: unknown): number => textOf(row, "data").length + textOf(row, "metadata").length

const isVersion = Schema.is(Version)

const isText = (value: unknown): value is string | null => typeof value === "string" || value === null

/** The event of a row, if there is nothing unusual about it. */
const plainEvent = (row: unknown, integers: LargeIntegers): StoredEvent | undefined => {
  if (!Predicate.isObject(row)) return undefined
  const { aggregateId, createdAt, eventType, id, version } = row
  if (
    !isVersion(version) ||
    typeof id !== "string" ||
    typeof aggregateId !== "string" ||
    typeof eventType !== "string" ||
    !(createdAt instanceof Date) ||
    Number.isNaN(createdAt.getTime()) ||
    !isText(row.data) ||
    !isText(row.metadata)
  ) {
    return undefined
  }
  const data = parseExact(row.data, integers)
  const metadata = parseExact(row.metadata, integers)
  if (data === undefined || metadata === undefined || !isMetadata(metadata)) return undefined
  return toStoredEvent({
    version,
    id,
    aggregateId,
    eventType,
    data,
    metadata,
    createdAt: DateTime.fromDateUnsafe(createdAt)
  })
}

/** What rows have become: the events before the first row that does not fit the model, and what is wrong with that row. */
export interface Decoded {
  readonly events: Array<StoredEvent>
  readonly corrupt: CorruptRow | undefined
}

/** Decodes rows of the table with this name. */
export const eventDecoder = (
  table: string,
  integers: LargeIntegers = "fail"
): ((rows: ReadonlyArray<unknown>) => Decoded) => {
  const decode = decodeRow(rows[integers], table, ["version"])
  return (rows) => {
    const events: Array<StoredEvent> = []
    for (const row of rows) {
      const plain = plainEvent(row, integers)
      if (plain !== undefined) {
        events.push(plain)
        continue
      }
      const corrupt = tooLargeRow(table, row)
      if (corrupt !== undefined) return { events, corrupt }
      const result = decode(row)
      if (Result.isFailure(result)) return { events, corrupt: result.failure }
      events.push(toStoredEvent(result.success))
    }
    return { events, corrupt: undefined }
  }
}
