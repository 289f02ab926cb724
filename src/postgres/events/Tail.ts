/**
 * The end of the log, read once for all subscribers of a layer: in order, and never past a version that may still come.
 *
 * **Details**
 *
 * `events/Hole` has the rule for missing versions, `TailReader` asks its questions on the connection that listens, and
 * `TailPages` keeps what was read last. `events/Waiting` finds the subscribers that a page may concern: only these are woken.
 * One that waits is at the end of the tail, however much passes it by. One that was woken, and finds later that its cursor
 * is no longer covered by the pages, reads the table.
 */
import { Deferred, Effect, Fiber, Option, RcRef } from "effect"
import type { Scope } from "effect"
import type { StoredEvent } from "../../Event.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { Waiting } from "../../events/Waiting.ts"
import { closed } from "../../internal/Operation.ts"
import { onRealClock } from "../../internal/RealTime.ts"
import { type Reason, Unavailable, Unexpected } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { type Ear, Wakeups } from "../wakeups/Wakeups.ts"
import { eventDecoder } from "./EventRow.ts"
import type { News, Subscriber, Tags } from "./Subscriber.ts"
import * as TagTable from "./TagTable.ts"
import type { TagsOf } from "./TagTable.ts"
import { type Item, type Items, itemsOf, sizeOf } from "./TailItems.ts"
import * as TailPages from "./TailPages.ts"
import * as TailReader from "./TailReader.ts"

/** The time between two statements that show that the connection lives, while nobody reads at the end of the log. */
const heartbeat = "1 second"

/** Looks up which of the tags the events between two versions have. */
export type LookUp = (wanted: ReadonlySet<string>, after: bigint, last: bigint) => Effect.Effect<TagsOf, Reason>

/** What subscribers see of the tail. */
export interface Tail {
  /** Begins to read at this cursor, which is not beyond the end of the log, unless the tail has begun already. */
  readonly begin: (seen: LastSeen.Seen) => void
  readonly isBegun: () => boolean
  /** What the tail remembers of the log. */
  readonly seen: () => LastSeen.Seen
  /** Whether the tail still has every event after this version. */
  readonly covers: (version: bigint) => boolean
  /** Makes the subscriber one of those that are told of what is read, until the scope ends. */
  readonly enter: (subscriber: Subscriber) => Effect.Effect<void, never, Scope.Scope>
  /**
   * What is for the subscriber above its version: of what is kept, or, if that has nothing, of what is read next. It can be
   * nothing. The subscriber has moved, unless the tail does not cover its version any more.
   */
  readonly next: (subscriber: Subscriber, lookUp: LookUp) => Effect.Effect<ReadonlyArray<StoredEvent>, Reason>
  /**
   * Fails with `again` when the connection was lost and there is a new one: other connections are likely to be dead as
   * well, and may not know it.
   */
  readonly lost: Effect.Effect<never, Reason>
  /** Fails all subscribers that have the tail. */
  readonly end: (reason: Reason) => void
}

/** A loss that is over, as there is a connection again: a subscriber that fails with it need not wait. */
export const again = new Unavailable({ message: "the connection was lost; reading again from where it was" })

/** The tail of one connection after another, and what keeps it going. */
interface Running extends Tail {
  /** Takes rows as `TailReader` publishes them. The tags are undefined where they could not be looked up. */
  readonly publish: (rows: ReadonlyArray<unknown>, now: LastSeen.Seen, tags: Tags | undefined) => void
  /** The tags that subscribers want to know of each event. */
  readonly wantedTags: () => ReadonlySet<string>
  /** Waits until a subscriber has come to the end of the log, and gives what was read up to there. */
  readonly begun: Effect.Effect<LastSeen.Seen>
  /** Tells the subscribers that the connection was lost, and that there is a new one. */
  readonly lose: () => void
}

const noTags: ReadonlySet<string> = new Set()
const withoutTags: TagsOf = () => noTags

const nothing = Effect.succeed<ReadonlyArray<StoredEvent>>([])

/** Counts which tags are wanted, by however many subscribers. */
const makeWantedTags = () => {
  const counts = new Map<string, number>()
  let all: ReadonlySet<string> | undefined = noTags
  const add = (tags: ReadonlySet<string>, by: 1 | -1) => {
    for (const tag of tags) {
      const count = (counts.get(tag) ?? 0) + by
      if (count === 0) counts.delete(tag)
      else counts.set(tag, count)
      all = undefined
    }
  }
  return { add, all: () => (all ??= new Set(counts.keys())) }
}

