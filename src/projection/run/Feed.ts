/**
 * Reads the log once for all shards of a projection in this process, and hands the events out to them.
 *
 * **Details**
 *
 * Each shard has a buffer of bounded size. When a buffer is full, the reading waits for it, but not for long: then the slow
 * shard is left behind, and the others go on. Once the shard has worked off its buffer, reading starts again from the lowest
 * version that a shard has got to, and the shards that are further pass over what they have had. The reading does
 * not wait again for a shard that was left behind, until the shard keeps up.
 *
 * Shards come and go while the others are read for. Those that come together have a reading of their own until they are nearly
 * where the others are: so these do not wait for a shard that is far behind.
 *
 * The store picks out the projection's events, and says how far it has passed the log between them. So the offset of a
 * projection for a rare type moves with the log: the next start does not look at the same events again, and
 * `awaitVersion` does not wait for the next event of that type.
 */
import { Deferred, Duration, Effect, Queue, Stream } from "effect"
import { type Cursor, EventStore, type Step, type StoredEvent, type Subscription } from "../../EventStore.ts"
import { LogSetBack, type ProjectionFailed } from "../Errors.ts"

/** How long the reading waits for a shard whose buffer is full. */
const longestWaitForRoom = Duration.millis(500)

export interface Batch {
  readonly events: ReadonlyArray<StoredEvent>
  /** Up to this version the shard has no other events than these and those of earlier batches. */
  readonly upTo: bigint
}

/** The events that one shard is to handle next. */
export class Feed {
  /** How far the log has been read for this shard. */
  upTo: bigint
  /** The id of the event with the version `upTo`, if it is known. */
  private id: string | undefined
  private taken: Batch & { readonly id: string | undefined }
  /** Whether the shard was left behind: then nothing is put into its buffer. */
  isBehind = false
  /** Whether the reading does not wait for the shard. */
  isSlow = false
  /** Called when the shard has worked off its buffer after it was left behind. */
  onEmpty: () => void = () => {}
  private readonly capacity: number
  private events: Array<StoredEvent> = []
  private progress = Deferred.makeUnsafe<void>()
  private room = Deferred.makeUnsafe<void>()

  constructor({ id, version }: Cursor, capacity: number) {
    this.upTo = version
    this.id = id
    this.taken = { events: [], upTo: version, id }
    this.capacity = capacity
  }

  put(event: StoredEvent): void {
    if (!this.isBehind && event.version > this.upTo) this.events.push(event)
  }

  /** Says that every event up to this one was put. */
  mark({ id, version }: Cursor): void {
    if (this.isBehind || version <= this.upTo) return
    this.upTo = version
    this.id = id
    Deferred.doneUnsafe(this.progress, Effect.void)
  }

  get isFull(): boolean {
    return this.events.length >= this.capacity
  }

  get isEmpty(): boolean {
    return this.events.length === 0
  }

  /** Waits until the buffer is not full. */
  get untilRoom(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.isFull) return Effect.void
      this.room = Deferred.makeUnsafe()
      return Deferred.await(this.room)
    })
  }

  /** Waits until the log was read beyond this version, whether that has brought an event or not. */
  untilBeyond(version: bigint): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.isEmpty || this.upTo > version) return Effect.void
      this.progress = Deferred.makeUnsafe()
      return Deferred.await(this.progress)
    })
  }

  /** Waits until there is an event. */
  get untilEvent(): Effect.Effect<void> {
    return Effect.whileLoop({ while: () => this.isEmpty, body: () => this.untilBeyond(this.upTo), step: () => {} })
  }

  /** Takes the next events, at most so many: none if there are none. */
  take(count: number): Batch {
    const events = this.events.splice(0, count)
    if (!this.isFull) Deferred.doneUnsafe(this.room, Effect.void)
    if (this.isEmpty && this.isBehind) this.onEmpty()
    const last = this.isEmpty ? this.cursor : (events.at(-1) ?? this.cursor)
    this.taken = { events, upTo: last.version, id: last.id }
    return this.taken
  }

  /** Where the reading is. */
  get cursor(): Cursor {
    return this.id === undefined ? { version: this.upTo } : { version: this.upTo, id: this.id }
  }

  /** The id of the event with this version: of one that was taken last, or up to which the log was read. */
  idOf(version: bigint): string | undefined {
    if (version === this.taken.upTo) return this.taken.id
    if (version === this.upTo) return this.id
    return this.taken.events.find((event) => event.version === version)?.id
  }
}

/** How many versions shards may be behind the others when they join the reading of these. */
const mostVersionsToJoin = 1000n

/** What is read for all shards of a projection. */
export interface Source {
  /** How many events a buffer holds before the reading waits for room. */
  readonly capacity: number
  readonly filter: Pick<Subscription, "aggregateIds" | "eventTypes" | "items" | "tags">
  /** Which shard an event belongs to, if any, or why that cannot be told: the reading ends with it. */
  readonly shardOf: (event: StoredEvent) => number | ProjectionFailed | undefined
}

/** One pass over the log, for some shards. */
class Reading {
  /** All shards that it is to read for. */
  readonly feeds = new Map<number, Feed>()
  /**
   * Those for which it has read from their cursors on. A shard that has come since waits until the reading begins again: a
   * step that is still on its way may be far beyond its cursor.
   */
  private readonly active = new Map<number, Feed>()
  /** Called after each step. */
  onStep: () => void = () => {}
  private restart = Deferred.makeUnsafe<void>()
  private readonly source: Source

