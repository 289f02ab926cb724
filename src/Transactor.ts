/**
 * One transaction over whichever backend is provided.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { OffsetStore, Transactor } from "effect-strata"
 *
 * export const both = Effect.gen(function* () {
 *   const offsets = yield* OffsetStore.OffsetStore
 *   const { withTransaction } = yield* Transactor.Transactor
 *   yield* withTransaction(
 *     Effect.all([
 *       offsets.writeOffset({ projectionName: "accounts", shardNumber: 0, value: 1n }),
 *       offsets.writeOffset({ projectionName: "accounts", shardNumber: 1, value: 1n })
 *     ])
 *   )
 * })
 * ```
 */
import { Cause, Context, Effect, Exit } from "effect"
import { type SqlClient, SqlError } from "effect/sql"
import { type Reason, StoreError } from "./StoreError.ts"

/** Transactions: see the module's documentation. */
export class Transactor extends Context.Service<
  Transactor,
  {
    /**
     * Everything the effect does with the stores happens together or not at all: it commits when the effect succeeds,
     * and rolls back when it fails, dies or is interrupted. Nested calls are savepoints: one that fails undoes only its
     * own part.
     *
     * **Details**
     *
     * On Postgres this is `SqlClient.withTransaction`, so the application's own statements and all stores share the
     * transaction, whichever of the two opened it. Isolation is READ COMMITTED, on memory too: other transactions are
     * seen once they commit, and a row that one of them has written waits for its end.
     *
     * **Gotchas**
     *
     * A `StoreError` inside a transaction ends it, as in Postgres, even if it is caught: what follows fails, and so does
     * the commit. Domain errors (`OffsetConflict`, ..) do not. Put a nested `withTransaction` around what may fail.
     *
     * When the connection is lost during the commit itself, the error is `Unavailable` and nobody can tell whether the
     * transaction took effect. When it is lost before, the effect's own failure is the result; the application's own
     * `sql.withTransaction` dies there instead, of the ROLLBACK that fails.
     */
    readonly withTransaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | StoreError, R>

    /**
     * Runs the effect once the outermost transaction has committed, never after a rollback (of the whole or of the
     * savepoint that asked for it), and at once outside of a transaction.
     *
     * **Gotchas**
     *
     * It is lost if the process ends in between: a hint, not a promise. Keep it short, `withTransaction` waits for it. What
     * it forks as a child ends with it: use `Effect.forkDetach` or `Effect.forkIn` for what shall go on.
     */
    readonly afterCommit: <R>(effect: Effect.Effect<void, never, R>) => Effect.Effect<void, never, R>
  }
>()("effect-strata/Transactor") {}

/**
 * A transactor on top of a `SqlClient`: the application's on Postgres, or the one that drives the memory backend.
 * `reasonOf` says what the client's errors mean.
 */
export const fromSqlClient = (
  client: Pick<SqlClient.SqlClient, "withTransaction" | "afterCommit">,
  reasonOf: (error: SqlError.SqlError) => Reason
): Transactor["Service"] => {
  const storeError = (error: SqlError.SqlError) =>
    new StoreError({ store: "Transactor", operation: "withTransaction", reason: reasonOf(error) })

  const withTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | StoreError, R> =>
    Effect.suspend(() => {
      let body: Exit.Exit<A, E> | undefined
      const observed = Effect.onExit(effect, (exit) =>
        Effect.sync(() => {
          body = exit
        })
      )
      const explained = (cause: Cause.Cause<E | SqlError.SqlError>): Effect.Effect<never, E | StoreError> => {
        // The effect's own failure is the answer, also when the ROLLBACK after it fails, which the client reports as a
        // defect: the connection is gone then, and the server rolls back by itself.
        if (body !== undefined && Exit.isFailure(body)) return Effect.failCause(body.cause)
        // Else BEGIN, SAVEPOINT or COMMIT failed, or as a defect RELEASE, after an error that the effect had caught.
        const reasons = cause.reasons.map((reason) => {
          if (Cause.isFailReason(reason)) {
            return Cause.makeFailReason(SqlError.isSqlError(reason.error) ? storeError(reason.error) : reason.error)
          }
          return Cause.isDieReason(reason) && SqlError.isSqlError(reason.defect)
            ? Cause.makeFailReason(storeError(reason.defect))
            : reason
        })
        return Effect.failCause(Cause.fromReasons(reasons))
      }
      // Where it was interrupted, too: what is interruptible is not asked what to make of its end.
      return Effect.uninterruptibleMask((restore) =>
        Effect.catchCause(restore(client.withTransaction(observed)), explained)
      )
    })

  return Transactor.of({ withTransaction, afterCommit: client.afterCommit })
}