const makeTail = (toItems: (rows: ReadonlyArray<unknown>) => Items): Running => {
  const begun = Deferred.makeUnsafe<void>()
  const subscribers = new Waiting<Subscriber, Item>()
  const wantedTags = makeWantedTags()
  let pages = TailPages.make(0n)
  let seen = LastSeen.of(0n)
  let failure: Reason | undefined
  let lost = Deferred.makeUnsafe<never, Reason>()

  /** What is kept above the version of a subscriber. */
  const catchUp = (subscriber: Subscriber, lookUp: LookUp) => {
    const part = pages.above(subscriber.version)
    if (part === undefined) return nothing
    const now = seen
    return subscriber.wantedTags.size === 0
      ? Effect.succeed(subscriber.take(part, now, withoutTags))
      : Effect.map(lookUp(subscriber.wantedTags, subscriber.version, now.version), (tagsOf) =>
          subscriber.take(part, now, tagsOf)
        )
  }

  return {
    begun: Effect.map(Deferred.await(begun), () => seen),
    begin: (before) => {
      if (Deferred.isDoneUnsafe(begun)) return
      seen = before
      pages = TailPages.make(before.version)
      Deferred.doneUnsafe(begun, Effect.void)
    },
    seen: () => seen,
    isBegun: () => Deferred.isDoneUnsafe(begun),
    covers: (version) => Deferred.isDoneUnsafe(begun) && pages.covers(version),
    wantedTags: wantedTags.all,
    publish: (rows, now, tags) => {
      const before = seen
      seen = now
      if (now.version === pages.end()) return
      const part = pages.add(toItems(rows), now.version, sizeOf(rows))
      const news: News = { ...part, seen, before, tags }
      subscribers.tell(part.items, tags && (({ version }) => tags.of(version)), (subscriber, items) =>
        subscriber.offer(items, news)
      )
    },
    enter: (subscriber) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          subscribers.enter(subscriber)
          wantedTags.add(subscriber.wantedTags, 1)
        }),
        () =>
          Effect.sync(() => {
            subscribers.leave(subscriber)
            wantedTags.add(subscriber.wantedTags, -1)
          })
      ),
    next: (subscriber, lookUp) =>
      Effect.suspend(() => {
        if (failure !== undefined) {
          subscriber.learn(seen)
          return Effect.fail(failure)
        }
        const end = pages.end()
        return end > subscriber.version ? catchUp(subscriber, lookUp) : subscriber.restAt(end)
      }),
    lost: Effect.suspend(() => Deferred.await(lost)),
    lose: () => {
      const before = lost
      lost = Deferred.makeUnsafe()
      Deferred.doneUnsafe(before, Effect.fail(again))
    },
    end: (reason) => {
      failure = reason
      Deferred.doneUnsafe(lost, Effect.fail(reason))
      for (const subscriber of subscribers.readers) subscriber.fail(reason, seen)
    }
  }
}

export const make = Effect.gen(function* () {
  const { integers, names, sql } = yield* PostgresDatabase
  const { listen } = yield* Wakeups
  const read = yield* TailReader.make
  const { between } = yield* TagTable.make
  const decode = eventDecoder(names.events, integers)

  /**
   * Watches the connection until the first subscriber has come to the end of the log: the subscribers on the way there have
   * to hear of a lost connection, too.
   */
  const untilBegun = (tail: Running, { query }: Ear) =>
    Effect.whileLoop({
      while: () => !tail.isBegun(),
      body: () => Effect.andThen(query(sql`SELECT 1`), Effect.timeoutOption(tail.begun, heartbeat)),
      step: () => {}
    })

  /**
   * Publishes rows with the tags that subscribers want, which are in a table of their own: one look for all. Where it fails,
   * those who want tags look by themselves, and fail by themselves.
   */
  const publishTo =
    (tail: Running, { query }: Ear): TailReader.Publish =>
    (rows, now) =>
      Effect.suspend(() => {
        const wanted = tail.wantedTags()
        if (wanted.size === 0 || rows.length === 0) {
          return Effect.sync(() => tail.publish(rows, now, { wanted: noTags, of: withoutTags }))
        }
        return Effect.map(Effect.option(between(wanted, tail.seen().version, now.version, query)), (found) =>
          tail.publish(rows, now, Option.getOrUndefined(Option.map(found, (of) => ({ wanted, of }))))
        )
      })

  /** Reads on each connection, from the end of what was read before. */
  const run = (tail: Running): Effect.Effect<never, Reason, Scope.Scope> => {
    const broken = Deferred.makeUnsafe<never, Reason>()
    const reader = (ear: Ear) =>
      Effect.suspend(() => {
        if (ear.again) tail.lose()
        return untilBegun(tail, ear).pipe(
          Effect.andThen(tail.begun),
          Effect.flatMap((seen) => read(ear, seen, publishTo(tail, ear))),
          // What is wrong with the log is no concern of others that hear on this connection.
          Effect.catchIf(
            ({ isRetryable }) => !isRetryable,
            (reason) => Effect.andThen(Deferred.fail(broken, reason), Effect.never)
          )
        )
      })
    return Effect.raceFirst(listen("events", reader), Deferred.await(broken)).pipe(
      Effect.catchDefect((cause) => new Unexpected({ message: "the reader of the log has broken down", cause })),
      // Subscribers that wait for the tail end with it, whatever it was that ended it. If they begin again, it is with
      // another tail.
      Effect.tapError((reason) =>
        Effect.andThen(
          RcRef.invalidate(tails),
          Effect.sync(() => tail.end(reason))
        )
      )
    )
  }

  // What subscribers share runs in the context of the layer, not in that of the first subscriber.
  const context = yield* Effect.context<never>()
  const tails: RcRef.RcRef<Tail> = yield* RcRef.make({
    acquire: Effect.acquireRelease(
      Effect.sync(() => {
        const tail = makeTail((rows) => itemsOf(rows, decode))
        return { tail, fiber: Effect.runForkWith(context)(onRealClock(Effect.scoped(run(tail)))) }
      }),
      // A subscriber can still have the tail here only if the scope of the layer ends.
      ({ fiber, tail }) =>
        Effect.andThen(
          Effect.sync(() => tail.end(closed("EventStore"))),
          Fiber.interrupt(fiber)
        )
    ).pipe(Effect.map(({ tail }) => tail))
  })

  /** The tail, which is read for as long as a subscriber has it. */
  return RcRef.get(tails)
})
