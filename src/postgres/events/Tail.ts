/**
 * The end of the log, read once for all subscribers of a layer: in order, and never past a version that may still come.
 *
 * **Details**
 *
 * `events/Hole` has the rule for missing versions, `TailReader` asks its questions on the connection that listens, and
 * `TailPages` keeps what was read last. A subscriber that finds that its cursor is no longer `covered` reads the table.
 */
import { Deferred, Effect, Fiber, RcRef } from "effect"
import type { Scope } from "effect"
import * as LastSeen from "../../events/LastSeen.ts"
import { closed } from "../../internal/Operation.ts"
import { onRealClock } from "../../internal/RealTime.ts"
import { type Reason, Unavailable, Unexpected } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { type Ear, Wakeups } from "../wakeups/Wakeups.ts"
import { eventDecoder } from "./EventRow.ts"
import { type Item, itemsOf, sizeOf } from "./TailItems.ts"
import * as TailPages from "./TailPages.ts"
import * as TailReader from "./TailReader.ts"

/** The time between two statements that show that the connection lives, while nobody reads at the end of the log. */
const heartbeat = "1 second"

/** The events between a version and the end of what was read. */
export interface News {
  /**
   * What a reader has seen that has taken them: every event up to its version that will ever be is among the items, or came
   * before the version that was asked for.
   */
  readonly seen: LastSeen.Seen
  /** In order. The first ones may be at or below the version that was asked for. */
  readonly items: ReadonlyArray<Item>
}

/** What subscribers see of the tail. */
export interface Tail {
  /** Begins to read at this cursor, which is not beyond the end of the log, unless the tail has begun already. */
  readonly begin: (seen: LastSeen.Seen) => void
  readonly isBegun: () => boolean
  /** What the tail remembers of the log. */
  readonly seen: () => LastSeen.Seen
  /** Whether the tail still has every event after this version. */
  readonly covers: (version: bigint) => boolean
  /** Waits until the log is settled beyond this version. Undefined if the tail does not cover the version any more. */
  readonly next: (version: bigint) => Effect.Effect<News | undefined, Reason>
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
  /** Takes rows as `TailReader` publishes them. */
  readonly publish: TailReader.Publish
  /** Waits until a subscriber has come to the end of the log, and gives what was read up to there. */
  readonly begun: Effect.Effect<LastSeen.Seen>
  /** Tells the subscribers that the connection was lost, and that there is a new one. */
  readonly lose: () => void
}

const makeTail = (toItems: (rows: ReadonlyArray<unknown>) => ReadonlyArray<Item>): Running => {
  const begun = Deferred.makeUnsafe<void>()
  let pages = TailPages.make(0n)
  let seen = LastSeen.of(0n)
  let failure: Reason | undefined
  let grown = Deferred.makeUnsafe<void>()
  let lost = Deferred.makeUnsafe<never, Reason>()

  const tellAll = () => {
    const before = grown
    grown = Deferred.makeUnsafe()
    Deferred.doneUnsafe(before, Effect.void)
  }

  const news = (version: bigint) =>
    Effect.suspend((): Effect.Effect<News | undefined, Reason> => {
      if (failure !== undefined) return Effect.fail(failure)
      return Effect.succeed(pages.covers(version) ? { items: pages.above(version), seen } : undefined)
    })

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
    publish: (rows, now) => {
      seen = now
      if (now.version === pages.end()) return
      pages.add(toItems(rows), now.version, sizeOf(rows))
      tellAll()
    },
    next: (version) =>
      Effect.andThen(
        Effect.whileLoop({
          while: () => failure === undefined && pages.end() <= version,
          body: () => Deferred.await(grown),
          step: () => {}
        }),
        news(version)
      ),
    lost: Effect.suspend(() => Deferred.await(lost)),
    lose: () => {
      const before = lost
      lost = Deferred.makeUnsafe()
      Deferred.doneUnsafe(before, Effect.fail(again))
    },
    end: (reason) => {
      failure = reason
      Deferred.doneUnsafe(lost, Effect.fail(reason))
      tellAll()
    }
  }
}

export const make = Effect.gen(function* () {
  const { integers, names, sql } = yield* PostgresDatabase
  const { listen } = yield* Wakeups
  const read = yield* TailReader.make
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

  /** Reads on each connection, from the end of what was read before. */
  const run = (tail: Running): Effect.Effect<never, Reason, Scope.Scope> => {
    const broken = Deferred.makeUnsafe<never, Reason>()
    const reader = (ear: Ear) =>
      Effect.suspend(() => {
        if (ear.again) tail.lose()
        return untilBegun(tail, ear).pipe(
          Effect.andThen(tail.begun),
          Effect.flatMap((seen) => read(ear, seen, tail.publish)),
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
