/** An event as the memory backend keeps it. */
import { type DateTime, Schema } from "effect"
import type { Filterable } from "../events/EventFilter.ts"
import { type NewEvent, StoredEvent } from "../EventStore.ts"

const parse = Schema.decodeSync(Schema.fromJsonString(Schema.Json))
const parseMetadata = Schema.decodeSync(Schema.fromJsonString(Schema.NullOr(Schema.JsonObject)))

/** Data and metadata are text, so that a caller shares no object with the store, and reads give exactly what JSON keeps. */
export class EventRow implements Filterable {
  readonly version: bigint
  readonly id: string
  readonly aggregateId: string
  readonly eventType: string
  readonly createdAt: DateTime.Utc
  private readonly dataText: string
  private readonly metadataText: string

  constructor(event: NewEvent, id: string, version: bigint, createdAt: DateTime.Utc) {
    this.version = version
    this.id = id
    this.aggregateId = event.aggregateId
    this.eventType = event.eventType
    this.createdAt = createdAt
    this.dataText = JSON.stringify(event.data)
    this.metadataText = JSON.stringify(event.metadata ?? null)
  }

  get data(): Schema.Json {
    return parse(this.dataText)
  }

  get metadata(): Schema.JsonObject | null {
    return parseMetadata(this.metadataText)
  }
}

export const toStoredEvent = ({
  aggregateId,
  createdAt,
  data,
  eventType,
  id,
  metadata,
  version
}: EventRow): StoredEvent =>
  new StoredEvent({
    version,
    id,
    aggregateId,
    eventType,
    data,
    metadata,
    createdAt,
    streamName: `stream_${aggregateId}`
  })
