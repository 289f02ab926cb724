/**
 * One connection that hears of what is new: of its own, so that it neither waits for the application's pool nor takes from
 * it. Closing the scope closes it, whatever state it is in.
 */
import { PgConnection } from "@effect/sql-pg"
import { Deferred, Duration, Effect, Queue, Scope } from "effect"
import type { SqlError } from "effect/sql"
import { type Reason, Unavailable } from "../../StoreError.ts"
import { silenceLimit } from "../database/Borrowing.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"
import { isTooLarge, reasonOf } from "../database/Reasons.ts"
import * as BytesReceived from "./BytesReceived.ts"

/** On which processes wake each other up. */
export const channel = "strata_wakeups"

const silent = new Unavailable({
  message: "nothing has come for 5 seconds on the connection that listens: it is taken for dead, and opened again"
})

/** How often to look whether something has come, during a silence. */
const looks = 5

/**
 * Fails once nothing at all has come for so long: part of an answer is a sign of life. In several looks, between which the
 * process reads what is there: one that was busy with other things for as long has not heard that there was something.
 */
const untilSilent = (received: () => number) =>
  Effect.suspend(() => {
    let known = received()
    let quiet = 0
    return Effect.whileLoop({
      while: () => quiet < looks,
      body: () => Effect.sleep(Duration.divideUnsafe(silenceLimit, looks)),
      step: () => {
        const now = received()
        quiet = now === known ? quiet + 1 : 0
        known = now
      }
    })
  }).pipe(Effect.andThen(Effect.fail(silent)))

export interface Line {
  readonly query: Query
  /** What comes on the channel. Fails when the connection is lost. */
  readonly heard: Effect.Effect<PgConnection.Notification, Reason>
}

const lost = (reason: Reason) =>
  isTooLarge(reason)
    ? reason
    : new Unavailable({ message: `the connection that listens was lost: ${reason.message}`, cause: reason.cause })

const hear = (queue: Queue.Dequeue<PgConnection.Notification, SqlError.SqlError>): Line["heard"] =>
  Effect.mapError(Queue.take(queue), (error) => lost(reasonOf(error)))

/** What the server says, if it says anything. Statements here read a page by its key, so an answer begins at once. */
const answered = <A>(asking: Effect.Effect<A, SqlError.SqlError>, received: () => number): Effect.Effect<A, Reason> =>
  Effect.suspend(() => {
    const answer = Deferred.makeUnsafe<A, Reason>()
    // Apart: to interrupt it would wait for the server, too. It ends with the connection.
    return asking.pipe(
      Effect.mapError(reasonOf),
      Effect.exit,
      Effect.flatMap((exit) => Deferred.done(answer, exit)),
      Effect.forkDetach({ startImmediately: true }),
      Effect.andThen(Effect.raceFirst(Deferred.await(answer), untilSilent(received)))
    )
  })

export const make = Effect.gen(function* () {
  const { query, sql } = yield* PostgresDatabase

  /** PGlite has one session in this process, which cannot be lost, and tells its listeners by itself. */
  const embedded = sql.listen(channel).pipe(
    Effect.map((queue): Line => ({ query, heard: hear(queue) })),
    Effect.mapError(reasonOf)
  )

  const dedicated = Effect.gen(function* () {
    // Closed after the connection: else it would say UNLISTEN first, and wait for the answer of a server that is gone.
    const listening = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Scope.close(listening, exit))
    const { config, received } = BytesReceived.watch(sql.config)
    const connection = yield* Effect.mapError(PgConnection.make(config), reasonOf)
    const pinned = yield* Scope.provide(connection.pin, listening)
    const queue = yield* answered(Scope.provide(pinned.listen(channel), listening), received)
    const line: Line = {
      heard: hear(queue),
      query: (statement) =>
        Effect.suspend(() => {
          const [text, parameters] = statement.compile()
          return Effect.map(answered(pinned.query(text, parameters), received), ({ rows }) => rows)
        })
    }
    return line
  })

  /** Opens a connection that listens. */
  const open: Effect.Effect<Line, Reason, Scope.Scope> = sql.driver === "pglite" ? embedded : dedicated
  return { open }
})
