/** An event as the memory backend keeps it. */
import { DateTime, Schema } from "effect"
import { type NewEvent, type Query, StoredEvent } from "../EventStore.ts"

/** Data and metadata are text, so that nobody shares an object with the store, and what is read is what was JSON. */
export interface EventRow {
  readonly version: bigint
  readonly id: string
  readonly aggregateId: string
  readonly eventType: string
  readonly data: string
  readonly metadata: string
  readonly createdAt: number
}

const parse = Schema.decodeSync(Schema.fromJsonString(Schema.Json))
const parseMetadata = Schema.decodeSync(Schema.fromJsonString(Schema.NullOr(Schema.JsonObject)))

export const rowOf = (event: NewEvent, id: string, version: bigint, createdAt: number): EventRow => ({
  version,
  id,
  aggregateId: event.aggregateId,
  eventType: event.eventType,
  data: JSON.stringify(event.data),
  metadata: JSON.stringify(event.metadata ?? null),
  createdAt
})

export const toStoredEvent = (row: EventRow): StoredEvent =>
  new StoredEvent({
    version: row.version,
    id: row.id,
    aggregateId: row.aggregateId,
    eventType: row.eventType,
    data: parse(row.data),
    metadata: parseMetadata(row.metadata),
    createdAt: DateTime.makeUnsafe(row.createdAt),
    streamName: `stream_${row.aggregateId}`
  })

const isObject = (value: Schema.Json): value is Schema.JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** `whole @> part` of `jsonb`: objects by their keys, arrays by their elements, whatever the order. */
export const contains = (whole: Schema.Json, part: Schema.Json, top = true): boolean => {
  if (Array.isArray(part)) {
    return Array.isArray(whole) && part.every((item) => whole.some((candidate) => contains(candidate, item, false)))
  }
  if (isObject(part)) {
    return (
      isObject(whole) &&
      Object.entries(part).every(([key, value]) => {
        const found = Object.hasOwn(whole, key) ? whole[key] : undefined
        return found !== undefined && contains(found, value, false)
      })
    )
  }
  // At the top an array contains its elements too.
  return whole === part || (top && Array.isArray(whole) && whole.includes(part))
}

/** Whether the query describes the event, its versions aside. */
export const matches = (row: EventRow, query: Query): boolean =>
  (query.aggregateIds === undefined || query.aggregateIds.includes(row.aggregateId)) &&
  (query.eventTypes === undefined || query.eventTypes.includes(row.eventType)) &&
  (query.createdAfter === undefined || row.createdAt > query.createdAfter.epochMilliseconds) &&
  (query.data === undefined || contains(parse(row.data), query.data)) &&
  (query.metadata === undefined || contains(parse(row.metadata), query.metadata))
