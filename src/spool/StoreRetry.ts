/** How a worker waits for a store that is gone. */
import { Effect, Exit } from "effect"
import * as Outage from "../internal/Outage.ts"
import { isTransient, transientDelays } from "../internal/Transient.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import type { StoreError } from "../StoreError.ts"

/** Makes the call until it succeeds, or fails with an error that no waiting mends. */
export type UntilStoreAnswers = <A, R>(
  call: Effect.Effect<A, InvalidInput | StoreError, R>
) => Effect.Effect<A, InvalidInput | StoreError, R>

/** How all calls of one worker wait. The first attempt that fails is logged, and that no call fails any more. */
export const make = (queue: string): UntilStoreAnswers => {
  const outage = Outage.make({
    waits: `queue "${queue}" waits for the database`,
    next: Outage.untilItSucceeds,
    over: `queue "${queue}" goes on`
  })
  /** How many calls have failed, and are tried again. */
  let failing = 0
  return (call) =>
    Effect.suspend(() => {
      let hasFailed = false
      return call.pipe(
        Effect.tapError((error) => {
          if (!isTransient(error)) return Effect.void
          if (!hasFailed) failing++
          hasFailed = true
          return outage.warn(error.reason)
        }),
        Effect.retry({ schedule: transientDelays, while: isTransient }),
        Effect.onExit((exit) => {
          if (!hasFailed) return Effect.void
          failing--
          return failing === 0 && Exit.isSuccess(exit) ? outage.end : Effect.void
        })
      )
    })
}
