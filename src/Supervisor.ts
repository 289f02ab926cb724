/**
 * Watches over background work, so that a process does not look alive when what it is there for has ended.
 *
 * A layer that was built cannot fail any more. So the layers that run something for ever, `Projection.layer`,
 * `Projection.layerCluster` and `Spool.layer`, hand it to the `Supervisor`, and `launch` ends with the failure of the first one
 * that has ended:
 *
 * ```ts
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Console, Layer, Schema } from "effect"
 * import { Projection, Spool, Supervisor } from "effect-strata"
 * import * as Memory from "effect-strata/memory"
 *
 * const mails = Spool.make({ name: "mails", payload: Schema.String })
 * const heads = Projection.make({ name: "heads", handler: ({ version }) => Console.log(version) })
 *
 * const App = Layer.mergeAll(
 *   Projection.layer(heads),
 *   Spool.layer(mails, (mail) => Console.log(mail), { concurrency: 4 })
 * )
 *
 * NodeRuntime.runMain(Supervisor.launch(Layer.provide(App, Memory.layer)))
 * ```
 */
import { Cause, Context, Deferred, Effect, Layer, Metric, Schedule, Schema, type Scope } from "effect"
import * as Telemetry from "./internal/Telemetry.ts"

// Model

/**
 * Work that was to go on for ever has ended.
 *
 * **Remedy**
 *
 * Look at the cause, and at the log; start the process again.
 */
export class WorkEnded extends Schema.TaggedError<WorkEnded>("effect-strata/Supervisor/WorkEnded")("WorkEnded", {
  work: Schema.String,
  /** What it has failed with. */
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `${this.work} has ended: ${this.cause instanceof Error ? this.cause.message : String(this.cause)}`
  }
}

/** What becomes of work that ends: the layers of a projection, the `layer` of a queue and `Supervisor.run` take it. */
export interface Options {
  /**
   * What happens when the work ends, which it does only where waiting mends nothing:
   *
   * - `"stop"`, the default: `launch` fails with `WorkEnded`, and so ends the process.
   * - `"restart"`: it is logged, and the work begins again, by the schedule `restart`. Once that has ended, as `"stop"`.
   * - `"report"`: it is logged, and `works` and the metric `strata_work_running` say that the work has ended.
   */
  readonly onEnd?: "stop" | "restart" | "report"
  /** When work that has ended begins again: after a second, and twice as long each time up to a minute, unless given. */
  readonly restart?: Schedule.Schedule<unknown>
}

/** Work that is watched over. */
export interface Work {
  readonly name: string
  readonly state: "running" | "restarting" | "ended"
  /** Why it has ended last, if it has. */
  readonly error: WorkEnded | undefined
}

/** Watches over the background work of a process. */
export class Supervisor extends Context.Service<
  Supervisor,
  {
    /**
     * Begins work that is to go on for ever, and ends it with the scope. Its failures are treated by the options; the effect
     * itself returns at once.
     */
    readonly run: <E, R>(
      name: string,
      work: Effect.Effect<never, E, R>,
      options?: Options
    ) => Effect.Effect<void, never, R | Scope.Scope>

    /** All work that has begun, and whose scope is open. */
    readonly works: Effect.Effect<ReadonlyArray<Work>>

    /** Waits until work has ended whose end is to be the end of the process. */
    readonly ended: Effect.Effect<never, WorkEnded>
  }
>()("effect-strata/Supervisor") {}

// The supervisor

const running = Telemetry.gauge("strata_work_running")

const defaultRestart = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("1 minute")])

/** What a cause is to somebody who reads it: the first failure, else the first defect. */
const endOf = (work: string, cause: Cause.Cause<unknown>) => new WorkEnded({ work, cause: Cause.squash(cause) })

export const make: Effect.Effect<Supervisor["Service"]> = Effect.gen(function* () {
  const failed = yield* Deferred.make<never, WorkEnded>()
  const all = new Set<{ current: Work }>()

  const run: Supervisor["Service"]["run"] = Effect.fnUntraced(function* (name, work, options = {}) {
    const { onEnd = "stop", restart = defaultRestart } = options
    const own: { current: Work } = { current: { name, state: "running", error: undefined } }
    let isClosing = false
    const become = (state: Work["state"], error: WorkEnded | undefined) =>
      Effect.suspend(() => {
        own.current = { name, state, error }
        return Metric.update(Metric.withAttributes(running, { work: name }), state === "running" ? 1 : 0)
      })

    const once = Effect.andThen(become("running", undefined), work).pipe(
      Effect.catchCause((cause) => (isClosing ? Effect.interrupt : Effect.fail(endOf(name, cause))))
    )
    const again = Effect.retry(
      Effect.tapError(once, (error) =>
        Effect.andThen(become("restarting", error), Effect.logError(`${error.message}; it begins again`, error.cause))
      ),
      restart
    )
    const end = (error: WorkEnded) =>
      Effect.andThen(
        become("ended", error),
        onEnd === "report" ? Effect.logError(error.message, error.cause) : Deferred.fail(failed, error)
      )

    yield* Effect.acquireRelease(
      Effect.sync(() => all.add(own)),
      () => Effect.sync(() => all.delete(own))
    )
    yield* Effect.forkScoped(Effect.catch(onEnd === "restart" ? again : once, end))
    // Finalizers run from the last to the first: the work is interrupted after this.
    yield* Effect.addFinalizer(() => Effect.sync(() => (isClosing = true)))
  })

  return {
    run,
    works: Effect.sync(() => [...all].map(({ current }) => current)),
    ended: Deferred.await(failed)
  }
})

/** A supervisor whose `ended` the application awaits by itself. `launch` brings one of its own. */
export const layer: Layer.Layer<Supervisor> = Layer.effect(Supervisor, make)

/**
 * Builds the layer and lets it work until it is interrupted, as `Layer.launch` does, or until work that it has begun ends:
 * then it fails with `WorkEnded`.
 *
 * **Details**
 *
 * Under `NodeRuntime.runMain`, SIGTERM and SIGINT interrupt it. Then nothing new is begun: a projection rolls back the batch
 * that is under way, which the next process handles; a worker of a spool lets its handlers finish, up to
 * `shutdownTimeout`, and gives back the messages that it has not begun. After that the layers below are closed.
 */
export const launch = <A, E, R>(
  layer: Layer.Layer<A, E, R>
): Effect.Effect<never, E | WorkEnded, Exclude<R, Supervisor>> =>
  Effect.scoped(
    Effect.gen(function* () {
      const supervisor = yield* make
      const build = Effect.provideService(Layer.build(layer), Supervisor, supervisor)
      yield* Effect.raceFirst(build, supervisor.ended)
      return yield* supervisor.ended
    })
  )
