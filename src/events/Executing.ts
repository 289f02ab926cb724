/** What the execution of a command needs, whoever decides: another attempt after a lost race, and what a key has done before. */
import { Effect, Option, Schedule } from "effect"
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
