/** A subscriber at the tail: where it is in the log, what it waits for, and what it takes of a page. */
import { Effect } from "effect"
import { matches, tagsIn } from "../../events/EventFilter.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { everything, type Interest, type Interested, interestOf } from "../../events/Waiting.ts"
import type { Filter, StoredEvent, Subscription } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import type { TagsOf } from "./TagTable.ts"
import type { Item } from "./TailItems.ts"
import type { Part } from "./TailPages.ts"

/** A page that has been read, for those who wait at the end of the log. */
export interface News extends Part {
  /** What a reader has seen that has taken the page, and what it has seen that was at the end before. */
  readonly seen: LastSeen.Seen
  readonly before: LastSeen.Seen
  /** Undefined if they could not be looked up. */
  readonly tags: Tags | undefined
}

/** The tags of a page, as far as somebody wanted them when they were looked up. */
export interface Tags {
  readonly wanted: ReadonlySet<string>
  readonly of: TagsOf
}

type Taken = ReadonlyArray<StoredEvent>

const nothing = Effect.succeed<Taken>([])

/** Whether the filter describes every event. */
const isEverything = ({ aggregateIds, createdAfter, data, eventTypes, items, metadata, tags }: Filter): boolean =>
  [aggregateIds, createdAfter, data, eventTypes, items, metadata, tags].every((part) => part === undefined)

export class Subscriber implements Interested {
  readonly subscription: Subscription
  readonly interest: Interest
  readonly wantedTags: ReadonlySet<string>
  /** Whether it is told of every page, also of those that have nothing for it. */
  private readonly isTold: boolean
  private readonly isEverything: boolean
  /** Every event up to here was given, or was not for it. While it waits at the end of the tail, it may have passed others. */
  version = 0n
  /**
   * Whether the next row of the tail cannot be decoded. Only the server knows what the row contains, and so whether the
   * filter describes it: the subscriber reads the row from the table.
   */
  isNextCorrupt = false
  /** Undefined before it has begun, and while it waits at the end of the tail. */
  private own: LastSeen.Seen | undefined
  private resume: ((taken: Effect.Effect<Taken, Reason>) => void) | undefined

  constructor(subscription: Subscription, isTold: boolean) {
    this.subscription = subscription
    this.isTold = isTold
    this.interest = isTold ? everything : interestOf(subscription)
    this.isEverything = isEverything(subscription)
    this.wantedTags = tagsIn(subscription)
  }

  get hasBegun(): boolean {
    return this.own !== undefined
  }

  /** What it has seen. It is asked only while it does not wait. */
  get seen(): LastSeen.Seen {
    return this.own ?? LastSeen.of(this.version)
  }

  moveTo(seen: LastSeen.Seen): void {
    this.own = seen
    this.version = seen.version
  }

  /** Learns which events the tail knows to have been deleted: this subscriber has seen them, too. */
  learn(tail: LastSeen.Seen): void {
    this.own = LastSeen.learn(this.seen, tail)
  }

  /**
   * Waits for something that is for it. While it waits at the end of the tail, it has seen what the tail has, and remembers
   * nothing itself: what 10,000 subscribers remember would be most of the memory that they take.
   */
  readonly wait: Effect.Effect<Taken, Reason> = Effect.callback((resume) => {
    this.resume = resume
    return this.stop
  })

  private readonly stop = Effect.sync(() => {
    this.resume = undefined
  })

  restAt(end: bigint): Effect.Effect<Taken, Reason> {
    if (this.version === end) this.own = undefined
    return this.wait
  }

  /** Is offered, while it waits, those items of a page that it may be found by. It goes on waiting if they are not for it. */
  offer(items: ReadonlyArray<Item>, news: News): void {
    const { resume } = this
    if (resume === undefined || news.seen.version <= this.version) return
    let taken = nothing
    const tags = this.knownTags(news)
    if (tags === undefined) {
      // It asks again, and looks up the tags itself.
      this.moveTo(this.own ?? news.before)
    } else {
      const events = this.pick(items, news, tags.of, news.seen)
      if (events === undefined) return
      taken = Effect.succeed(events)
    }
    this.resume = undefined
    resume(taken)
  }

  /** Takes all of what has been read above its version. */
  take(part: Part, seen: LastSeen.Seen, tagsOf: TagsOf): Taken {
    const events = this.pick(part.items, part, tagsOf, seen)
    if (events === undefined) this.moveTo(seen)
    return events ?? []
  }

  /** The tail that it waits for has ended. */
  fail(reason: Reason, tail: LastSeen.Seen): void {
    const { resume } = this
    if (resume === undefined) return
    if (this.own === undefined) this.moveTo(tail)
    else this.learn(tail)
    this.resume = undefined
    resume(Effect.fail(reason))
  }

  /** Undefined if nobody has looked for all those tags that it wants. It may have come during the look. */
  private knownTags({ tags }: News): Tags | undefined {
    if (tags !== undefined) for (const tag of this.wantedTags) if (!tags.wanted.has(tag)) return undefined
    return tags
  }

  /** Moves if something is for it. */
  private pick(
    items: ReadonlyArray<Item>,
    { after, events }: Part,
    tagsOf: TagsOf,
    seen: LastSeen.Seen
  ): Taken | undefined {
    if (this.isEverything && events !== undefined && after >= this.version) {
      this.moveTo(seen)
      return events
    }
    const picked: Array<StoredEvent> = []
    for (const item of items) {
      if (item.version <= this.version || !this.mayBeDescribed(item, tagsOf)) continue
      if ("corrupt" in item) {
        this.isNextCorrupt = true
        this.moveTo(LastSeen.backTo(seen, item.version - 1n))
        return picked
      }
      picked.push(item)
    }
    if (picked.length === 0 && !this.isTold) return undefined
    this.moveTo(seen)
    return picked
  }

  /** Whether the filter describes the event, or may describe what a corrupt row contains. */
  private mayBeDescribed(item: Item, tagsOf: TagsOf): boolean {
    const { aggregateIds, eventTypes } = this.subscription
    return "corrupt" in item
      ? (aggregateIds?.includes(item.aggregateId) ?? true) && (eventTypes?.includes(item.eventType) ?? true)
      : matches(this.subscription, item, tagsOf(item.version))
  }
}
