/** Gives up the claims of workers that have died: their messages are handled again, or bounce after their last attempt. */
import { Effect } from "effect"
import type { InvalidInput } from "../InvalidInput.ts"
import { type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"
import { failureOf, fateOf, type OnBounce } from "./Bounces.ts"

/**
 * Recovers messages of the queue whose leases have run out, and returns how many.
 *
 * The recovery and what `tellOfBounce` does for messages that bounce are one transaction: the application is told of every such
 * message, however often a worker dies here.
 */
export const recover = <R>(
  queue: string,
  onBounce: OnBounce,
  tellOfBounce: (message: SpoolMessage, reason: string) => Effect.Effect<void, never, R>
): Effect.Effect<number, InvalidInput | StoreError, SpoolStore | Transactor | R> =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore
    const { withTransaction, withWatchedTransaction } = yield* Transactor

    const dispose = Effect.fnUntraced(function* (message: SpoolMessage) {
      if (onBounce === "archive") yield* spool.moveToState(message, "bounce", "archived")
      if (onBounce === "delete") {
        // Fails where the message is in another state by now.
        yield* spool.moveToState(message, "bounce", "bounce")
        yield* spool.deleteMeta(message, { rememberId: true })
      }
    })

    return yield* withWatchedTransaction(
      Effect.gen(function* () {
        const recovered = yield* spool.recover({ queue })
        const again = recovered.filter(({ state }) => state !== "bounce")
        if (again[0] !== undefined) {
          yield* Effect.logWarning(
            `claims in queue "${queue}" are given up, and their messages (${again.length}) handled again: ${again[0].lastError}`
          )
        }
        for (const message of recovered) {
          if (message.state !== "bounce") continue
          yield* Effect.logWarning(failureOf(queue, message, fateOf[onBounce], message.lastError))
          // The inner transaction is a savepoint: if the application's SQL fails, only its own part is rolled back.
          yield* Effect.catch(withTransaction(tellOfBounce(message, message.lastError)), (error) =>
            Effect.logError(
              `the handler of bounced messages of queue "${queue}" could not be called for message "${message.id}": ${error.message}`
            )
          )
          // The application may have requeued or deleted the message.
          yield* Effect.catchTag(dispose(message), ["MessageNotFound", "StateConflict"], () => Effect.void)
        }
        return recovered.length
      })
    )
  })
