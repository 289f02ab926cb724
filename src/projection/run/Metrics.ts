/** A span for each batch of a projection, and metrics. */
import { Clock, Duration, Effect, Metric, type Tracer } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import * as Telemetry from "../../internal/Telemetry.ts"
import * as TraceParent from "../../internal/TraceParent.ts"

const handled = Telemetry.counter("strata_projection_events")
const failures = Telemetry.counter("strata_projection_failures")
const batchTime = Telemetry.timer("strata_projection_batch_duration")

/** Each batch feeds it, and so does each look at all projections, which also sees a shard that hangs. */
export const lag = Telemetry.gauge("strata_projection_lag_seconds")

/** The most links of a span: more of them would only make it larger. */
const mostLinks = 128

/** Links to the spans that have appended the events: each event names its span by `traceparent` in its metadata. */
export const linksOf = (events: ReadonlyArray<StoredEvent>): Array<Tracer.SpanLink> => {
  const parents = new Set<string>()
  for (const { metadata } of events) {
    const parent = metadata?.["traceparent"]
    if (typeof parent === "string" && parents.size < mostLinks) parents.add(parent)
  }
  return [...parents].flatMap((parent) => {
    const span = TraceParent.parse(parent)
    return span === undefined ? [] : [{ span, attributes: {} }]
  })
}

/** The metrics and spans of one shard. */
export const make = (projection: string, shard: number) => {
  const attributes = { projection, shard: String(shard) }
  const counter = Metric.withAttributes(handled, attributes)
  const failed = Metric.withAttributes(failures, attributes)
  const timer = Metric.withAttributes(batchTime, attributes)
  const gauge = Metric.withAttributes(lag, attributes)
  return {
    /** Counts a failure of the handler. */
    failed: Metric.update(failed, 1),
    /** Measures a batch, whose result is the failure of its handler, or nothing. */
    batch:
      (events: ReadonlyArray<StoredEvent>) =>
      <F, E, R>(body: Effect.Effect<F | undefined, E, R>): Effect.Effect<F | undefined, E, R> =>
        Effect.gen(function* () {
          const start = yield* Clock.monotonicTimeNanos
          const failure = yield* body
          if (failure !== undefined) return failure
          yield* Metric.update(timer, Duration.nanos((yield* Clock.monotonicTimeNanos) - start))
          yield* Metric.update(counter, events.length)
          const last = events.at(-1)?.createdAt.epochMilliseconds
          if (last !== undefined) {
            yield* Metric.update(gauge, Math.max(0, (yield* Clock.currentTimeMillis) - last) / 1000)
          }
          return undefined
        }).pipe(
          Effect.withSpan("Projection.batch" satisfies Telemetry.SpanName, {
            // A trace of its own for each batch: a projection never ends, and a trace should.
            root: true,
            attributes: { ...attributes, events: events.length },
            links: linksOf(events)
          })
        )
  }
}
