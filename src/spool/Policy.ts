/** When a message is tried again: policies are schedules, and the delay after an attempt is the schedule's step of that number. */
import { Clock, Duration, Effect, Option, Random, Schedule } from "effect"

/** Nothing is known of an attempt but its number: what came before may have been in another process. */
export type Policy = Schedule.Schedule<unknown>

/** No store keeps a message for longer. */
const longest = Duration.days(365 * 100)

/** The delays after the first attempts, each if there is to be another one. */
const delays = Effect.fnUntraced(function* (policy: Policy, attempts: number) {
  const step = yield* Schedule.toStep(policy)
  const found: Array<Duration.Duration> = []
  let now = yield* Clock.currentTimeMillis
  while (found.length < attempts) {
    const next = yield* Effect.option(step(now, undefined))
    if (Option.isNone(next)) break
    const delay = Duration.clamp(next.value[1], { minimum: Duration.zero, maximum: longest })
    found.push(delay)
    now += Duration.toMillis(delay)
  }
  return found
})

/** The delay after an attempt; `None` if the policy gives up. */
export const delayAfter = (policy: Policy, attempt: number): Effect.Effect<Option.Option<Duration.Duration>> =>
  Effect.map(delays(policy, attempt), (found) => Option.fromUndefinedOr(found[attempt - 1]))

/** Every other draw of a jitter is above this, every other one below. */
const middle: Random.Random = { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0.5 }

/** The delays after the first attempts, without jitter: 10 of them unless told, fewer if the policy gives up before. */
export const preview = (policy: Policy, attempts = 10): Effect.Effect<ReadonlyArray<Duration.Duration>> =>
  Effect.provideService(delays(policy, attempts), Random.Random, middle)

/** Twice the delay after each attempt, with jitter, and never more than `cap`, jitter included. */
export const backoff = (options: { readonly base?: Duration.Input; readonly cap?: Duration.Input } = {}): Policy => {
  const { base = "15 minutes", cap = "24 hours" } = options
  return Schedule.min([Schedule.jittered(Schedule.exponential(base)), Schedule.spaced(cap)])
}

/** Always the same delay. */
export const fixed = (delay: Duration.Input): Policy => Schedule.spaced(delay)
