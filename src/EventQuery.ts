/** Tags of events, which events a query describes by their tags and types, and the condition that an append takes of it. */
import { Option, Schema } from "effect"
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

/** What a query is asked for to decide. */
export class ForDecision extends Schema.Class<ForDecision>("effect-strata/EventStore/ForDecision")({
  items: QueryItems
}) {}

/** What a decision has seen, and where. */
export interface SeenByDecision {
  /** The query. */
  readonly items: ReadonlyArray<QueryItem>
  /** Names the log, as it is from one start of its server to the next. */
  readonly server: string
  /** A number that rises whenever events are tagged that were in the log. */
  readonly epoch: bigint
  /** A version up to which every event that will ever be had been committed before the query was read. */
  readonly mark: bigint
  /** The id of the event at the mark. */
  readonly markId: string | undefined
  /** How many matches there were up to the mark. */
  readonly matches: number
  /** The versions of the matches above the mark. */
  readonly seen: ReadonlyArray<bigint>
}

/**
 * That nothing has come that a decision would have wanted to know of: `readForDecision` gives it, and `append` takes it.
 *
 * **Details**
 *
 * It is no position in the log. A version is drawn before the commit that makes its event visible, so "no match above version
 * 12" would pass over a match that has drawn 11 and is committed later. So it has a version below which nothing can come any
 * more, and what was seen above it. It can be used more than once, by several fibers, and for as long as the log is the same.
 */
export class Condition {
  /** Backends compare it with the log. */
  readonly decided: SeenByDecision
  constructor(decided: SeenByDecision) {
    this.decided = decided
  }
}

const isCondition = (value: unknown): value is Condition => value instanceof Condition

/** A condition as an argument. */
export const GivenCondition = Schema.declare(isCondition, { expected: "a condition that readForDecision has given" })

/**
 * Something has come that the decision would have wanted to know of, or has gone that it has seen. Nothing was written.
 *
 * **Remedy**
 *
 * Read again, and decide again: `Decision.execute` does both. In a transaction the next read sees what others have committed
 * meanwhile.
 */
export class ConditionFailed extends Schema.TaggedError<ConditionFailed>("effect-strata/EventStore/ConditionFailed")(
  "ConditionFailed",
  {
    /**
     * An event was `"appended"`; or a savepoint has `"withdrawn"` one that was seen, or it was deleted; or events were
     * `"tagged"` that had been appended before; or some were `"archived"` meanwhile, so that nobody can tell whether one was
     * appended.
     */
    change: Schema.Literals(["appended", "withdrawn", "tagged", "archived"]),
    /** The version of the first event in the way: nothing where events were tagged or archived. */
    version: Schema.Option(Schema.BigInt),
    /** Its type, if it was appended. */
    eventType: Schema.Option(Schema.String),
    /** All of its tags, if it was appended. */
    tags: Schema.Array(Schema.String)
  }
) {
  override get message(): string {
    if (this.change === "tagged") return "Events were tagged after the decision had read: read again, and decide again"
    if (this.change === "archived") {
      return "Events were archived after the decision had read: read again, and decide again"
    }
    const version = Option.getOrElse(this.version, () => 0n)
    if (this.change === "withdrawn") {
      return `Event ${version}, which the decision had read, is there no more: read again, and decide again`
    }
    const type = Option.getOrElse(this.eventType, () => "")
    const tags = this.tags.length === 0 ? "no tags" : `the tags ${this.tags.join(", ")}`
    return `Event ${version} ("${type}", with ${tags}) came after the decision had read: read again, and decide again`
  }
}
