/**
 * One read for all fibers that ask for the same at once.
 *
 * **Details**
 *
 * A read that is asked for while the same one is under way does not take the answer of that: it may lack what the caller has
 * just written. It waits for the next one, which begins once the other has ended, and which all share that wait by then.
 */
import { Cause, Deferred, Effect, Exit, FiberSet, type Scope } from "effect"
import { PostgresDatabase } from "./PostgresDatabase.ts"

/** Does a read. Its name is the same for all that would give the same. */
export type Share<A, E> = (name: string, read: Effect.Effect<A, E>) => Effect.Effect<A, E>

/** Reads fail with `closed` where the scope ends while they wait for others. */
export const make = Effect.fnUntraced(function* <A, E>(
  closed: E
): Effect.fn.Return<Share<A, E>, never, PostgresDatabase | Scope.Scope> {
  const { withoutTransaction } = yield* PostgresDatabase
  // A read for several callers is in no transaction, also if the layer is built in one.
  const fork = yield* withoutTransaction(FiberSet.makeRuntime<never, A, E>())
  /** The reads that are under way, each with the next one of its name, if anybody waits for that. */
  const underWay = new Map<string, Deferred.Deferred<A, E> | undefined>()
  let isOpen = true
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isOpen = false
      for (const next of underWay.values()) if (next !== undefined) Deferred.doneUnsafe(next, Exit.fail(closed))
    })
  )

  const end = (name: string, read: Effect.Effect<A, E>): void => {
    const next = underWay.get(name)
    if (next === undefined || !isOpen) {
      underWay.delete(name)
      return
    }
    underWay.set(name, undefined)
    fork(
      Effect.onExit(read, (exit) =>
        Effect.sync(() => {
          const isEnded = Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
          Deferred.doneUnsafe(next, isEnded ? Exit.fail(closed) : exit)
          end(name, read)
        })
      )
    )
  }

  // Uninterruptible, so that an interruption between these steps cannot leave a read under way for ever.
  return (name, read) =>
    Effect.uninterruptibleMask((restore) => {
      if (!underWay.has(name)) {
        underWay.set(name, undefined)
        return Effect.onExitPrimitive(restore(read), () => {
          end(name, read)
          return undefined
        })
      }
      const next = underWay.get(name) ?? Deferred.makeUnsafe<A, E>()
      underWay.set(name, next)
      return restore(Deferred.await(next))
    })
})
