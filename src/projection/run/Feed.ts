/**
 * The log, read once for all shards of a projection in this process, and handed out to them.
 *
 * **Details**
 *
 * Each shard has a buffer of bounded size. When one is full the reading waits for it, but not for long: a shard that is
 * slow is left behind, and the others go on. Once it has worked off its buffer, reading starts again from the lowest place
 * that a shard has got to, and those who are further pass over what they have had. A shard that has been left behind once
 * is not waited for again, until it keeps up.
 *
 * Everything is read, and what is meant is picked out here: a subscription to some types or aggregates tells of those
 * events alone, and not how far it has come between them. Then the offset of a projection for a rare type would stay at the
 * last event of that type: it would be read from there at each start, and `awaitVersion` would wait for the next one.
 */
import { Deferred, Effect, Stream } from "effect"
import { EventStore, type StoredEvent } from "../../EventStore.ts"

/** How long everybody waits for a shard whose buffer is full. */
const patience = "500 millis"

export interface Batch {
  readonly events: ReadonlyArray<StoredEvent>
  /** The shard has no other events up to this version than these, and those it has been given before. */
  readonly upTo: bigint
}

/** What one shard has before it. */
export class Feed {
  /** How far the log has been read for this shard. */
  upTo: bigint
  /** Whether it has been left behind: then nothing is put into its buffer. */
  isBehind = false
  /** Whether it is waited for. */
  isSlow = false
  private readonly capacity: number
  private readonly onEmpty: () => void
  private events: Array<StoredEvent> = []
  private news = Deferred.makeUnsafe<void>()
  private room = Deferred.makeUnsafe<void>()

  constructor(after: bigint, capacity: number, onEmpty: () => void) {
    this.upTo = after
    this.capacity = capacity
    this.onEmpty = onEmpty
  }

  put(event: StoredEvent): void {
    if (!this.isBehind && event.version > this.upTo) this.events.push(event)
  }

  /** Everything up to this version has been put. */
  mark(version: bigint): void {
    if (this.isBehind || version <= this.upTo) return
    this.upTo = version
    Deferred.doneUnsafe(this.news, Effect.void)
  }

  get isFull(): boolean {
    return this.events.length >= this.capacity
  }

  get isEmpty(): boolean {
    return this.events.length === 0
  }

  /** Waits until it is not full. */
  get untilRoom(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.isFull) return Effect.void
      this.room = Deferred.makeUnsafe()
      return Deferred.await(this.room)
    })
  }

  /** Waits until there is something beyond this version: an event, or that there is none. */
  untilBeyond(version: bigint): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.isEmpty || this.upTo > version) return Effect.void
      this.news = Deferred.makeUnsafe()
      return Deferred.await(this.news)
    })
  }

  /** Waits until there is an event. */
  get untilEvent(): Effect.Effect<void> {
    return Effect.whileLoop({ while: () => this.isEmpty, body: () => this.untilBeyond(this.upTo), step: () => {} })
  }

  /** The next events, at most so many: none if there are none. */
  take(count: number): Batch {
    const events = this.events.splice(0, count)
    if (!this.isFull) Deferred.doneUnsafe(this.room, Effect.void)
    if (this.isEmpty && this.isBehind) this.onEmpty()
    return { events, upTo: this.isEmpty ? this.upTo : (events.at(-1)?.version ?? this.upTo) }
  }
}

/** Reads for all feeds, for ever. `feedOf` says whose an event is, if it is anybody's. */
export const make = (
  starts: ReadonlyMap<number, bigint>,
  capacity: number,
  shardOf: (event: StoredEvent) => number | undefined
) => {
  let wanted = Deferred.makeUnsafe<void>()
  const feeds = new Map(
    [...starts].map(([shard, after]) => [
      shard,
      new Feed(after, capacity, () => Deferred.doneUnsafe(wanted, Effect.void))
    ])
  )
  const all = [...feeds.values()]

  const waitFor = (feed: Feed) =>
    Effect.map(Effect.timeoutOption(feed.untilRoom, feed.isSlow ? 0 : patience), () => {
      if (!feed.isFull) return
      feed.isBehind = true
      feed.isSlow = true
    })

  const deliver = (events: ReadonlyArray<StoredEvent>) =>
    Effect.suspend(() => {
      for (const event of events) {
        const shard = shardOf(event)
        if (shard !== undefined) feeds.get(shard)?.put(event)
      }
      const last = events.at(-1)?.version ?? 0n
      for (const feed of all) {
        feed.mark(last)
        // It has come as far as everybody else.
        if (feed.isSlow && feed.upTo === last && !feed.isFull && all.every(({ upTo }) => upTo <= last)) {
          feed.isSlow = false
        }
      }
      return Effect.forEach(
        all.filter((feed) => feed.isFull && !feed.isBehind),
        waitFor,
        { concurrency: "unbounded", discard: true }
      )
    })

  const read = EventStore.use((events) =>
    Effect.suspend(() => {
      wanted = Deferred.makeUnsafe()
      for (const feed of all) {
        // One that has not worked off its buffer yet will ask for more when it has.
        if (feed.isBehind && feed.isEmpty) feed.isBehind = false
      }
      const places = all.filter(({ isBehind }) => !isBehind).map(({ upTo }) => upTo)
      // Everybody is behind: the first who is not any more says where to go on.
      if (places.length === 0) return Deferred.await(wanted)
      const after = places.reduce((lowest, place) => (place < lowest ? place : lowest))
      return events
        .subscribe({ after })
        .pipe(Stream.interruptWhen(Deferred.await(wanted)), Stream.runForEachArray(deliver))
    })
  )

  return { feeds, read: Effect.forever(read) }
}
