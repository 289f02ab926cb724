import { Clock, Effect } from "effect"

/**
 * Milliseconds since some moment, to measure durations with. The wall clock may be set back or forth in between, and a
 * duration by it would be wrong by as much.
 */
export const monotonicMillis: Effect.Effect<number> = Effect.map(
  Clock.monotonicTimeNanos,
  (nanos) => Number(nanos) / 1e6
)
