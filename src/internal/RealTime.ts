/**
 * Time limits of waits for the outside world. A server answers in real time, whatever the clock of the fiber is: under
 * `TestClock`, a limit by the fiber's clock would end the wait at once, or never.
 */
import { Clock, Context, type Duration, Effect, Stream } from "effect"

/** The clock of the machine. */
export const realClock: Clock.Clock = Context.get(Context.empty(), Clock.Clock)

/** Runs all of the effect on the clock of the machine. */
export const onRealClock = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) =>
    fiber.getRef(Clock.Clock) === realClock ? effect : Effect.provideService(effect, Clock.Clock, realClock)
  )

/** Runs all of the stream on the clock of the machine. */
export const streamOnRealClock = <A, E, R>(stream: Stream.Stream<A, E, R>): Stream.Stream<A, E, R> =>
  Stream.unwrap(
    Effect.withFiber((fiber) =>
      Effect.succeed(
        fiber.getRef(Clock.Clock) === realClock ? stream : Stream.provideService(stream, Clock.Clock, realClock)
      )
    )
  )

/** `monotonicMillis` of the clock of the machine. */
export const realMillis: Effect.Effect<number> = Effect.sync(() => performance.now())

/** Waits in real time. */
export const realSleep = (duration: Duration.Input): Effect.Effect<void> => onRealClock(Effect.sleep(duration))

/** Ends the wait when the time has passed, in real time. The effect itself keeps its clock. */
export const withinRealTime = <A, E, R, A2, E2, R2>(
  effect: Effect.Effect<A, E, R>,
  limit: Duration.Input,
  orElse: () => Effect.Effect<A2, E2, R2>
): Effect.Effect<A | A2, E | E2, R | R2> =>
  Effect.raceFirst(effect, Effect.andThen(realSleep(limit), Effect.suspend(orElse)))
