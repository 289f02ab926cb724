/** Which shard an aggregate or an event belongs to. */
import type { StoredEvent } from "../EventStore.ts"
import type { Projection, Settings } from "./Definition.ts"
import { ProjectionFailed } from "./Errors.ts"

const encoder = new TextEncoder()

/** FNV-1a with 32 bits, of the UTF-8 bytes. */
export const fnv1a = (text: string): number => {
  let hash = 0x811c9dc5
  for (const byte of encoder.encode(text)) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}

/**
 * The shard of an aggregate, or of a key of `shardBy`: FNV-1a (32 bits) of the UTF-8 bytes of its id, modulo the number of
 * shards. It never changes.
 *
 * ```ts
 * import { Projection } from "effect-strata"
 *
 * Projection.shardOf("user-123", 4)
 * ```
 */
export const shardOf = (aggregateId: string, shards: number): number => (shards === 1 ? 0 : fnv1a(aggregateId) % shards)

/**
 * The shard of an event: nothing if the projection does not handle the event, and the failure with which the projection stops
 * if the event's key cannot be told.
 */
export const shardOfEvent = (
  { aggregateIds, eventTypes, name, shards }: Settings,
  shardBy: Projection["shardBy"]
): ((event: StoredEvent) => number | ProjectionFailed | undefined) => {
  const types = eventTypes && new Set(eventTypes)
  const aggregates = aggregateIds && new Set(aggregateIds)
  const shardOfKey = (event: StoredEvent) => {
    const { aggregateId, eventType, id: eventId, version } = event
    const shardNumber = shardOf(aggregateId, shards)
    if (shardBy === undefined) return shardNumber
    try {
      return shardOf(shardBy(event), shards)
    } catch (cause) {
      const place = { projectionName: name, shardNumber, version, eventId, aggregateId, eventType }
      return new ProjectionFailed({ ...place, attempts: 1, cause })
    }
  }
  return (event) =>
    (types?.has(event.eventType) ?? true) && (aggregates?.has(event.aggregateId) ?? true)
      ? shardOfKey(event)
      : undefined
}
