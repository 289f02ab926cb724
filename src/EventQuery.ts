/** Tags of events, and which events a query describes by their tags and types. */
import { Schema } from "effect"
import { Identifier } from "./internal/Fields.ts"

/** An id, aggregate id or event type. All three are indexed as text, and an index entry has room for 512 characters. */
export const Key = Identifier(512)

/** How many tags an event, an item of a query or a filter can have. */
export const maxTags = 64

/** How many items a query can have. */
export const maxItems = 64

/** What an event is about, such as `course:c1`: at most 255 characters. */
export const Tag = Identifier(255)

/** Tags in any order, each once. */
export const Tags = Schema.Array(Tag).check(
  Schema.makeFilter((tags) => {
    if (tags.length > maxTags) return `Expected at most ${maxTags} tags`
    return tags.length < 2 || new Set(tags).size === tags.length ? undefined : "Expected each tag once"
  })
)

/**
 * Events that have all of the `tags`, and one of the `eventTypes`. Without tags, events of these types with any tags or none;
 * without types, events of all types; the item `{}` means every event.
 *
 * **Details**
 *
 * Put the tag first that the fewest events have: the database looks events up by it, and decisions lock it.
 */
export const QueryItem = Schema.Struct({
  eventTypes: Schema.optionalKey(
    Schema.Array(Key).check(
      Schema.makeFilter((types) => (types.length > 0 ? undefined : "Expected at least one type, or none of this field"))
    )
  ),
  tags: Schema.optionalKey(Tags)
})
export type QueryItem = typeof QueryItem.Type

/** An event matches if it matches one of the items: at least one, and at most 64. */
export const QueryItems = Schema.Array(QueryItem).check(
  Schema.makeFilter((items) =>
    items.length > 0 && items.length <= maxItems ? undefined : `Expected 1 to ${maxItems} items`
  )
)
