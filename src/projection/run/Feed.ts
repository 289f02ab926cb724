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
 * The store picks out the projection's events, and says how far it has passed the log between them. So the offset of a
 * projection for a rare type moves with the log: the next start does not look at the same events again, and
 * `awaitVersion` does not wait for the next event of that type.
 */
import { Deferred, Duration, Effect, Stream } from "effect"
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
  private readonly capacity: number
  private readonly onEmpty: () => void
  private events: Array<StoredEvent> = []
  private progress = Deferred.makeUnsafe<void>()
  private room = Deferred.makeUnsafe<void>()

  constructor({ id, version }: Cursor, capacity: number, onEmpty: () => void) {
    this.upTo = version
    this.id = id
    this.taken = { events: [], upTo: version, id }
    this.capacity = capacity
    this.onEmpty = onEmpty
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

/**
 * The feeds of the shards, and the reading that fills them for ever with the events that the filter describes. `shardOf`
 * says which shard an event belongs to, if any, or why that cannot be told: the reading ends with it.
 */
export const make = (
  starts: ReadonlyMap<number, Cursor>,
  capacity: number,
  filter: Pick<Subscription, "aggregateIds" | "eventTypes" | "items" | "tags">,
  shardOf: (event: StoredEvent) => number | ProjectionFailed | undefined
) => {
  let restart = Deferred.makeUnsafe<void>()
  const feeds = new Map(
    [...starts].map(([shard, after]) => [
      shard,
      new Feed(after, capacity, () => Deferred.doneUnsafe(restart, Effect.void))
    ])
  )
  const all = [...feeds.values()]

  const waitFor = (feed: Feed) =>
    Effect.map(Effect.timeoutOption(feed.untilRoom, feed.isSlow ? Duration.zero : longestWaitForRoom), () => {
      if (!feed.isFull) return
      feed.isBehind = true
      feed.isSlow = true
    })

  const deliver = ({ events, upTo }: Step) =>
    Effect.suspend(() => {
      for (const event of events) {
        const shard = shardOf(event)
        if (typeof shard === "number") feeds.get(shard)?.put(event)
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
      return Effect.forEach(
        all.filter((feed) => feed.isFull && !feed.isBehind),
        waitFor,
        { concurrency: "unbounded", discard: true }
      )
    })

  const read = EventStore.use((events) =>
    Effect.suspend(() => {
      restart = Deferred.makeUnsafe()
      for (const feed of all) {
        // A shard that has not worked off its buffer yet asks for more when it has.
        if (feed.isBehind && feed.isEmpty) feed.isBehind = false
      }
      const cursors = all.filter(({ isBehind }) => !isBehind).map(({ cursor }) => cursor)
      // All shards are behind: the first to work off its buffer says where to go on.
      if (cursors.length === 0) return Deferred.await(restart)
      const after = cursors.reduce((lowest, cursor) => (cursor.version < lowest.version ? cursor : lowest))
      return events.follow({ ...filter, after }).pipe(
        Stream.interruptWhen(Deferred.await(restart)),
        Stream.runForEach(deliver),
        Effect.catchTag("LogReplaced", (error) => Effect.fail(new LogSetBack(error)))
      )
    })
  )

  return { feeds, read: Effect.forever(read) }
}
