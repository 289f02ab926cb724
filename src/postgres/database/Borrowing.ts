/**
 * How a statement outside of a transaction gets a connection of the application's pool.
 *
 * **Details**
 *
 * To take a connection out of the pool for a statement, and to put it back, costs as much as the rest of a short one. So
 * who has got an answer leaves the connection to the next statement, if that comes before the turn of the event loop ends.
 * A loop of statements takes it out once. Nobody else waits for it longer than that turn, or where statements follow each
 * other without an end, than `turn`.
 */
import type { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Exit, Scope } from "effect"
import { SqlError } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import { type Reason, Unavailable } from "../../StoreError.ts"

/** Without an answer for so long to what takes no time, nobody is there any more. */
export const silence = Duration.seconds(5)

/** How many milliseconds a connection stays out of the pool, if not for one statement that takes longer. */
const turn = 5

const sqlErrorOf = (cause: Reason) => new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause }) })

const silent = sqlErrorOf(
  new Unavailable({
    message: "a connection of the pool has not answered for 5 seconds: it is taken for dead, and closed; call again"
  })
)

interface Lease {
  readonly connection: Connection
  readonly scope: Scope.Closeable
  /** By the clock of the machine: what is limited is how long others wait. */
  readonly since: number
}

type Use<A> = (connection: Connection) => Effect.Effect<A, SqlError.SqlError>

export const make = Effect.fnUntraced(function* (sql: PgClient.PgClient, patience: Duration.Duration) {
  const fork = Effect.runForkWith(yield* Effect.context())

  const exhausted = sqlErrorOf(
    new Unavailable({
      message:
        `no connection came free within ${Duration.format(patience)}: the pool is exhausted; ` +
        "make it larger, or hold transactions open for less time"
    })
  )

  const reserve = Effect.timeoutOrElse(sql.reserve, { duration: patience, orElse: () => Effect.fail(exhausted) })

  const alive = Effect.tap(reserve, (connection) =>
    Effect.timeoutOrElse(connection.execute("SELECT 1", [], undefined), {
      duration: silence,
      orElse: () => Effect.fail(silent)
    })
  )

  const fresh = (reserving: typeof reserve) => {
    const scope = Scope.makeUnsafe()
    return reserving.pipe(
      Scope.provide(scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))),
      Effect.map((connection): Lease => ({ connection, scope, since: performance.now() }))
    )
  }

  /** Those that have answered in this turn of the event loop. */
  const idle: Array<Lease> = []
  let ending = false

  const endOfTurn = () => {
    ending = false
    for (const { scope } of idle.splice(0)) fork(Scope.close(scope, Exit.void))
  }

  const leave = (lease: Lease, exit: Exit.Exit<unknown, unknown>) => {
    if (Exit.isFailure(exit) || performance.now() - lease.since > turn) return Scope.close(lease.scope, exit)
    idle.push(lease)
    if (!ending) {
      ending = true
      queueMicrotask(endOfTurn)
    }
    return undefined
  }

  const borrow =
    (reserving: typeof reserve) =>
    <A>(use: Use<A>): Effect.Effect<A, SqlError.SqlError> =>
      Effect.uninterruptibleMask((restore) => {
        const using = (lease: Lease) =>
          Effect.onExitPrimitive(restore(use(lease.connection)), (exit) => leave(lease, exit))
        const left = idle.pop()
        return left === undefined ? Effect.flatMap(fresh(restore(reserving)), using) : using(left)
      })

  return {
    exhausted,
    /** Uses a connection for one statement. */
    borrow: borrow(reserve),
    /** The same for one that answers: it has a moment ago, or it is asked. */
    borrowAlive: borrow(alive)
  }
})