  constructor(source: Source) {
    this.source = source
  }

  /** Begins again from the lowest cursor. */
  readonly again = (): void => {
    Deferred.doneUnsafe(this.restart, Effect.void)
  }

  take(shard: number, feed: Feed): void {
    feed.onEmpty = this.again
    this.feeds.set(shard, feed)
  }

  /** Returns whether it was read for the shard. */
  drop(shard: number): boolean {
    this.active.delete(shard)
    return this.feeds.delete(shard)
  }

  clear(): void {
    this.active.clear()
    this.feeds.clear()
  }

  /** How far the log has been read. */
  get upTo(): bigint {
    return [...this.feeds.values()].reduce((highest, { upTo }) => (upTo > highest ? upTo : highest), 0n)
  }

  /** Up to where every shard has what is its own. */
  get lowest(): bigint {
    return [...this.feeds.values()].reduce((lowest, { upTo }) => (upTo < lowest ? upTo : lowest), this.upTo)
  }

  private waitFor(feed: Feed): Effect.Effect<void> {
    return Effect.map(Effect.timeoutOption(feed.untilRoom, feed.isSlow ? Duration.zero : longestWaitForRoom), () => {
      if (!feed.isFull) return
      feed.isBehind = true
      feed.isSlow = true
    })
  }

  private deliver({ events, upTo }: Step): Effect.Effect<void, ProjectionFailed> {
    return Effect.suspend(() => {
      const all = [...this.active.values()]
      for (const event of events) {
        const shard = this.source.shardOf(event)
        if (typeof shard === "number") this.active.get(shard)?.put(event)
        else if (shard !== undefined) return Effect.fail(shard)
      }
      for (const feed of all) {
        feed.mark(upTo)
        // The shard has come as far as all others.
        if (
          feed.isSlow &&
          feed.upTo === upTo.version &&
          !feed.isFull &&
          all.every((other) => other.upTo <= upTo.version)
        ) {
          feed.isSlow = false
        }
      }
      this.onStep()
      return Effect.forEach(
        all.filter((feed) => feed.isFull && !feed.isBehind),
        (feed) => this.waitFor(feed),
        { concurrency: "unbounded", discard: true }
      )
    })
  }

  /** Reads for ever. */
  readonly run = EventStore.use((events) =>
    Effect.suspend(() => {
      this.restart = Deferred.makeUnsafe()
      for (const [shard, feed] of this.feeds) this.active.set(shard, feed)
      const all = [...this.feeds.values()]
      for (const feed of all) {
        // A shard that has not worked off its buffer yet asks for more when it has.
        if (feed.isBehind && feed.isEmpty) feed.isBehind = false
      }
      const cursors = all.filter(({ isBehind }) => !isBehind).map(({ cursor }) => cursor)
      // No shard is there, or all are behind: the first to come, or to work off its buffer, says where to go on.
      if (cursors.length === 0) return Deferred.await(this.restart)
      const after = cursors.reduce((lowest, cursor) => (cursor.version < lowest.version ? cursor : lowest))
      return events.follow({ ...this.source.filter, after }).pipe(
        Stream.interruptWhen(Deferred.await(this.restart)),
        Stream.runForEach((step) => this.deliver(step)),
        Effect.catchTag("LogReplaced", (error) => Effect.fail(new LogSetBack(error)))
      )
    })
  ).pipe(Effect.forever)
}

/** The reading for the shards of a projection in this process: they come and go. */
export const make = Effect.fnUntraced(function* (source: Source) {
  const main = new Reading(source)
  const coming = new Set<Reading>()
  const arrivals = yield* Queue.unbounded<Reading>()

  const isNear = (reading: Reading) => main.feeds.size === 0 || reading.lowest + mostVersionsToJoin >= main.upTo

  const join = (reading: Reading) => {
    coming.delete(reading)
    for (const [shard, feed] of reading.feeds) main.take(shard, feed)
    reading.clear()
    main.again()
  }

  /** Reads for shards that have come until they are near the others. */
  const comeNear = (reading: Reading) =>
    Effect.suspend(() => {
      const near = Deferred.makeUnsafe<void>()
      reading.onStep = () => {
        if (isNear(reading)) Deferred.doneUnsafe(near, Effect.void)
      }
      return Effect.andThen(
        Effect.raceFirst(reading.run, Deferred.await(near)),
        Effect.sync(() => join(reading))
      )
    })

  return {
    /** Reads for these shards, too, from these cursors on. */
    add: (starts: ReadonlyMap<number, Cursor>): ReadonlyMap<number, Feed> => {
      const reading = new Reading(source)
      for (const [shard, after] of starts) reading.take(shard, new Feed(after, source.capacity))
      const feeds = new Map(reading.feeds)
      if (isNear(reading)) {
        join(reading)
      } else {
        coming.add(reading)
        Queue.offerUnsafe(arrivals, reading)
      }
      return feeds
    },
    /** Reads for this shard no longer. */
    remove: (shard: number): void => {
      for (const reading of [main, ...coming]) if (reading.drop(shard) && reading.feeds.size === 0) reading.again()
    },
    /** Reads for ever. */
    run: Effect.all(
      [main.run, Stream.runDrain(Stream.mapEffect(Stream.fromQueue(arrivals), comeNear, { concurrency: "unbounded" }))],
      { concurrency: 2, discard: true }
    )
  }
})
