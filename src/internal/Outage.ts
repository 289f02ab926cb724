/** What is logged of an outage of the database: its cause and what happens next, once, and then that it is over. */
import { Duration, Effect } from "effect"
import type { Reason } from "../StoreError.ts"
import { monotonicMillis } from "./Monotonic.ts"

/** What happens next where attempts follow each other by `transientDelays`. */
export const untilItSucceeds = "trying again, each time within a second, until it succeeds"

/** An outage in words: what waits because of it, what happens next, and what is so once it is over. */
export interface Words {
  readonly waits: string
  readonly next: string
  readonly over: string
}

export interface Outage {
  /** Logs a failure, unless one with the same kind of reason was logged in this outage: however many attempts fail. */
  readonly warn: (reason: Reason) => Effect.Effect<void>
  /** Logs that the outage is over, if there was one. The next one is warned of again. */
  readonly end: Effect.Effect<void>
}

export const make = ({ next, over, waits }: Words): Outage => {
  const told = new Set<Reason["_tag"]>()
  let beganAt = 0
  return {
    warn: ({ _tag, message }) =>
      Effect.flatMap(monotonicMillis, (now) => {
        if (told.has(_tag)) return Effect.void
        if (told.size === 0) beganAt = now
        told.add(_tag)
        return Effect.logWarning(`${waits}: ${message}; ${next}`)
      }),
    end: Effect.suspend(() => {
      if (told.size === 0) return Effect.void
      told.clear()
      return Effect.flatMap(monotonicMillis, (now) =>
        Effect.logInfo(`${over}, after ${Duration.format(Duration.millis(Math.ceil(now - beganAt)))}`)
      )
    })
  }
}
