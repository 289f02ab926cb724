/** What a `Filter` of events means, for a backend or a subscription that does not ask a database. */
import type { DateTime, Schema } from "effect"
import type { Filter } from "../Event.ts"

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

/** The parts of an event that a filter looks at: the expensive ones last, and only if it asks for them. */
export interface Filterable {
  readonly aggregateId: string
  readonly eventType: string
  readonly createdAt: DateTime.Utc
  readonly data: Schema.Json
  readonly metadata: Schema.JsonObject | null
}

/** Whether the filter describes the event. */
export const matches = (filter: Filter, event: Filterable): boolean =>
  (filter.aggregateIds === undefined || filter.aggregateIds.includes(event.aggregateId)) &&
  (filter.eventTypes === undefined || filter.eventTypes.includes(event.eventType)) &&
  (filter.createdAfter === undefined || event.createdAt.epochMilliseconds > filter.createdAfter.epochMilliseconds) &&
  (filter.data === undefined || contains(event.data, filter.data)) &&
  (filter.metadata === undefined || contains(event.metadata, filter.metadata))
