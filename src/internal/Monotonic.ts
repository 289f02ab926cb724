import { Clock, Effect } from "effect"

/**
 * Milliseconds since some moment, to measure durations with. The wall clock may be set back or forth in between, and a
 * duration by it would be wrong by as much.
 */
export const monotonicMillis: Effect.Effect<number> = Effect.map(
  Clock.monotonicTimeNanos,
  (nanos) => Number(nanos) / 1e6
)

/**
 * The time of day as it goes on from now, in milliseconds. Setting the wall clock back or forth changes nothing of it, so a schedule
 * that is told it ends by the time that has passed.
 */
export const steadyMillis: Effect.Effect<Effect.Effect<number>> = Effect.gen(function* () {
  const ahead = (yield* Clock.currentTimeMillis) - (yield* monotonicMillis)
  return Effect.map(monotonicMillis, (millis) => ahead + millis)
})
