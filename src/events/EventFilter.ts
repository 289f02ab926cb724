/** Decides whether an event matches a `Filter`, for backends and subscriptions that do not ask a database. */
import type { DateTime, Schema } from "effect"
import type { Filter, QueryItem } from "../Event.ts"
import { normalInteger } from "../internal/ExactJson.ts"

const isObject = (value: Schema.Json): value is Schema.JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** `whole @> part` of `jsonb`: objects by their keys, arrays by their elements in any order. */
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
  // At the top level an array also contains a value that is one of its elements.
  return isSame(whole, part) || (top && Array.isArray(whole) && whole.some((item) => isSame(item, part)))
}

/** An integer that a filter has as a `bigint` is what an event has as a number, where JavaScript can hold that. */
const isSame = (whole: unknown, part: unknown): boolean =>
  whole === part || (typeof part === "bigint" && whole === normalInteger(part))

/** The parts of an event that a filter looks at. `data` and `metadata` may be parsed when they are read. */
export interface Filterable {
  readonly aggregateId: string
  readonly eventType: string
  readonly createdAt: DateTime.Utc
  readonly data: Schema.Json
  readonly metadata: Schema.JsonObject | null
}

const noTags: ReadonlySet<string> = new Set()

/** Whether an event of this type with these tags matches the item. */
export const matchesItem = (item: QueryItem, eventType: string, tags: ReadonlySet<string>): boolean =>
  (item.eventTypes === undefined || item.eventTypes.includes(eventType)) &&
  (item.tags === undefined || item.tags.every((tag) => tags.has(tag)))

/** The tags that the filter asks for. */
export const tagsIn = ({ items = [], tags = [] }: Filter): ReadonlySet<string> =>
  tags.length === 0 && items.length === 0 ? noTags : new Set([...tags, ...items.flatMap((item) => item.tags ?? [])])

/**
 * Whether an event with these tags matches the filter. Tags that the filter does not ask for may be left out. It reads `data`
 * and `metadata` last, and only if the filter has them.
 */
export const matches = (filter: Filter, event: Filterable, tags: ReadonlySet<string> = noTags): boolean =>
  (filter.aggregateIds === undefined || filter.aggregateIds.includes(event.aggregateId)) &&
  (filter.eventTypes === undefined || filter.eventTypes.includes(event.eventType)) &&
  (filter.tags === undefined || filter.tags.every((tag) => tags.has(tag))) &&
  (filter.items === undefined || filter.items.some((item) => matchesItem(item, event.eventType, tags))) &&
  (filter.createdAfter === undefined || event.createdAt.epochMilliseconds > filter.createdAfter.epochMilliseconds) &&
  (filter.data === undefined || contains(event.data, filter.data)) &&
  (filter.metadata === undefined || contains(event.metadata, filter.metadata))
