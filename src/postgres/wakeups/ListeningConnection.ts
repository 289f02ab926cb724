/**
 * The connection that listens. It is beside the application's pool, so that it neither waits for the pool nor takes from
 * it, and it may lead to the server by a way of its own. Closing the scope closes it, whatever state it is in.
 */
import { PgConnection } from "@effect/sql-pg"
import { Deferred, Duration, Effect, Queue, Scope, Semaphore } from "effect"
import type { SqlError } from "effect/sql"
import { type Reason, Unavailable } from "../../StoreError.ts"
import type { Executing } from "../database/Isolation.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import { isTooLarge, reasonOf } from "../database/Reasons.ts"
import { channel, rowChannel } from "./Notifications.ts"

/** How long the server may take to hear that a statement is not wanted any more. */
const cancelLimit = Duration.seconds(1)

export interface ListeningConnection {
  readonly query: Query
  /** The next notification on the channel. Fails when the connection is lost. */
  readonly heard: Effect.Effect<PgConnection.Notification, Reason>
  /** Waits until go-sync-kit's trigger has notified of some events since the last wait. Fails when the connection is lost. */
  readonly heardOfRows: Effect.Effect<void, Reason>
}

const lost = (reason: Reason) =>
  isTooLarge(reason)
    ? reason
    : new Unavailable({ message: `the connection that listens was lost: ${reason.message}`, cause: reason.cause })

type Heard = Queue.Dequeue<PgConnection.Notification, SqlError.SqlError>

/** How many notifications of a batch are looked at, of those with different payloads. Ours have a few. */
const mostPayloads = 1000

/**
 * The notifications of the queue, equal ones once. Any role that may connect can notify, and the driver's queue has no bound. So
 * all of them are taken at once. Of a flood some are dropped, and with them perhaps a wake-up: readers look by themselves within
 * a second.
 */
const taken = (queue: Heard): Effect.Effect<PgConnection.Notification, SqlError.SqlError> => {
  let waiting: Array<PgConnection.Notification> = []
  return Effect.suspend(() => {
    const next = waiting.pop()
    if (next !== undefined) return Effect.succeed(next)
    return Effect.map(Queue.takeAll(queue), ([first, ...rest]) => {
      const different = new Map<string, PgConnection.Notification>()
      for (const notification of rest) {
        if (different.size >= mostPayloads) break
        different.set(notification.payload, notification)
      }
      different.delete(first.payload)
      waiting = [...different.values()]
      return first
    })
  })
}

const hear = (queue: Heard, rows: Heard): Pick<ListeningConnection, "heard" | "heardOfRows"> => ({
  heard: Effect.mapError(taken(queue), (error) => lost(reasonOf(error))),
  // All at once: a writer of many rows notifies of each.
  heardOfRows: Effect.mapError(Effect.asVoid(Queue.takeAll(rows)), (error) => lost(reasonOf(error)))
})

/**
 * Runs questions in fibers of their own, which end with the connection: to interrupt one would wait for the server, and could
 * cancel the question of another reader. A connection that is closed meanwhile takes its backend with it, which may wait for a
 * lock and would not see that nobody is there.
 */
const asking = (cancel: Effect.Effect<void>) =>
  Effect.gen(function* () {
    let unanswered = 0
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => (unanswered === 0 ? Effect.void : Effect.timeoutOption(cancel, cancelLimit)))
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
