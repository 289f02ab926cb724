/** An event as the memory backend keeps it. */
import type { DateTime, Schema } from "effect"
import type { Filterable } from "../events/EventFilter.ts"
import { isMetadata, toStoredEvent } from "../events/StoredEvents.ts"
import type { NewEvent, StoredEvent } from "../EventStore.ts"
import { fromText, type LargeIntegers, parseExact, toText } from "../internal/ExactJson.ts"
import { instanceOf } from "../internal/Instance.ts"
import { CorruptRow } from "../StoreError.ts"

const noTags: ReadonlySet<string> = new Set()

/** Data and metadata are text, so that a caller shares no object with the store, and reads give exactly what JSON keeps. */
export class EventRow implements Filterable {
  readonly version: bigint
  readonly id: string
  readonly aggregateId: string
  readonly eventType: string
  readonly createdAt: DateTime.Utc
  readonly dataText: string
  readonly metadataText: string
  readonly tags: ReadonlySet<string>

  constructor(event: NewEvent, id: string, version: bigint, createdAt: DateTime.Utc) {
    this.version = version
    this.id = id
    this.aggregateId = event.aggregateId
    this.eventType = event.eventType
    this.createdAt = createdAt
    this.dataText = toText(event.data)
    this.metadataText = toText(event.metadata ?? null)
    this.tags = event.tags === undefined ? noTags : new Set(event.tags)
  }

  /** The same event with more tags. */
  tagged(more: Iterable<string>): EventRow {
    return instanceOf(EventRow, { ...this, tags: new Set([...this.tags, ...more]) })
  }

  get data(): Schema.Json {
    return fromText(this.dataText)
  }

  get metadata(): Schema.JsonObject | null {
    const metadata = fromText(this.metadataText)
    return isMetadata(metadata) ? metadata : null
  }
}

const storedEvent = (
  { aggregateId, createdAt, eventType, id, version }: EventRow,
  data: Schema.Json,
  metadata: Schema.JsonObject | null
): StoredEvent => toStoredEvent({ version, id, aggregateId, eventType, data, metadata, createdAt })

/** The event, with integers beyond 2^53 as `bigint`. */
export const eventOf = (row: EventRow): StoredEvent => storedEvent(row, row.data, row.metadata)

/** What rows have become: the events before the first one that cannot be read, and why that one cannot. */
export interface Decoded {
  readonly events: ReadonlyArray<StoredEvent>
  readonly corrupt: CorruptRow | undefined
}

/** The events of rows. With `"fail"`, one with an integer beyond 2^53 cannot be read: another layer has appended it. */
export const decodeEvents = (rows: ReadonlyArray<EventRow>, integers: LargeIntegers): Decoded => {
  const events: Array<StoredEvent> = []
  for (const row of rows) {
    const data = parseExact(row.dataText, integers)
    const metadata = parseExact(row.metadataText, integers)
    if (data === undefined || metadata === undefined || !isMetadata(metadata)) {
      const key = String(row.version)
      return { events, corrupt: new CorruptRow({ table: "events", key, message: `row ${key} of events: ${tooLarge}` }) }
    }
    events.push(storedEvent(row, data, metadata))
  }
  return { events, corrupt: undefined }
}

const tooLarge = 'JavaScript cannot hold one of its numbers; give the layer the option largeIntegers: "bigint"'
