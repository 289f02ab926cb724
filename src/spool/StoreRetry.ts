/** How a worker waits for a store that is gone. */
import { Effect } from "effect"
import { isTransient, transientDelays } from "../internal/Transient.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import type { StoreError } from "../StoreError.ts"

/** Makes the call until it succeeds, or fails with an error that no waiting mends. Each attempt that fails is logged. */
export const untilStoreAnswers = <A, R>(
  call: Effect.Effect<A, InvalidInput | StoreError, R>
): Effect.Effect<A, InvalidInput | StoreError, R> =>
  call.pipe(
    Effect.tapError((error) =>
      isTransient(error) ? Effect.logWarning(`${error.message}; trying again`) : Effect.void
    ),
    Effect.retry({ schedule: transientDelays, while: isTransient })
  )
