/**
 * How the readers of a table hear, in every process, that there is something new in it.
 *
 * A wake-up is a hint: the table is the truth, and a reader that waits for wake-ups also looks by itself now and then. A
 * wake-up can be lost: when a process ends between its commit and the wake-up, when the connection that listens is lost,
 * behind a pooler that does not pass it on. Where no notification arrives, the readers of `changes` are woken by the clock.
 *
 * **Details**
 *
 * A transaction that runs NOTIFY takes a lock of the whole instance for its commit: 23k commits/s became 7.7k. So nothing
 * is notified in the transaction. After its commit the readers in this process are woken at once, and those in others by an
 * empty notification in a transaction of its own, at most one every few milliseconds. All readers listen on one connection,
 * which is open while there is a reader.
 */
import {
  Context,
  Deferred,
  Duration,
  Effect,
  Latch,
  Layer,
  Option,
  Queue,
  type Scope,
  Stream,
  type SubscriptionRef
} from "effect"
import type { ListenerStatus } from "../../EventStore.ts"
import { onRealClock } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import * as Connector from "./Connector.ts"
import * as Notifications from "./Notifications.ts"
import type { Table } from "./Notifications.ts"
import { makePace } from "./Pace.ts"

/** How long a reader of `changes` hears nothing before it asks whether the connection still lives. */
const heartbeatInterval = Duration.minutes(1)

/** What a reader has to hear with: as long as the connection lasts. */
export interface Ear {
  /** Runs a statement on the connection that listens. Its failure is the end of that connection. */
  readonly query: Query
  /**
   * Waits for a wake-up, but not longer than this, and says whether it came. A wake-up that has come since the last wait
   * counts.
   */
  readonly wait: (atMost: Duration.Input) => Effect.Effect<Option.Option<void>>
  /** Whether notifications are known to arrive. */
  readonly isHeard: () => boolean
  /** Whether a connection has been lost, or could not be had, since the reader ran last or first wanted to. */
  readonly again: boolean
}

export class Wakeups extends Context.Service<
  Wakeups,
  {
    /** Wakes all readers of the table, at once and without waiting for anything. It is called after the commit. */
    readonly announce: (table: Table) => void

    /**
     * Runs the reader on a connection that listens, and from its start again on the next connection after each loss, until
     * the reconnect schedule ends. It listens before the reader runs, so no wake-up falls between the reading and the
     * waiting of the reader.
     */
    readonly listen: (
      table: Table,
      reader: (ear: Ear) => Effect.Effect<never, Reason>
    ) => Effect.Effect<never, Reason, Scope.Scope>

    /** Says that a reader has found something in the table: where no notification arrives, it looks again soon. */
    readonly found: (table: Table) => void

    /**
     * Emits once it listens, again after each loss of the connection, and whenever the table is announced. Where no
     * notification arrives, it emits once a second, and every 5 seconds after half a minute in which nothing was found.
     */
    readonly changes: (table: Table) => Stream.Stream<void, Reason>

    readonly status: SubscriptionRef.SubscriptionRef<ListenerStatus>
  }
>()("effect-strata/postgres/Wakeups") {}

type Listen = Wakeups["Service"]["listen"]

/** The latches of the readers of each table in this process. */
const makeReaders = () => {
  const latches = new Map(Notifications.tables.map((table) => [table, new Set<Latch.Latch>()]))
  return {
    wake: (table: Table) => {
      for (const latch of latches.get(table) ?? []) latch.openUnsafe()
    },
    /** A latch that opens with each wake-up of the table, until the scope closes. */
    latchOf: (table: Table) =>
      Effect.acquireRelease(
        Effect.tap(Latch.make(), (latch) => Effect.sync(() => latches.get(table)?.add(latch))),
        (latch) => Effect.sync(() => latches.get(table)?.delete(latch))
      )
  }
}

/** The stream of a table's changes, by a reader that only tells of wake-ups. */
const changesBy =
  (
    listen: Listen,
    heartbeat: (query: Query) => Effect.Effect<unknown, Reason>,
    blindWait: (table: Table) => Duration.Duration | undefined
  ) =>
  (table: Table) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const queue = yield* Queue.sliding<void, Reason>(1)
        const tell = Effect.asVoid(Queue.offer(queue, undefined))
        const reader = ({ query, wait }: Ear) => {
          const once = Effect.suspend(() => {
            const blind = blindWait(table)
            return Effect.flatMap(wait(blind ?? heartbeatInterval), (woken) => {
              if (Option.isSome(woken)) return tell
              return blind === undefined ? Effect.asVoid(heartbeat(query)) : Effect.andThen(heartbeat(query), tell)
            })
          })
          return Effect.andThen(tell, Effect.forever(once))
        }
        yield* listen(table, reader).pipe(
          Effect.catch((reason: Reason) => Queue.fail(queue, reason)),
          Effect.forkScoped
        )
        return Stream.fromQueue(queue)
      })
    )

const make = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const { latchOf, wake } = makeReaders()
  const notifier = yield* Notifications.make
  const { connector, isDeaf, isHeard, status } = yield* Connector.make(wake, notifier)
  const pace = makePace(() => performance.now())

  const listen: Listen = Effect.fnUntraced(function* (table, reader): Effect.fn.Return<never, Reason, Scope.Scope> {
    const { connected, count } = yield* connector
    let known = count()
    const latch = yield* latchOf(table)
    const wait = (atMost: Duration.Input) =>
      Effect.tap(onRealClock(Effect.timeoutOption(latch.await, atMost)), () => Effect.sync(() => latch.closeUnsafe()))
    return yield* Effect.forever(
      Effect.gen(function* () {
        const { before, lost, query } = yield* connected
        const again = before > known
        known = before
        const reason = yield* Effect.flip(
          Effect.raceFirst(reader({ query, wait, isHeard, again }), Deferred.await(lost))
        )
        yield* Deferred.fail(lost, reason)
      })
    )
  })

  return Wakeups.of({
    announce: (table) => {
      pace.found(table)
      wake(table)
      notifier.notify(table)
    },
    found: pace.found,
    listen,
    changes: changesBy(
      listen,
      (query) => query(sql`SELECT 1`),
      (table) => (isDeaf() ? pace.wait(table) : undefined)
    ),
    status
  })
})

export const layer: Layer.Layer<Wakeups, never, PostgresDatabase> = Layer.effect(Wakeups, make)
