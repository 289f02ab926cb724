/**
 * One connection that hears of what is new: of its own, so that it neither waits for the application's pool nor takes from
 * it. Closing the scope closes it, whatever state it is in.
 */
import { PgConnection } from "@effect/sql-pg"
import { Deferred, Effect, Exit, Queue, Scope } from "effect"
import { type Reason, Unavailable } from "../StoreError.ts"
import { PostgresDatabase, type Query } from "./PostgresDatabase.ts"
import { reasonOf } from "./Reasons.ts"

/** On which processes wake each other up. */
export const channel = "strata_wakeups"

/** A statement here reads a page by its key. Without an answer for so long, nobody is there any more. */
const patience = "5 seconds"

const silent = new Unavailable({
  message: "no answer for 5 seconds on the connection that listens: it is taken for dead, and opened again"
})

export interface Line {
  readonly query: Query
  /** What comes on the channel. Fails when the connection is lost. */
  readonly heard: Effect.Effect<PgConnection.Notification, Reason>
}

const lost = (reason: Reason) =>
  new Unavailable({ message: `the connection that listens was lost: ${reason.message}`, cause: reason.cause })

const hear = (queue: Queue.Dequeue<PgConnection.Notification, Parameters<typeof reasonOf>[0]>): Line["heard"] =>
  Effect.mapError(Queue.take(queue), (error) => lost(reasonOf(error)))

export const make = Effect.gen(function* () {
  const { query, sql } = yield* PostgresDatabase

  /** PGlite has one session in this process, which cannot be lost, and tells its listeners by itself. */
  const embedded = Effect.map(sql.listen(channel), (queue): Line => ({ query, heard: hear(queue) }))

  const dedicated = Effect.gen(function* () {
    // Closed after the connection: else it would say UNLISTEN first, and wait for the answer of a server that is gone.
    const listening = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Scope.close(listening, exit))
    const connection = yield* PgConnection.make(sql.config)
    const pinned = yield* Scope.provide(connection.pin, listening)
    const queue = yield* Scope.provide(pinned.listen(channel), listening)
    const line: Line = {
      heard: hear(queue),
      query: (statement) =>
        Effect.suspend(() => {
          const [text, parameters] = statement.compile()
          const answer = Deferred.makeUnsafe<ReadonlyArray<unknown>, Reason>()
          // Apart: to interrupt it would wait for the server, too. It ends with the connection.
          return pinned.query(text, parameters).pipe(
            Effect.matchCause({
              onFailure: (cause) => Exit.mapError(Exit.failCause(cause), reasonOf),
              onSuccess: ({ rows }) => Exit.succeed(rows)
            }),
            Effect.flatMap((exit) => Deferred.done(answer, exit)),
            Effect.forkDetach({ startImmediately: true }),
            Effect.andThen(
              Effect.timeoutOrElse(Deferred.await(answer), { duration: patience, orElse: () => Effect.fail(silent) })
            )
          )
        })
    }
    return line
  })

  /** Opens a connection that listens. */
  const open: Effect.Effect<Line, Reason, Scope.Scope> = Effect.mapError(
    sql.driver === "pglite" ? embedded : dedicated,
    reasonOf
  )
  return { open }
})
