/**
 * How a statement outside of a transaction gets a connection of the application's pool.
 *
 * **Details**
 *
 * To take a connection out of the pool for a statement, and to put it back, costs as much as the rest of a short statement.
 * So a statement that has its answer leaves the connection to the next one, if that comes before the turn of the event loop
 * ends, and a loop of statements takes it out of the pool once. Others wait for the connection until that turn ends; where
 * statements follow each other without an end, until it has been out of the pool for `maxMillisOutOfPool`.
 *
 * A connection on which the server has refused to write is closed instead of put back. A session that is read-only stays so,
 * whatever the settings of its role are by now, and it stays on a server that has become a standby, wherever its name leads by
 * now. The pool opens another one, which may be able to write. Where only the transaction was read-only, nothing is lost.
 */
import type { PgClient } from "@effect/sql-pg"
import { Cause, Duration, Effect, Exit, Scope } from "effect"
import { SqlError } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import { onRealClock } from "../../internal/RealTime.ts"
import { Unavailable } from "../../StoreError.ts"
import * as Line from "./Line.ts"
import { isReadOnlySession } from "./Reasons.ts"
import type { Watch } from "./Watch.ts"

/** For how many milliseconds a connection stays out of the pool at most, unless a single statement takes longer. */
const maxMillisOutOfPool = Duration.toMillis("5 millis")

/** A connection that is out of the pool. */
export interface Borrowed {
  readonly connection: Connection
  /** Its end puts the connection back. */
  readonly scope: Scope.Closeable
  /** When it was taken out, in milliseconds by the machine's clock, not by Effect's: others really wait for it. */
  readonly since: number
}

/** Makes an effect interruptible where the caller is. */
type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

const readOnly = new Unavailable({ message: "a connection was closed, as the server refused to write on it" })

/** Whether what has failed was a write that the server has refused. */
const isReadOnly = (reason: Cause.Reason<SqlError.SqlError>): boolean =>
  Cause.isFailReason(reason) && isReadOnlySession(reason.error.reason)

type Use<A> = (connection: Connection) => Effect.Effect<A, SqlError.SqlError>

export const make = Effect.fnUntraced(function* (
  sql: PgClient.PgClient,
  acquireTimeout: Duration.Duration,
  notice: Watch["notice"]
) {
  const fork = Effect.runForkWith(yield* Effect.context())

  const cause = new Unavailable({
    message:
      `no connection came free within ${Duration.format(acquireTimeout)}: the pool is exhausted; ` +
      "make it larger, or hold transactions open for less time"
  })
  const exhausted = new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause }) })

  const reserve = onRealClock(
    Effect.timeoutOrElse(sql.reserve, { duration: acquireTimeout, orElse: () => Effect.fail(exhausted) })
  )

  const takeOut = (restore: Restore): Effect.Effect<Borrowed, SqlError.SqlError> => {
    const scope = Scope.makeUnsafe()
    return restore(reserve).pipe(
      Scope.provide(scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))),
      Effect.map((connection): Borrowed => {
        const since = performance.now()
        notice(connection, since)
        return { connection, scope, since }
      })
    )
  }

  /** Puts the connection back, or closes it if the server has refused to write on it. */
  const putBack = (
    { connection, scope }: Borrowed,
    exit: Exit.Exit<unknown, unknown>,
    isRefused: boolean
  ): Effect.Effect<void> => {
    const back = Scope.close(scope, exit)
    // PGlite has one session, and is in this process.
    if (!isRefused || sql.driver === "pglite") return back
    const own = Line.connectionOf(connection)
    const retired = own && Line.of(own)?.retire(readOnly)
    return retired === undefined ? back : Effect.andThen(retired, back)
  }

  /** The connections whose statements have been answered in this turn of the event loop. */
  const idle: Array<Borrowed> = []
  let isTurnEnding = false

  const putBackIdle = () => {
    isTurnEnding = false
    for (const { scope } of idle.splice(0)) fork(Scope.close(scope, Exit.void))
  }

  const leave = (borrowed: Borrowed, exit: Exit.Exit<unknown, SqlError.SqlError>) => {
    if (Exit.isFailure(exit) || performance.now() - borrowed.since > maxMillisOutOfPool) {
      return putBack(borrowed, exit, Exit.isFailure(exit) && exit.cause.reasons.some(isReadOnly))
    }
    idle.push(borrowed)
    if (!isTurnEnding) {
      isTurnEnding = true
      queueMicrotask(putBackIdle)
    }
    return undefined
  }

  const borrow = <A>(use: Use<A>): Effect.Effect<A, SqlError.SqlError> =>
    Effect.uninterruptibleMask((restore) => {
      const using = (borrowed: Borrowed) =>
        Effect.onExitPrimitive(restore(use(borrowed.connection)), (exit) => leave(borrowed, exit))
      const left = idle.pop()
      return left === undefined ? Effect.flatMap(takeOut(restore), using) : using(left)
    })

  return {
    /** Uses a connection for one statement. */
    borrow,
    /** Takes a connection out of the pool, for the caller to put back. It is watched from then on. */
    takeOut,
    putBack
  }
})

export type Borrowing = Effect.Success<ReturnType<typeof make>>
