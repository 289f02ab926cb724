/** What the execution of a command needs, whoever decides: another attempt after a lost race, and what a key has done before. */
import { Effect, Option, Schedule } from "effect"
import { named } from "../internal/Named.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import type { StoreError } from "../StoreError.ts"
import type { Tagged } from "./EventCodec.ts"
import type { TypedEvents } from "./TypedEvents.ts"
import type { TypedEvent } from "./View.ts"

/** Something else was faster, or the same command was executed at the same time: the attempt is made again. */
export class LostRace<out E> {
  readonly _tag = "LostRace"
  readonly error: E
  constructor(error: E) {
    this.error = error
  }
}

/** The caller's `decide` has failed. Its error keeps its own name, whatever it has called. */
export class DecideFailed<out E> {
  readonly _tag = "DecideFailed"
  readonly error: E
  constructor(error: E) {
    this.error = error
  }
}

/** What was decided, at once or by an effect. */
export const decided = <A, E, R>(result: A | Effect.Effect<A, E, R>): Effect.Effect<A, DecideFailed<E>, R> =>
  Effect.isEffect(result) ? Effect.mapError(result, (error) => new DecideFailed(error)) : Effect.succeed(result)

/** Makes attempts until one has lost no race, or the schedule has ended. The caller has called `execute` of the module. */
export const execute = <A, E, F, R>(
  module: string,
  attempt: Effect.Effect<A, LostRace<DecideFailed<E> | F> | DecideFailed<E> | F, R>,
  retry: Schedule.Schedule<unknown>
): Effect.Effect<A, E | F | InvalidInput | StoreError, R> =>
  attempt.pipe(
    Effect.retry({ schedule: retry, while: (error) => error instanceof LostRace }),
    Effect.mapError((error) => {
      const last = error instanceof LostRace ? error.error : error
      return last instanceof DecideFailed ? last.error : named(module, "execute")(last)
    })
  )

/** 10 more attempts, after some 2 milliseconds at first and twice as long each time. */
export const defaultRetry = Schedule.exponential("2 millis").pipe(Schedule.jittered, Schedule.upTo({ times: 10 }))

/** The events of the command with the ids that its key gives, if it was executed. */
export const executedBefore = Effect.fnUntraced(function* <Class extends Tagged, Other, R, Tag extends string>(
  { get }: TypedEvents<Class, Other, R, Tag>,
  idAt: (index: number) => Effect.Effect<string>
) {
  const found: Array<TypedEvent<Class["Type"] | Other>> = []
  while (true) {
    const event = yield* Effect.flatMap(idAt(found.length), get).pipe(
      Effect.asSome,
      Effect.catchTag("EventNotFound", () => Effect.succeedNone)
    )
    if (Option.isNone(event)) return found
    found.push(event.value)
  }
})
