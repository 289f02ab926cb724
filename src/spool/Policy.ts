/** When a message is tried again: a policy is a schedule, whose n-th step is the delay after the n-th attempt. */
import { Clock, Duration, Effect, Option, Random, Schedule } from "effect"

/** A policy is only asked by the number of an attempt: the attempts before may have been made in another process. */
export type Policy = Schedule.Schedule<unknown>

/** The longest delay: no store keeps a message for longer. */
const longestDelay = Duration.days(365 * 100)

/** The delays after so many attempts, fewer if the policy gives up before. */
const delays = Effect.fnUntraced(function* (policy: Policy, attempts: number) {
  const step = yield* Schedule.toStep(policy)
  const found: Array<Duration.Duration> = []
  let now = yield* Clock.currentTimeMillis
  while (found.length < attempts) {
    const next = yield* Effect.option(step(now, undefined))
    if (Option.isNone(next)) break
    const delay = Duration.clamp(next.value[1], { minimum: Duration.zero, maximum: longestDelay })
    found.push(delay)
    now += Duration.toMillis(delay)
  }
  return found
})

/** The delay after an attempt; `None` if the policy gives up. */
export const delayAfter = (policy: Policy, attempt: number): Effect.Effect<Option.Option<Duration.Duration>> =>
  Effect.map(delays(policy, attempt), (found) => Option.fromUndefinedOr(found[attempt - 1]))

/** Draws the middle of every range: jitter neither adds nor takes anything. */
const withoutJitter: Random.Random = { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0.5 }

/** The delays after the first 10 attempts, or after so many, without jitter: fewer if the policy gives up before. */
export const preview = (policy: Policy, attempts = 10): Effect.Effect<ReadonlyArray<Duration.Duration>> =>
  Effect.provideService(delays(policy, attempts), Random.Random, withoutJitter)

/** Doubles the delay after each attempt, with jitter, and never exceeds `cap`, jitter included. */
export const backoff = (options: { readonly base?: Duration.Input; readonly cap?: Duration.Input } = {}): Policy => {
  const { base = "15 minutes", cap = "24 hours" } = options
  return Schedule.min([Schedule.jittered(Schedule.exponential(base)), Schedule.spaced(cap)])
}

/** Keeps the same delay after each attempt. */
export const fixed = (delay: Duration.Input): Policy => Schedule.spaced(delay)

/** Finds the policies of a queue by their names. A name that is not known is logged once, and the default takes its place. */
export const policyFinder = (
  queue: string,
  policies: Readonly<Record<string, Policy>>
): ((name: string) => Effect.Effect<Policy>) => {
  const warned = new Set<string>()
  const fallback = policies["default"] ?? backoff()
  return (name) =>
    Effect.suspend(() => {
      if (name === "" || name === "default") return Effect.succeed(fallback)
      const found = Object.hasOwn(policies, name) ? policies[name] : undefined
      if (found !== undefined) return Effect.succeed(found)
      if (warned.has(name)) return Effect.succeed(fallback)
      warned.add(name)
      return Effect.as(
        Effect.logWarning(`queue "${queue}" has no policy "${name}": its messages use the default`),
        fallback
      )
    })
}
