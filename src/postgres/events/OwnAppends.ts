/**
 * What this process has appended since a decision has read.
 *
 * **Details**
 *
 * Where several fibers decide upon one tag, the first commit overtakes all that wait behind it. Each of them would take a round
 * trip to hear of that, one after the other, before the first that can succeed has its turn. So the process tells them itself: an
 * event that it has appended, and that it heard of after the read of a decision had begun, is in the way of that decision if it
 * matches, and the decision has not seen it. All else only the database knows.
 *
 * A read that begins after the process has heard of an event sees that event, or the event is there no more. So no decision
 * fails twice by the same event.
 */
import { Option } from "effect"
import { matchesItem } from "../../events/EventFilter.ts"
import { type Condition, ConditionFailed, type StoredEvent } from "../../EventStore.ts"
import { keyOfTag, keyOfType, type Request } from "./AppendRequest.ts"

/** Of how many tags, and types of events with them, the last event is remembered. */
const mostRemembered = 1024

/** An event that this process has appended. */
interface Heard {
  readonly version: bigint
  readonly eventType: string
  readonly tags: ReadonlySet<string>
  /** When its commit was heard of, in milliseconds by the machine's clock. */
  readonly at: number
}

/** When the reads of conditions began. Those that the caller has made have no time, and are left to the database. */
const readAt = new WeakMap<Condition, number>()

/** Says when the read of a condition began, by `performance.now()`. */
export const begun = (condition: Condition, at: number): void => {
  readAt.set(condition, at)
}

export class OwnAppends {
  /** The last event of each tag, and of each type with that tag, the oldest first. */
  readonly #last = new Map<string, Heard>()

  /** Remembers what a decision has appended, once that is committed. */
  heard({ append: { condition, events } }: Request, stored: ReadonlyArray<StoredEvent>): void {
    if (condition === undefined) return
    const at = performance.now()
    for (const [index, { eventType, version }] of stored.entries()) {
      const tags = new Set(events[index]?.tags)
      for (const tag of tags) {
        const key = keyOfTag(tag)
        this.#remember(key, { version, eventType, tags, at })
        this.#remember(keyOfType(key, eventType), { version, eventType, tags, at })
      }
    }
    for (const key of this.#last.keys()) {
      if (this.#last.size <= mostRemembered) break
      this.#last.delete(key)
    }
  }

  #remember(key: string, event: Heard): void {
    this.#last.delete(key)
    this.#last.set(key, event)
  }

  /** What the request fails with, if an event of this process is in its way. */
  overtaking({ append: { condition }, hasOnlyCondition, reads = [] }: Request): ConditionFailed | undefined {
    const began = condition === undefined ? undefined : readAt.get(condition)
    if (condition === undefined || began === undefined || !hasOnlyCondition) return undefined
    const { items, mark, seen } = condition.decided
    for (const key of reads) {
      const event = this.#last.get(key)
      if (event === undefined || event.at <= began || event.version <= mark || seen.includes(event.version)) continue
      const { eventType, tags, version } = event
      if (!items.some((item) => matchesItem(item, eventType, tags))) continue
      return new ConditionFailed({
        change: "appended",
        version: Option.some(version),
        eventType: Option.some(eventType),
        tags: [...tags].toSorted()
      })
    }
    return undefined
  }
}
