/**
 * A worker of a queue: it claims messages as there is room for them, has them handled, settles them in batches, and renews
 * their leases meanwhile. When it is interrupted, it finishes or releases every message that is leased to it.
 */
import { Deferred, Duration, Effect, FiberSet, type Scope } from "effect"
import type { InvalidInput } from "../InvalidInput.ts"
import type { SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import * as Claims from "./Claims.ts"
import { Dispatch, type Limits } from "./Dispatch.ts"
import type { Handling } from "./Handling.ts"
import type { LeasedMessages } from "./Leased.ts"
import { renewForever } from "./Renewal.ts"
import * as Settlements from "./Settlements.ts"
import * as StoreRetry from "./StoreRetry.ts"

export interface Settings extends Limits, Claims.Settings {
  /** How long handlers may take to finish after the worker has been told to stop. */
  readonly shutdownTimeout: Duration.Duration
}

/** How much longer than `shutdownTimeout` the end of a worker may take, to settle what was handled. */
const longestSettling = Duration.seconds(5)

/** Works until it is interrupted, or fails with an error that no waiting mends; then it finishes or releases its messages. */
export const run = <R>(
  settings: Settings,
  { attempt, recover }: Handling<R>
): Effect.Effect<never, InvalidInput | StoreError, SpoolStore | R> =>
  Effect.scoped(
    Effect.gen(function* (): Effect.fn.Return<never, InvalidInput | StoreError, SpoolStore | R | Scope.Scope> {
      const { lease, queue, shutdownTimeout } = settings
      const fork = yield* FiberSet.makeRuntime<R>()
      const messages: LeasedMessages = new Map()
      const untilStoreAnswers = StoreRetry.make(queue)
      const settlements = yield* Settlements.make(queue, messages, untilStoreAnswers)
      const dispatch = new Dispatch(settings, messages, settlements, (message, lease) => fork(attempt(message, lease)))
      const renew = renewForever(lease, messages, (lost, why) => dispatch.giveUp(lost, why))

      const finish = Effect.gen(function* () {
        dispatch.releaseWaiting()
        yield* Effect.timeoutOption(Effect.raceFirst(dispatch.quiet.await, renew), shutdownTimeout)
        dispatch.interruptAll()
        yield* dispatch.quiet.await
        yield* settlements.settleRest
      })
      // Finalizers run from the last to the first: nothing begins any more, the loops end, then the worker finishes.
      yield* Effect.addFinalizer(() =>
        Effect.interruptible(finish).pipe(
          Effect.timeoutOption(Duration.sum(shutdownTimeout, longestSettling)),
          Effect.catch((error) =>
            Effect.logWarning(
              `queue "${queue}" could not give back what it had claimed: ${error.message}; it is handled again after its lease`
            )
          )
        )
      )
      const failed = yield* Deferred.make<never, InvalidInput | StoreError>()
      yield* Effect.forEach(
        [Claims.claimForever(settings, dispatch, recover, untilStoreAnswers), settlements.settleForever, renew],
        (loop) => Effect.forkScoped(Effect.tapCause(loop, (cause) => Deferred.failCause(failed, cause)))
      )
      yield* Effect.addFinalizer(() => Effect.sync(() => dispatch.stop()))
      return yield* Deferred.await(failed)
    })
  )
