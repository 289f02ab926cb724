/** How a worker waits for a store that is gone. */
import { Effect } from "effect"
import { isTransient, makeOutage, transientDelays } from "../internal/Transient.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import type { StoreError } from "../StoreError.ts"

/** Makes the call until it succeeds, or fails with an error that no waiting mends. The first failed attempt is logged. */
export const untilStoreAnswers = <A, R>(
  call: Effect.Effect<A, InvalidInput | StoreError, R>
): Effect.Effect<A, InvalidInput | StoreError, R> =>
  Effect.suspend(() => {
    const outage = makeOutage()
    return call.pipe(
      Effect.tapError((error) =>
        isTransient(error) ? outage.warn(error.reason, `${error.message}; trying again until it succeeds`) : Effect.void
      ),
      Effect.retry({ schedule: transientDelays, while: isTransient })
    )
  })
