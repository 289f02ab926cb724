import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric, Schedule, Tracer } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736"
const traceparent = (spanId: string) => `00-${traceId}-${spanId}-01`

const event = (metadata: EventStore.StoredEvent["metadata"]) => ({
  aggregateId: "a",
  eventType: "Happened",
  data: 1,
  ...(metadata === null ? {} : { metadata })
})

describe("a projection is observed", () => {
  it.live("by a span for each batch, linked to the traces of its events", () =>
    Effect.gen(function* () {
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const events = yield* EventStore.EventStore
      const stored = yield* events.append([
        event({ traceparent: traceparent("00f067aa0ba902b7") }),
        event({ traceparent: traceparent("00f067aa0ba902b7") }),
        event({ traceparent: traceparent("00f067aa0ba902b8") }),
        event({ traceparent: "garbage" }),
        event({ traceparent: 7 }),
        event(null)
      ])
      const projection = Projection.make({ name: "watched", handler: () => Effect.void })
      yield* Effect.raceFirst(Projection.run(projection), untilHandled("watched", stored.at(-1)?.version ?? 0n)).pipe(
        Effect.provideService(Tracer.Tracer, tracer)
      )
      const [batch, ...others] = spans.filter(({ name }) => name === "Projection.batch")
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(
        batch?.links.map(({ span }) => [span.traceId, span.spanId, span.sampled]),
        ["00f067aa0ba902b7", "00f067aa0ba902b8"].map((spanId) => [traceId, spanId, true])
      )
      assert.deepStrictEqual(Object.fromEntries(batch?.attributes ?? []), {
        projection: "watched",
        shard: "0",
        events: 6
      })
    }).pipe(Effect.provide(Memory.layer))
  )

  it.live("by metrics", () =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      yield* events.append([event(null), event(null), event(null)])
      const head = yield* events.latestVersion
      let failures = 0
      const projection = Projection.make({
        name: "measured",
        retry: Schedule.recurs(5),
        handler: ({ version }) =>
          Effect.suspend(() => (version === head && failures++ < 2 ? Effect.fail("not yet") : Effect.void))
      })
      const measured = Effect.map(Metric.snapshot, (all) =>
        all.filter(({ attributes }) => attributes?.["projection"] === "measured")
      )
      // A batch is counted once it is committed: whoever sees its offset may see the counter as it was.
      const untilCounted = Effect.repeat(Effect.andThen(Effect.yieldNow, measured), {
        until: (all) =>
          all.some(({ id, state }) => id === "strata_projection_events" && "count" in state && state.count === 3)
      })
      yield* Effect.raceFirst(Projection.run(projection), Effect.andThen(untilHandled("measured", head), untilCounted))
      const snapshot = yield* measured
      const stateOf = (id: string) => snapshot.find((metric) => metric.id === id)?.state
      assert.deepInclude(stateOf("strata_projection_events"), { count: 3 })
      assert.deepInclude(stateOf("strata_projection_failures"), { count: 2 })
      assert.deepInclude(stateOf("strata_projection_batch_duration"), { count: 2 })
      assert.isDefined(stateOf("strata_projection_lag_seconds"))
    }).pipe(Effect.provide(Memory.layer))
  )
})
