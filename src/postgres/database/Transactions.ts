/** How a transaction of the application's client begins and ends, and whether the caller is in one. */
import type { PgClient } from "@effect/sql-pg"
import { Context, Deferred, type Duration, Effect, Fiber } from "effect"
import type { SqlError } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import * as Transactor from "../../Transactor.ts"
import { reasonOf } from "./Reasons.ts"
import type { SilenceLimit } from "./SilenceLimit.ts"
import type { Watch } from "./Watch.ts"

/** What to run if the caller is in a transaction, and what otherwise. */
export interface Cases<A, E, R> {
  readonly inside: () => Effect.Effect<A, E, R>
  readonly outside: () => Effect.Effect<A, E, R>
}

/** The connection of a transaction, and how many savepoints are around the caller. */
type Open = readonly [connection: Connection, savepoints: number]

interface Parts {
  /** The failure of a transaction that has waited for a connection for `acquireTimeout`. */
  readonly exhausted: SqlError.SqlError
  readonly notice: Watch["notice"]
  readonly silence: SilenceLimit
}

export const make = (
  sql: PgClient.PgClient,
  acquireTimeout: Duration.Duration,
  { exhausted, notice, silence }: Parts
) => {
  const current = (context: Context.Context<never>) => Context.getOrUndefined(context, sql.transactionService)

  const inTransaction = Effect.contextWith((context: Context.Context<never>) =>
    Effect.succeed(current(context) !== undefined)
  )

  // Only the outermost transaction waits for a connection. It runs in a fiber of its own, to be interrupted when that takes
  // too long. The effect stays in the caller's fiber: what it forks there may outlive the transaction.
  const outermost = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const begun = yield* Deferred.make<Context.Context<R>, E | SqlError.SqlError>()
        const ended = yield* Deferred.make<A, E>()
        const body = Effect.contextWith((context: Context.Context<R>) => {
          notice(current(context)?.[0])
          return Effect.andThen(Deferred.succeed(begun, context), Deferred.await(ended))
        })
        const transaction = yield* restore(sql.withTransaction(body)).pipe(
          Effect.tapCause((cause) => Deferred.failCause(begun, cause)),
          Effect.forkDetach
        )
        const context = yield* restore(
          Effect.timeoutOrElse(Deferred.await(begun), {
            duration: acquireTimeout,
            orElse: () => Effect.fail(exhausted)
          })
        ).pipe(Effect.onError(() => Fiber.interrupt(transaction)))
        yield* Deferred.done(ended, yield* Effect.exit(restore(Effect.provideContext(effect, context))))
        return yield* Fiber.join(transaction)
      })
    )

  const withTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.flatMap(inTransaction, (inside) => (inside ? sql.withTransaction(effect) : outermost(effect)))

  const watch = (): Transactor.Watch => {
    const { during, silence: reason } = silence.watch()
    return {
      during: (body, beginsWithStore) =>
        Effect.withFiber((fiber) => {
          const [connection, savepoints] = current(fiber.context) ?? []
          // A transaction inside another one ends with it. PGlite is in this process, and stops with it.
          return connection === undefined || savepoints !== 0 || sql.driver === "pglite"
            ? body
            : during(connection, body, beginsWithStore)
        }),
      silence: reason
    }
  }

  return {
    /** The connection of the caller's transaction, if there is one. */
    current,
    /** Runs a statement in a transaction. */
    execute: (
      [connection, savepoints]: Open,
      text: string,
      parameters: ReadonlyArray<unknown>
    ): Effect.Effect<ReadonlyArray<unknown>, SqlError.SqlError> =>
      savepoints === 0
        ? silence.execute(connection, text, parameters)
        : connection.execute(text, parameters, undefined),
    inTransaction,
    whether: <A, E, R>({ inside, outside }: Cases<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.withFiber((fiber) => (current(fiber.context) === undefined ? outside() : inside())),
    transactor: Transactor.fromSqlClient(
      { withTransaction, afterCommit: sql.afterCommit, inTransaction, watch },
      reasonOf
    )
  }
}

export type Transactions = ReturnType<typeof make>
