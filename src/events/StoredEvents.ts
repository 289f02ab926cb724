/** Stored events as every backend makes them of what it keeps. */
import type { Schema } from "effect"
import { StoredEvent } from "../Event.ts"
import { instanceOf } from "../internal/Instance.ts"

/** Whether JSON can be the metadata of an event. */
export const isMetadata = (value: Schema.Json): value is Schema.JsonObject | null =>
  value === null || (typeof value === "object" && !Array.isArray(value))

/**
 * The event with these fields, made past its constructor, which would go through `data` again. The name of the stream follows
 * from the aggregate: a compact log does not store it.
 */
export const toStoredEvent = ({
  aggregateId,
  createdAt,
  data,
  eventType,
  id,
  metadata,
  version
}: Omit<StoredEvent, "streamName">): StoredEvent =>
  instanceOf(StoredEvent, {
    version,
    id,
    aggregateId,
    eventType,
    data,
    metadata,
    createdAt,
    streamName: `stream_${aggregateId}`
  })
