/** What a worker deletes beside its work, in batches: archived messages that were kept for long enough, and remembered ids. */
import { Duration, Effect } from "effect"
import { isTransient } from "../internal/Transient.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import { SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"

/** How many rows are deleted in one statement. */
const batchSize = 1000

/** The longest time between two looks for archived messages that have been kept for long enough. */
const longestPurgeInterval = Duration.hours(1)

/** The time between two looks for ids that need not be remembered any more. */
const forgetInterval = Duration.minutes(10)

/**
 * Deletes batch after batch until one is not full, again and again after the interval. A failure is logged, unless it passes by
 * itself: the worker's claims tell of those.
 */
const forever = <R>(
  what: string,
  deleteBatch: Effect.Effect<number, InvalidInput | StoreError, R>,
  interval: Duration.Duration
): Effect.Effect<never, never, R> =>
  deleteBatch.pipe(
    Effect.repeat({ until: (deleted) => deleted < batchSize }),
    Effect.catch((error) =>
      isTransient(error)
        ? Effect.void
        : Effect.logWarning(`${what} are not deleted: ${error.message}; trying again in ${Duration.format(interval)}`)
    ),
    Effect.andThen(Effect.sleep(interval)),
    Effect.forever
  )

/** Deletes archived messages of the queue once they are older than `retention`, if it is given, and forgets ids of all queues. */
export const cleanForever = (
  queue: string,
  retention: Duration.Input | undefined
): Effect.Effect<never, never, SpoolStore> =>
  Effect.gen(function* () {
    const { forgetIds, purge } = yield* SpoolStore
    const forget = forever("remembered ids whose time is over", forgetIds({ limit: batchSize }), forgetInterval)
    if (retention === undefined) return yield* forget
    const interval = Duration.min(Duration.fromInputUnsafe(retention), longestPurgeInterval)
    const old = purge({ state: "archived", queue, olderThan: retention, limit: batchSize })
    return yield* Effect.raceFirst(forget, forever(`archived messages of queue "${queue}"`, old, interval))
  })
