/**
 * Whether all is well, for the readiness of a process, for alerts, and for people.
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { HttpRouter, HttpServerResponse } from "effect/http"
 * import { Health } from "effect-strata"
 *
 * export const route = HttpRouter.add(
 *   "GET",
 *   "/health",
 *   Effect.gen(function* () {
 *     const report = yield* Health.check({ maxBehind: "2 minutes" })
 *     return yield* HttpServerResponse.json(report, { status: report.isHealthy ? 200 : 503 })
 *   })
 * )
 * ```
 *
 * **Details**
 *
 * `check` looks at everything in the database, whichever process runs it: projections that are behind, fail or have parked
 * aggregates, and messages that have bounced or wait. Of this process it looks at the work that its `Supervisor` watches over.
 *
 * **Gauges**
 *
 * A process that runs a projection or works on a queue looks at all of them every 15 seconds, or every `GaugeInterval`, and
 * feeds gauges: of projections `strata_projection_lag_seconds`, `_lag_versions`, `_parked`, `_skipped` and `_failed`, by
 * projection and shard; of queues `strata_spool_depth`, by queue and state, `strata_spool_oldest_ready_seconds` and
 * `strata_spool_leases`, by queue. So what hangs is seen, too. Several processes show the same: take the highest.
 */
import { Cause, type Duration, Effect, Option } from "effect"
import type { DurableStateStore } from "./DurableStateStore.ts"
import type { EventStore } from "./EventStore.ts"
import { type Limits, ofProjection, ofQueue } from "./health/Limits.ts"
import { DatabaseUnreachable, LookFailed, type Problem, SchemaMissing, WorkEnded } from "./health/Problem.ts"
import { withinRealTime } from "./internal/RealTime.ts"
import type { OffsetStore } from "./OffsetStore.ts"
import { survey } from "./projection/Survey.ts"
import { SpoolStore } from "./SpoolStore.ts"
import { StoreError } from "./StoreError.ts"
import { Supervisor } from "./Supervisor.ts"

export { type Limits } from "./health/Limits.ts"
export {
  AggregatesParked,
  DatabaseUnreachable,
  EventsSkipped,
  LookFailed,
  MessagesBounced,
  MessagesWaiting,
  type Problem,
  ProjectionBehind,
  ProjectionFailing,
  SchemaMissing,
  WorkEnded
} from "./health/Problem.ts"
export { GaugeInterval } from "./internal/Gauges.ts"

// Model

/** What `Health.check` takes: limits, and how long it waits. */
export interface Options extends Limits {
  /** How long the database may take to answer, in real time: 5 seconds unless given. */
  readonly timeout?: Duration.Input
}

/** What is wrong, if anything is. As JSON it has the name, the message and the remedy of each problem. */
export class Report {
  readonly problems: ReadonlyArray<Problem>

  constructor(problems: ReadonlyArray<Problem>) {
    this.problems = problems
  }

  get isHealthy(): boolean {
    return this.problems.length === 0
  }

  toJSON() {
    return {
      healthy: this.isHealthy,
      problems: this.problems.map(({ _tag, message, remedy }) => ({ problem: _tag, message, remedy }))
    }
  }
}

// The check

/** Which problem it is that something could not be looked at. */
const problemOf = (cause: Cause.Cause<unknown>): Problem => {
  const error = Cause.squash(cause)
  if (!(error instanceof StoreError)) {
    return new LookFailed({
      message: error instanceof Error ? error.message : String(error),
      remedy: "see to that first"
    })
  }
  const { message } = error.reason
  switch (error.reason._tag) {
    case "Unavailable":
    case "Timeout":
      return new DatabaseUnreachable({
        message,
        remedy: "look whether the server runs, and whether this process reaches it"
      })
    case "SchemaMissing":
      return new SchemaMissing({ message, remedy: "run: strata migrate" })
    default:
      return new LookFailed({ message, remedy: "see to that first; strata doctor says more" })
  }
}

/** What a look finds, or why it could not look. */
const found = <A, E, R>(look: Effect.Effect<ReadonlyArray<A>, E, R>, judge: (one: A) => ReadonlyArray<Problem>) =>
  look.pipe(
    Effect.map((all) => all.flatMap(judge)),
    Effect.catchCause((cause) =>
      Cause.hasInterruptsOnly(cause) ? Effect.interrupt : Effect.succeed([problemOf(cause)])
    )
  )

/** Both looks find the same server gone, or the same tables missing: that is said once. */
const once = (problems: ReadonlyArray<Problem>): ReadonlyArray<Problem> =>
  problems.filter(
    ({ _tag }, index) =>
      (_tag !== "DatabaseUnreachable" && _tag !== "SchemaMissing") ||
      problems.findIndex((problem) => problem._tag === _tag) === index
  )

/** What has ended of what this process runs in the background. */
const works = Effect.flatMap(
  Effect.serviceOption(Supervisor),
  Option.match({
    onNone: () => Effect.succeed([]),
    onSome: (supervisor) =>
      Effect.map(supervisor.works, (all) =>
        all.flatMap(({ name, state }) =>
          state !== "ended"
            ? []
            : [
                new WorkEnded({
                  message: `${name} has ended in this process`,
                  remedy: "the log says why; once mended, start the process again",
                  work: name
                })
              ]
        )
      )
  })
)

/** How many places in the log a check looks up at which projections are behind. */
const mostReads = 32

/**
 * Looks whether all is well. It does not fail: what could not be looked at is a problem, too.
 *
 * **Details**
 *
 * It takes five statements, one more for each place in the log at which a projection is behind, and two more where messages are
 * too many to be counted: then bounced ones are estimated. What is no duration is no limit.
 *
 * **Gotchas**
 *
 * It is about the whole database: where an orchestrator takes a process that is not ready out of service, take limits beyond
 * which no process should serve. To be alive is another question than to be ready.
 */
export const check = (
  options: Options = {}
): Effect.Effect<Report, never, EventStore | OffsetStore | DurableStateStore | SpoolStore> =>
  Effect.gen(function* () {
    const { timeout = "5 seconds", ...limits } = options
    const looks = Effect.all(
      [
        found(survey({ mostReads }), (projection) => ofProjection(projection, limits)),
        found(
          Effect.flatMap(SpoolStore, ({ overview }) => overview),
          (queue) => ofQueue(queue, limits)
        )
      ],
      { concurrency: 2 }
    )
    const silent = new DatabaseUnreachable({
      message: "the database has not answered in time",
      remedy: "look whether the server runs and is not overloaded, and whether the pool has connections left"
    })
    const ofDatabase = yield* withinRealTime(looks, timeout, () => Effect.succeed([[silent]]))
    return new Report([...once(ofDatabase.flat()), ...(yield* works)])
  })
