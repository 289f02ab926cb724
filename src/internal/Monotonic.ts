import { Clock, Effect } from "effect"

/**
 * Milliseconds since some moment: what to measure time with. By the wall clock it would be as long as that is set back, or
 * no time at all.
 */
export const monotonicMillis: Effect.Effect<number> = Effect.map(
  Clock.monotonicTimeNanos,
  (nanos) => Number(nanos) / 1e6
)
