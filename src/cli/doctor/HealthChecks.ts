/** Whether projections and queues are within their limits. */
import { Context, DateTime, Effect } from "effect"
import type { LogReplaced } from "../../EventStore.ts"
import type * as Health from "../../Health.ts"
import { ofProjection, ofQueue } from "../../health/Limits.ts"
import { inWords } from "../../health/Problem.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import * as Projection from "../../Projection.ts"
import { SpoolStore } from "../../SpoolStore.ts"
import type { StoreError } from "../../StoreError.ts"
import * as Output from "../terminal/Output.ts"
import { type Findings, ok, problem, warning } from "./Check.ts"
import { isJudging, judge, saysOf } from "./Limits.ts"

/** By which limits projections and queues are judged. */
export const Limits = Context.Reference<Health.Limits>("effect-strata/cli/Limits", { defaultValue: () => ({}) })

/** What is wrong with projections, or with one. */
export const ofProjections = (name?: string) =>
  Effect.gen(function* () {
    const limits = yield* Limits
    const all = (yield* Projection.statuses).filter(
      ({ projectionName }) => name === undefined || projectionName === name
    )
    return { count: all.length, problems: all.flatMap((one) => ofProjection(one, limits)) }
  })

/** What is wrong with queues, or with one. */
export const ofQueues = (name?: string) =>
  Effect.gen(function* () {
    const limits = yield* Limits
    const all = (yield* SpoolStore.use(({ overview }) => overview)).filter(
      ({ queue }) => name === undefined || queue === name
    )
    return { count: all.length, problems: all.flatMap((one) => ofQueue(one, limits)) }
  })

const findingsOf = (problems: ReadonlyArray<Health.Problem>, well: string) =>
  problems.length === 0 ? ok(well) : problems.map((found) => problem(saysOf(found), found.remedy))

/** Is a projection behind, does its handler fail, or has it parked aggregates? */
export const projections: Findings = Effect.map(ofProjections(), ({ count, problems }) =>
  findingsOf(
    problems,
    count === 0 ? "no projection has run yet" : `${Output.count(count, "projection")}, within the limits`
  )
)

/** Is there a process that has run projections and is silent? */
export const processes: Findings = Effect.gen(function* () {
  const all = yield* Projection.processes
  const now = yield* DateTime.now
  const silent = all.filter(({ isSilent }) => isSilent)
  if (silent.length === 0) {
    return ok(
      all.length === 0 ? "no process runs a projection" : `projections run in ${Output.count(all.length, "process")}`
    )
  }
  return silent.map(({ heardAt, host, name, pid, runs }) =>
    warning(
      `process ${pid} on ${host} ("${name}") has said nothing for ${inWords(DateTime.distance(heardAt, now))}, with shards of ` +
        Output.count(runs.length, "projection"),
      "if it was killed, the other processes take its shards: where there is none, start one; if it lives, see whether it is " +
        "stopped, or reaches the server"
    )
  )
})

/** Could messages not be delivered, or do they wait? */
export const queues: Findings = Effect.map(ofQueues(), ({ count, problems }) =>
  findingsOf(
    problems,
    count === 0 ? "no message waits" : `${Output.count(count, "queue")} with messages, within the limits`
  )
)

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
