/** How a transaction of the application's client begins and ends, and whether the caller is in one. */
import type { PgClient } from "@effect/sql-pg"
import { Context, Deferred, type Duration, Effect, Fiber } from "effect"
import type { SqlError } from "effect/sql"
import type { Watch } from "./Watch.ts"

/** What to run if the caller is in a transaction, and what otherwise. */
export interface Cases<A, E, R> {
  readonly inside: () => Effect.Effect<A, E, R>
  readonly outside: () => Effect.Effect<A, E, R>
}

/** A transaction waits for a connection for `acquireTimeout`, then fails with `exhausted`. */
export const make = (
  sql: PgClient.PgClient,
  acquireTimeout: Duration.Duration,
  exhausted: SqlError.SqlError,
  notice: Watch["notice"]
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

  return {
    /** The connection of the caller's transaction, if there is one. */
    current,
    inTransaction,
    whether: <A, E, R>({ inside, outside }: Cases<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.withFiber((fiber) => (current(fiber.context) === undefined ? outside() : inside())),
    withTransaction: <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.flatMap(inTransaction, (inside) => (inside ? sql.withTransaction(effect) : outermost(effect)))
  }
}

export type Transactions = ReturnType<typeof make>
