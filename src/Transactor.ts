/**
 * One transaction over all stores of the backend that is provided.
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
     * On Postgres `withTransaction` is that of `SqlClient`, so the application's own statements and all stores share the
     * transaction, whichever of them opened it. The isolation level is READ COMMITTED, on memory too: a transaction sees what
     * others have committed, and waits to write a row until the transaction that has written it has ended.
     *
     * **Gotchas**
     *
     * A `StoreError` inside a transaction ends it, as in Postgres, even if it is caught: what follows fails, and so does
     * the commit. Domain errors (`OffsetConflict`, ..) do not end it. Put a nested `withTransaction` around what may fail.
     *
     * When the connection is lost during the commit itself, the error is `Unavailable`, and it is unknown whether the
     * transaction took effect. When the connection is lost before the commit, the effect's own failure is the result. The
     * application's own `sql.withTransaction` dies in that case, because its ROLLBACK fails.
     */
    readonly withTransaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | StoreError, R>

    /**
     * The same for work that other processes take over when this one has stopped in the middle of it: its host hangs, or a
     * cable is cut. Then the transaction is rolled back within seconds, and its locks are released. While the process lives,
     * the effect may take as long as it wants. Projections and workers run their handlers in such transactions.
     *
     * **Details**
     *
     * On Postgres `silenceLimit` of the layer says how long the server waits for a process that says nothing. A process that
     * goes on after that, or whose event loop was busy for so long, finds the transaction ended: it fails with `Timeout`, and
     * nothing has taken effect. In memory nothing outlives the process. Inside a transaction it is a savepoint.
     *
     * `beginsWithStore` says that the effect begins with an operation of a store, at once, and not with the application's own
     * SQL. Where that operation writes and returns a row, it tells Postgres the limit, and no round trip is added.
     */
    readonly withWatchedTransaction: <A, E, R>(
      effect: Effect.Effect<A, E, R>,
      options?: { readonly beginsWithStore?: boolean }
    ) => Effect.Effect<A, E | StoreError, R>

    /**
     * Runs the effect once the outermost transaction has committed, never after a rollback (of the whole or of the
     * savepoint that asked for it), and at once outside of a transaction.
     *
     * **Gotchas**
     *
     * The effect is lost if the process ends in between: it is a hint, not a promise. Keep it short, because
     * `withTransaction` waits for it. A fiber that it forks as a child ends with it: use `Effect.forkDetach` or
     * `Effect.forkIn` for a fiber that must go on.
     */
    readonly afterCommit: <R>(effect: Effect.Effect<void, never, R>) => Effect.Effect<void, never, R>

    /** Whether the caller is in a transaction: one of this service, or of the `SqlClient` that it shares. */
    readonly inTransaction: Effect.Effect<boolean>
  }
>()("effect-strata/Transactor") {}

/**
 * `Transactor.withTransaction` of the backend that is provided, as a function to pipe an effect through, or to end an
 * `Effect.fn` with.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { OffsetStore, Transactor } from "effect-strata"
 *
 * export const forget = Effect.fn("forget")(function* (projections: ReadonlyArray<string>) {
 *   const offsets = yield* OffsetStore.OffsetStore
 *   yield* Effect.forEach(projections, offsets.deleteOffsets)
 * }, Transactor.withTransaction)
 * ```
 */
export const withTransaction = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | StoreError, R | Transactor> =>
  Transactor.use((transactor) => transactor.withTransaction(effect))

/** What a backend that outlives this process needs for one watched transaction. */
export interface Watch {
  /** Runs the body of the transaction, in it. `beginsWithStore` says with what the body begins. */
  readonly during: <A, E, R>(body: Effect.Effect<A, E, R>, beginsWithStore: boolean) => Effect.Effect<A, E, R>
  /** Why the backend has ended the transaction, if this process was silent for too long. */
  readonly silence: () => Reason | undefined
}

/** The part of a `SqlClient` that transactions need. */
type Client = Pick<SqlClient.SqlClient, "withTransaction" | "afterCommit"> &
  Pick<Transactor["Service"], "inTransaction">

/**
 * A transactor on top of a `SqlClient`: the application's on Postgres, or the one that drives the memory backend.
 * `reasonOf` gives the `Reason` for an error of the client. Without `watch` no transaction outlives the process.
 */
export const fromSqlClient = (
  client: Client & { readonly watch?: () => Watch },
  reasonOf: (error: SqlError.SqlError) => Reason
): Transactor["Service"] => {
  const storeError = (reason: Reason) => new StoreError({ store: "Transactor", operation: "withTransaction", reason })

  /** BEGIN, SAVEPOINT, COMMIT or a statement has failed, or RELEASE or ROLLBACK, which the client reports as a defect. */
  const isOfClient = (reason: Cause.Reason<unknown>): boolean =>
    (Cause.isFailReason(reason) && SqlError.isSqlError(reason.error)) ||
    (Cause.isDieReason(reason) && SqlError.isSqlError(reason.defect))

  const run = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    silence: () => Reason | undefined
  ): Effect.Effect<A, E | StoreError, R> =>
    Effect.suspend(() => {
      let body: Exit.Exit<A, E> | undefined
      const observed = Effect.onExit(effect, (exit) =>
        Effect.sync(() => {
          body = exit
        })
      )
      const explained = (cause: Cause.Cause<E | SqlError.SqlError>): Effect.Effect<never, E | StoreError> => {
        // What has failed after the silence has failed because of it.
        const silent = cause.reasons.some(isOfClient) ? silence() : undefined
        if (silent !== undefined) return Effect.fail(storeError(silent))
        // The effect's own failure is the result, even when the ROLLBACK after it fails, which the client reports as a
        // defect: then the connection is gone, and the server rolls back by itself.
        if (body !== undefined && Exit.isFailure(body)) return Effect.failCause(body.cause)
        // Otherwise BEGIN, SAVEPOINT or COMMIT failed, or RELEASE, which is a defect, after an error that the effect caught.
        const reasons = cause.reasons.map((reason) => {
          if (Cause.isFailReason(reason)) {
            return Cause.makeFailReason(
              SqlError.isSqlError(reason.error) ? storeError(reasonOf(reason.error)) : reason.error
            )
          }
          return Cause.isDieReason(reason) && SqlError.isSqlError(reason.defect)
            ? Cause.makeFailReason(storeError(reasonOf(reason.defect)))
            : reason
        })
        return Effect.failCause(Cause.fromReasons(reasons))
      }
      // Uninterruptible, because `catchCause` does not run in a region that was interrupted.
      return Effect.uninterruptibleMask((restore) =>
        Effect.catchCause(restore(client.withTransaction(observed)), explained)
      )
    })

  const isNotWatched = () => undefined
  const withTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>) => run(effect, isNotWatched)

  return Transactor.of({
    withTransaction,
    withWatchedTransaction: (effect, { beginsWithStore = false } = {}) =>
      Effect.suspend(() => {
        const watch = client.watch?.()
        return watch === undefined ? withTransaction(effect) : run(watch.during(effect, beginsWithStore), watch.silence)
      }),
    afterCommit: client.afterCommit,
    inTransaction: client.inTransaction
  })
}
