/** The time limit of a handler, of projections and of spool workers. */
import { Duration, Effect, Option, Schema } from "effect"

/**
 * The handler has not ended within its time limit, and was interrupted.
 *
 * **Remedy**
 *
 * Give the handler a longer `timeout`, or find out what it waits for.
 */
export class HandlerTimeout extends Schema.TaggedError<HandlerTimeout>("effect-strata/HandlerTimeout")(
  "HandlerTimeout",
  { limit: Schema.Duration }
) {
  override get message(): string {
    return `the handler has not ended within ${Duration.format(this.limit)}, its timeout`
  }
}

/** A time limit: above zero. */
export const TimeLimit = Schema.Duration.check(
  Schema.makeFilter((duration) =>
    Duration.isGreaterThan(duration, Duration.zero) && Duration.isFinite(duration)
      ? undefined
      : "Expected a finite duration above zero"
  )
)

/** The limit that was given, if any. What is no duration becomes zero, which `TimeLimit` refuses. */
export const timeLimitOf = (timeout: Duration.Input | undefined): Duration.Duration | undefined =>
  timeout === undefined ? undefined : Option.getOrElse(Duration.fromInput(timeout), () => Duration.zero)

/** Interrupts the handler when the limit has passed, waits for its end, and fails. Without a limit it is the handler itself. */
export const withinLimit = <A, E, R>(
  handler: Effect.Effect<A, E, R>,
  limit: Duration.Duration | undefined
): Effect.Effect<A, E | HandlerTimeout, R> =>
  limit === undefined
    ? handler
    : Effect.timeoutOrElse(handler, { duration: limit, orElse: () => Effect.fail(new HandlerTimeout({ limit })) })
