/** The span and the metrics of one operation: see `Operation`. */
import { Cause, Clock, Context, Duration, Effect, Exit, type Fiber, Metric, Option, Stream, Tracer } from "effect"
import { StoreError } from "../StoreError.ts"
import * as Telemetry from "./Telemetry.ts"

interface Tagged {
  readonly _tag: string
}

interface Attributes extends Readonly<Record<string, string>> {
  readonly store: string
  readonly operation: string
  readonly backend: string
}

// Each series is a metric of its own. One metric with attributes added at each update would make a new context each time.

const countOf = (attributes: Attributes, outcome: string) =>
  Telemetry.counter("strata_operations", { ...attributes, outcome })

const durationOf = (attributes: Attributes) => Telemetry.timer("strata_operation_duration", attributes)

/** The tracer of a fiber for which nobody collects spans. */
const noTracer = Context.get(Context.empty(), Tracer.Tracer)

/** Whether the fiber's spans are collected. Without a collector a span costs as much as the rest of an operation. */
export const isTraced = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.getRef(Tracer.Tracer) !== noTracer

const outcomeOf = (exit: Exit.Exit<unknown, Tagged>): string => {
  if (Exit.isSuccess(exit)) return "ok"
  if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
  const error = Cause.findErrorOption(exit.cause)
  if (Option.isNone(error)) return "defect"
  return error.value instanceof StoreError ? error.value.reason._tag : error.value._tag
}

export class Instruments {
  private readonly attributes: Attributes
  private readonly span: string
  private readonly duration: Metric.Metric<Duration.Duration, unknown>
  private readonly counters = new Map<string, Metric.Metric<number, unknown>>()

  constructor(attributes: Attributes) {
    this.attributes = attributes
    this.span = `${attributes.store}.${attributes.operation}`
    this.duration = durationOf(attributes)
  }

  /**
   * Runs an effect with a span, counts it and times it. It updates the metrics directly: as effects the updates would cost
   * more than everything else in here.
   */
  watch<A, E extends Tagged>(body: (clock: Clock.Clock) => Effect.Effect<A, E>): Effect.Effect<A, E> {
    const measured = (fiber: Fiber.Fiber<unknown, unknown>) => {
      const clock = fiber.getRef(Clock.Clock)
      const start = clock.monotonicTimeNanosUnsafe()
      return Effect.onExitPrimitive(body(clock), (exit) => {
        this.counterOf(outcomeOf(exit)).updateUnsafe(1, fiber.context)
        this.duration.updateUnsafe(Duration.nanos(clock.monotonicTimeNanosUnsafe() - start), fiber.context)
        return undefined
      })
    }
    const { attributes, span } = this
    return Effect.withFiber((fiber) =>
      isTraced(fiber)
        ? Effect.useSpan(span, { attributes }, (current) =>
            Effect.provideService(Effect.withFiber(measured), Tracer.ParentSpan, current)
          )
        : measured(fiber)
    )
  }

  /**
   * Runs a stream with a span, and counts it when it ends. Where nobody collects spans there is none: it would be a fourth of
   * the memory of a subscriber.
   */
  watchStream<A, E extends Tagged>(body: Stream.Stream<A, E>): Stream.Stream<A, E> {
    const counted = Stream.onExit(body, (exit) => Metric.update(this.counterOf(outcomeOf(exit)), 1))
    const { attributes, span } = this
    return Stream.unwrap(
      Effect.withFiber((fiber) =>
        Effect.succeed(isTraced(fiber) ? Stream.withSpan(counted, span, { attributes }) : counted)
      )
    )
  }

  private counterOf(outcome: string): Metric.Metric<number, unknown> {
    let counter = this.counters.get(outcome)
    if (counter === undefined) {
      counter = countOf(this.attributes, outcome)
      this.counters.set(outcome, counter)
    }
    return counter
  }
}
