/** The limits by which `strata doctor`, `status` and other subcommands judge: flags, and what is beyond them. */
import { Effect, Option } from "effect"
import { Flag } from "effect/cli"
import { Limits, saysOf } from "../../doctor/HealthChecks.ts"
import type { LogReplaced } from "../../EventStore.ts"
import type * as Health from "../../Health.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import type { StoreError } from "../../StoreError.ts"
import * as Parameters from "../arguments/Parameters.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import * as Output from "../terminal/Output.ts"

const number = (name: string, description: string) =>
  Parameters.count(name).pipe(Flag.optional, Flag.withDescription(description))

const duration = (name: string, description: string) =>
  Parameters.duration(name).pipe(Flag.optional, Flag.withDescription(description))

/** The limits of projections. */
export const projectionFlags = {
  maxBehind: duration("max-behind", "How old the next event of a projection may be; 5m unless given"),
  maxLag: number("max-lag", "How many versions a projection may be behind; any number unless given"),
  maxParked: number("max-parked", "How many aggregates a projection may have parked; 0 unless given"),
  maxSkipped: number("max-skipped", "How many events a projection may have skipped; any number unless given")
}

/** The limits of queues. */
export const queueFlags = {
  maxBounced: number("max-bounced", "How many messages of a queue may have bounced; 0 unless given"),
  maxWaiting: duration("max-waiting", "How long a message may wait that could be handled; 5m unless given")
}

type Given = { readonly [Name in keyof Health.Limits]?: Option.Option<Exclude<Health.Limits[Name], undefined>> }

/** The limits that are given. */
export const limitsOf = (given: Given): Health.Limits => {
  const { maxBehind, maxBounced, maxLag, maxParked, maxSkipped, maxWaiting } = given
  const one = <Name extends keyof Health.Limits>(
    name: Name,
    value: Option.Option<Exclude<Health.Limits[Name], undefined>> = Option.none()
  ) => Option.match(value, { onNone: () => ({}), onSome: (some) => ({ [name]: some }) })
  return {
    ...one("maxBehind", maxBehind),
    ...one("maxLag", maxLag),
    ...one("maxParked", maxParked),
    ...one("maxSkipped", maxSkipped),
    ...one("maxBounced", maxBounced),
    ...one("maxWaiting", maxWaiting)
  }
}

/** Whether any limit is given: commands that only list something judge it where that is asked for. */
const isJudging = (limits: Health.Limits): boolean => Object.keys(limits).length > 0

/** Fails with what is beyond the limits, a line for each problem, if anything is. */
export const judge = (problems: ReadonlyArray<Health.Problem>): Effect.Effect<void, CommandFailed> => {
  const [first] = problems
  if (first === undefined) return Effect.void
  const lines = problems.map((problem) => `${saysOf(problem)} -> ${problem.remedy}`)
  return new CommandFailed({
    message: problems.length === 1 ? lines.join() : `${Output.count(problems.length, "problem")}: ${lines.join("; ")}`
  })
}

type Look<R> = Effect.Effect<
  { readonly problems: ReadonlyArray<Health.Problem> },
  InvalidInput | LogReplaced | StoreError,
  R
>

/** Fails if something is beyond the limits, where any is given: a command that lists things judges only where it is asked to. */
export const judgedBy = <R>(limits: Health.Limits, look: Look<R>) =>
  isJudging(limits)
    ? Effect.provideService(
        Effect.flatMap(look, ({ problems }) => judge(problems)),
        Limits,
        limits
      )
    : Effect.void
