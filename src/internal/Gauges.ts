/**
 * Gauges that are fed by looking, for as long as anything runs that they are about: one fiber looks at all of it now and then, so
 * that what hangs is seen, too.
 */
import { Context, Duration, Effect, Fiber, Metric, Option, type Scope } from "effect"
import { monotonicMillis } from "./Monotonic.ts"

/** How often is looked: see `Health.GaugeInterval`. */
export const GaugeInterval: Context.Reference<Duration.Input> = Context.Reference<Duration.Input>(
  "effect-strata/Health/GaugeInterval",
  { defaultValue: () => "15 seconds" }
)

/** A look takes at most one part in so many of the time: on large tables it comes less often. */
const leastPartsBetweenLooks = 20

type Attributes = Readonly<Record<string, string>>

/** The gauges that one kind of look feeds. A series that a look does not find any more becomes 0. */
export class Gauges {
  private readonly known = new Map<string, { readonly gauge: Metric.Metric<number, unknown>; isFound: boolean }>()

  /** Notes the value of a series at this look. */
  set(metric: Metric.Gauge<number>, attributes: Attributes, value: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const key = JSON.stringify([metric.id, attributes])
      const known = this.known.get(key) ?? { gauge: Metric.withAttributes(metric, attributes), isFound: true }
      known.isFound = true
      this.known.set(key, known)
      return Metric.update(known.gauge, value)
    })
  }

  /** Ends a look. */
  readonly finish: Effect.Effect<void> = Effect.suspend(() => {
    const lost = [...this.known].filter(([, { isFound }]) => !isFound)
    for (const [key] of lost) this.known.delete(key)
    for (const series of this.known.values()) series.isFound = false
    return Effect.forEach(lost, ([, { gauge }]) => Metric.update(gauge, 0), { discard: true })
  })
}

/** A look at something that runs. */
type Look = Effect.Effect<void>

interface Watcher {
  /** The looks, by what they look at, and for how many runs each. */
  readonly looks: Map<string, { readonly look: Look; runs: number }>
  readonly fiber: Fiber.Fiber<unknown>
}

/** Who looks, for each database. */
const watchers = new WeakMap<object, Watcher>()

const lookForever = (looks: Watcher["looks"], interval: Duration.Duration): Effect.Effect<never> => {
  let took = 0
  return Effect.gen(function* () {
    yield* Effect.sleep(Duration.max(interval, Duration.millis(took * leastPartsBetweenLooks)))
    const began = yield* monotonicMillis
    yield* Effect.forEach(looks.values(), ({ look }) => look, { discard: true })
    took = (yield* monotonicMillis) - began
  }).pipe(Effect.forever)
}

/**
 * Looks as long as the scope is open: once for all that run on the same database, whose `Transactor` says which that is. Where a
 * look fails, the next one follows all the same.
 */
export const whileRunning = <E, R>(
  transactor: object,
  about: string,
  look: Effect.Effect<void, E, R>
): Effect.Effect<void, never, R | Scope.Scope> =>
  Effect.gen(function* () {
    const interval = Option.getOrElse(Duration.fromInput(yield* GaugeInterval), () => Duration.infinity)
    if (!Duration.isFinite(interval)) return
    const context = yield* Effect.context<R>()
    // A look is nothing that the application does: it has no place in a trace.
    const own = look.pipe(
      Effect.withTracerEnabled(false),
      Effect.provideContext(context),
      Effect.ignoreCause({ log: "Debug", message: `${about} could not be looked at` })
    )
    yield* Effect.acquireRelease(
      Effect.gen(function* () {
        const known = watchers.get(transactor)
        const looks: Watcher["looks"] = known?.looks ?? new Map()
        const entry = looks.get(about) ?? { look: own, runs: 0 }
        entry.runs++
        looks.set(about, entry)
        if (known === undefined) {
          watchers.set(transactor, { looks, fiber: yield* Effect.forkDetach(lookForever(looks, interval)) })
        }
      }),
      () =>
        Effect.suspend(() => {
          const watcher = watchers.get(transactor)
          const entry = watcher?.looks.get(about)
          if (watcher === undefined || entry === undefined) return Effect.void
          entry.runs--
          if (entry.runs === 0) watcher.looks.delete(about)
          if (watcher.looks.size > 0) return Effect.void
          watchers.delete(transactor)
          return Fiber.interrupt(watcher.fiber)
        })
    )
  })
