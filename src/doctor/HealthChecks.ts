/** Whether projections and queues are within their limits. */
import { Context, DateTime, Duration, Effect } from "effect"
import * as Health from "../Health.ts"
import { ofProjection, ofQueue } from "../health/Limits.ts"
import { inWords } from "../health/Problem.ts"
import { count } from "../internal/Words.ts"
import * as Projection from "../Projection.ts"
import { SpoolStore } from "../SpoolStore.ts"
import { type Findings, ok, problem, warning } from "./Check.ts"

/** By which limits projections and queues are judged. */
export const Limits = Context.Reference<Health.Limits>("effect-strata/doctor/Limits", { defaultValue: () => ({}) })

/** Whether findings say what a handler has failed with: a console that hides what is stored does not. */
export const ShowErrors = Context.Reference("effect-strata/doctor/ShowErrors", { defaultValue: () => true })

/** What is wrong with projections, or with one. */
export const ofProjections = (name?: string) =>
  Effect.gen(function* () {
    const limits = yield* Limits
    const all = (yield* Projection.statuses).filter(
      ({ projectionName }) => name === undefined || projectionName === name
    )
    return { count: all.length, problems: all.flatMap((one) => ofProjection(one, limits)) }
  })

/** What waits in queues, or in one, and what is wrong with it. */
export const ofQueues = (name?: string) =>
  Effect.gen(function* () {
    const limits = yield* Limits
    const all = (yield* SpoolStore.use(({ overview }) => overview)).filter(
      ({ queue }) => name === undefined || queue === name
    )
    return { all, problems: all.flatMap((one) => ofQueue(one, limits)) }
  })

/** What a problem says to somebody who may see it all: also what a handler has failed with, without the stack. */
export const saysOf = (problem: Health.Problem): string =>
  problem instanceof Health.ProjectionFailing
    ? `${problem.message}: ${problem.error.split("\n", 1).join()}`
    : problem.message

const findingsOf = (problems: ReadonlyArray<Health.Problem>, well: string) =>
  Effect.map(ShowErrors, (showErrors) =>
    problems.length === 0
      ? ok(well)
      : problems.map((found) => problem(showErrors ? saysOf(found) : found.message, found.remedy))
  )

/** Is a projection behind, does its handler fail, or has it parked aggregates? */
export const projections: Findings = Effect.flatMap(ofProjections(), ({ count: all, problems }) =>
  findingsOf(problems, all === 0 ? "no projection has run yet" : `${count(all, "projection")}, within the limits`)
)

/** How long nothing has been heard of a process, unless it is its clock that is ahead. */
const silenceOf = ({ heardAt }: Projection.RunningProcess, now: DateTime.Utc): string => {
  const silence = DateTime.distance(heardAt, now)
  return Duration.toMillis(silence) < 0
    ? `says nothing, and its clock is ahead, by at least ${inWords(DateTime.distance(now, heardAt))}`
    : `has said nothing for ${inWords(silence)}`
}

/** Is there a process that has run projections and is silent? */
export const processes: Findings = Effect.gen(function* () {
  const all = yield* Projection.processes
  const now = yield* DateTime.now
  const silent = all.filter(({ isSilent }) => isSilent)
  if (silent.length === 0) {
    return ok(all.length === 0 ? "no process runs a projection" : `projections run in ${count(all.length, "process")}`)
  }
  return silent.map((process) =>
    warning(
      `process ${process.pid} on ${process.host} ("${process.name}") ${silenceOf(process, now)}, with shards of ` +
        count(process.runs.length, "projection"),
      "if it was killed, the other processes take its shards: where there is none, start one; if it lives, see whether it is " +
        "stopped, or reaches the server"
    )
  )
})

/** Could messages not be delivered, or do they wait? */
export const queues: Findings = Effect.flatMap(ofQueues(), ({ all, problems }) =>
  findingsOf(
    problems,
    all.length === 0 ? "no message waits" : `${count(all.length, "queue")} with messages, within the limits`
  )
)
