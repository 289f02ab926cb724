/**
 * The connection that listens. It is beside the application's pool, so that it neither waits for the pool nor takes from
 * it, and it may lead to the server by a way of its own. Closing the scope closes it, whatever state it is in.
 */
import { PgConnection } from "@effect/sql-pg"
import { Deferred, Duration, Effect, Queue, Scope, Semaphore } from "effect"
import type { SqlError } from "effect/sql"
import { onRealClock } from "../../internal/RealTime.ts"
import { type Reason, Unavailable } from "../../StoreError.ts"
import type { Executing } from "../database/Isolation.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import { isTooLarge, reasonOf } from "../database/Reasons.ts"
import { channel, rowChannel } from "./Notifications.ts"

/** How long the server may take to hear that a statement is not wanted any more. */
const cancelLimit = Duration.seconds(1)

/** What was notified on the channel since the last wait. */
export interface Heard {
  /** The payloads, equal ones once. */
  readonly payloads: ReadonlySet<string>
  /** Whether there were more than are kept: then anything may have been notified. */
  readonly isMore: boolean
}

export interface ListeningConnection {
  readonly query: Query
  /** Waits until something is notified on the channel. Fails when the connection is lost. */
  readonly heard: Effect.Effect<Heard, Reason>
  /** Waits until go-sync-kit's trigger has notified of some events since the last wait. Fails when the connection is lost. */
  readonly heardOfRows: Effect.Effect<void, Reason>
}

const lost = (reason: Reason) =>
  isTooLarge(reason)
    ? reason
    : new Unavailable({ message: `the connection that listens was lost: ${reason.message}`, cause: reason.cause })

type Notified = Queue.Dequeue<PgConnection.Notification, SqlError.SqlError>

/** How many notifications wait on the channel at most. Ours are a few in each turn of the event loop. */
const mostWaiting = 256

/**
 * Keeps at most so many notifications: the queue drops the ones after them. Any role that may connect can notify, a payload has up
 * to 8,000 bytes, and the driver's queues have no bound of their own.
 */
const bound = (queue: Notified, most: number): Notified => {
  queue.capacity = most
  return queue
}

const hear = (notified: Notified, rows: Notified): Pick<ListeningConnection, "heard" | "heardOfRows"> => {
  const waiting = bound(notified, mostWaiting)
  // A writer of many rows notifies of each, and one says all.
  const waitingRow = bound(rows, 1)
  return {
    heard: Queue.takeAll(waiting).pipe(
      Effect.map((all) => ({
        payloads: new Set(all.map(({ payload }) => payload)),
        isMore: all.length >= mostWaiting
      })),
      Effect.mapError((error) => lost(reasonOf(error)))
    ),
    heardOfRows: Effect.mapError(Effect.asVoid(Queue.takeAll(waitingRow)), (error) => lost(reasonOf(error)))
  }
}

/**
 * Runs questions in fibers of their own, which end with the connection: to interrupt one would wait for the server, and could
 * cancel the question of another reader. A connection that is closed meanwhile takes its backend with it, which may wait for a
 * lock and would not see that nobody is there.
 */
const asking = (cancel: Effect.Effect<void>) =>
  Effect.gen(function* () {
    let unanswered = 0
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => (unanswered === 0 ? Effect.void : onRealClock(Effect.timeoutOption(cancel, cancelLimit))))
    )
    return <A>(question: Effect.Effect<A, SqlError.SqlError>): Effect.Effect<A, Reason> =>
      Effect.suspend(() => {
        const answer = Deferred.makeUnsafe<A, Reason>()
        unanswered++
        return question.pipe(
          Effect.mapError(reasonOf),
          Effect.exit,
          Effect.flatMap((exit) => {
            unanswered--
            return Deferred.done(answer, exit)
          }),
          Effect.forkDetach({ startImmediately: true }),
          Effect.andThen(Deferred.await(answer))
        )
      })
  })

export const make = Effect.gen(function* () {
  const { isolated, listen, noticeReader, query, sql } = yield* PostgresDatabase

  /** PGlite has one session, in this process, which cannot be lost. It tells its listeners by itself. */
  const embedded = Effect.zipWith(sql.listen(channel), sql.listen(rowChannel), (queue, rows): ListeningConnection => ({
    query,
    ...hear(queue, rows)
  })).pipe(Effect.mapError(reasonOf))

  const dedicated = Effect.gen(function* () {
    // This scope closes after the connection. If it closed before, it would say UNLISTEN, and wait for the answer of a server
    // that may be gone.
    const pinning = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Scope.close(pinning, exit))
    const connection = yield* Effect.mapError(PgConnection.make(listen ?? sql.config), reasonOf)
    noticeReader(connection)
    const pinned = yield* Scope.provide(connection.pin, pinning)
    const answered = yield* asking(pinned.interrupt)
    const listenTo = (channel: string) => answered(Scope.provide(pinned.listen(channel), pinning))
    const [queue, rows] = [yield* listenTo(channel), yield* listenTo(rowChannel)]
    const executing: Executing = {
      execute: (text, parameters) => Effect.map(pinned.query(text, parameters), ({ rows }) => rows)
    }
    // One after the other, as a statement may take a transaction of its own.
    const inTurn = Semaphore.withPermit(yield* Semaphore.make(1))
    const listening: ListeningConnection = {
      ...hear(queue, rows),
      query: (statement) => Effect.suspend(() => answered(inTurn(isolated(executing, ...statement.compile()))))
    }
    return listening
  })

  /** Opens a connection that listens. */
  const open: Effect.Effect<ListeningConnection, Reason, Scope.Scope> = sql.driver === "pglite" ? embedded : dedicated
  return { open }
})
