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
import { StoredEvent, Version } from "../../EventStore.ts"
import { instanceOf } from "../../internal/Instance.ts"
import type { CorruptRow } from "../../StoreError.ts"
import { decodeRow } from "../database/DecodeRows.ts"
import { ExactJson, parseExact } from "../database/ExactJson.ts"

const isMetadata = (value: Schema.Json): value is Schema.JsonObject | null =>
  value === null || (typeof value === "object" && !Array.isArray(value))

/** SQL's NULL and JSON's null mean the same: no data, or no metadata. */
const Json = Schema.NullOr(ExactJson)

/** A row of the table, as `columns` names its parts. */
export const Row = Schema.Struct({
  version: Version,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  data: Json,
  metadata: Json.pipe(Schema.refine(isMetadata, { expected: "a JSON object or null" })),
  createdAt: Schema.DateTimeUtcFromDate,
  streamName: Schema.String
})

/** The parts of a row. JSON comes as text: the driver's own parser rounds numbers. */
export const columns = `version, id, aggregate_id AS "aggregateId", event_type AS "eventType", data::text AS data,
  metadata::text AS metadata, created_at AS "createdAt", stream_name AS "streamName"`

/** The event of a row, made past its constructor, which would go through `data` again. */
export const toStoredEvent = (row: typeof Row.Type): StoredEvent => instanceOf(StoredEvent, row)

const isVersion = Schema.is(Version)

const isText = (value: unknown): value is string | null => typeof value === "string" || value === null

/** The event of a row, if there is nothing unusual about it. */
const plainEvent = (row: unknown): StoredEvent | undefined => {
  if (!Predicate.isObject(row)) return undefined
  const { aggregateId, createdAt, eventType, id, streamName, version } = row
  if (
    !isVersion(version) ||
    typeof id !== "string" ||
    typeof aggregateId !== "string" ||
    typeof eventType !== "string" ||
    typeof streamName !== "string" ||
    !(createdAt instanceof Date) ||
    Number.isNaN(createdAt.getTime()) ||
    !isText(row.data) ||
    !isText(row.metadata)
  ) {
    return undefined
  }
  const data = parseExact(row.data)
  const metadata = parseExact(row.metadata)
  if (data === undefined || metadata === undefined || !isMetadata(metadata)) return undefined
  return toStoredEvent({
    version,
    id,
    aggregateId,
    eventType,
    data,
    metadata,
    createdAt: DateTime.fromDateUnsafe(createdAt),
    streamName
  })
}

/** What rows have become: the events before the first row that does not fit the model, and what is wrong with that row. */
export interface Decoded {
  readonly events: Array<StoredEvent>
  readonly corrupt: CorruptRow | undefined
}

/** Decodes rows of the table with this name. */
export const eventDecoder = (table: string): ((rows: ReadonlyArray<unknown>) => Decoded) => {
  const decode = decodeRow(Row, table, ["version"])
  return (rows) => {
    const events: Array<StoredEvent> = []
    for (const row of rows) {
      const plain = plainEvent(row)
      if (plain !== undefined) {
        events.push(plain)
        continue
      }
      const result = decode(row)
      if (Result.isFailure(result)) return { events, corrupt: result.failure }
      events.push(toStoredEvent(result.success))
    }
    return { events, corrupt: undefined }
  }
}
