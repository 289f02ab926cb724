import { assert, it } from "@effect/vitest"
import { Effect, Layer, Metric, Option, Stream, Tracer } from "effect"
import { OffsetStore, StoreError } from "effect-strata"
import * as Memory from "effect-strata/memory"

const id = { projectionName: "watched", shardNumber: 0 }

/** Collects the spans that the effect starts. */
const withSpans = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const spans: Array<Tracer.Span> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    yield* Effect.withTracer(effect, tracer)
    return spans
  })

it.effect("names a span after each operation, with what it was and nothing of what it carried", () =>
  Effect.gen(function* () {
    const offsets = yield* OffsetStore.OffsetStore
    const spans = yield* withSpans(
      Effect.gen(function* () {
        yield* offsets.writeOffset({ ...id, value: 4711n })
        yield* offsets.getCurrentOffset(id)
        yield* Stream.runDrain(offsets.listOffsets())
        yield* Effect.exit(offsets.advanceOffset(id, { from: Option.none(), to: 1n }))
        yield* offsets.ping
      }).pipe(Effect.withSpan("caller"))
    )
    const [caller, ...operations] = spans
    assert.deepStrictEqual(
      operations.map(({ name }) => name),
      ["writeOffset", "getCurrentOffset", "listOffsets", "advanceOffset", "ping"].map((name) => `OffsetStore.${name}`)
    )
    for (const span of operations) {
      assert.deepStrictEqual(Object.fromEntries(span.attributes), {
        store: "OffsetStore",
        operation: span.name.slice("OffsetStore.".length),
        backend: "memory"
      })
      assert.strictEqual(Option.getOrUndefined(span.parent)?.spanId, caller?.spanId)
      assert.strictEqual(span.status._tag, "Ended")
    }
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)

it.effect("counts every operation by its outcome, and times it", () =>
  Effect.gen(function* () {
    const offsets = yield* OffsetStore.OffsetStore
    const { failNext } = yield* Memory.MemoryDatabase.MemoryDatabase
    yield* offsets.writeOffset({ ...id, value: 1n })
    yield* offsets.writeOffset({ ...id, value: 2n })
    yield* Effect.exit(offsets.writeOffset({ ...id, shardNumber: -1, value: 1n }))
    yield* failNext(new StoreError.Timeout({ message: "slow" }))
    yield* Effect.exit(offsets.writeOffset({ ...id, value: 3n }))
    yield* Effect.exit(offsets.advanceOffset(id, { from: Option.none(), to: 1n }))
    yield* Stream.runDrain(offsets.listOffsets())

    const outcomes = new Map<string, number>()
    let timed = 0
    for (const metric of yield* Metric.snapshot) {
      const { operation, outcome, store } = { ...metric.attributes }
      if (store !== "OffsetStore") continue
      if (metric.id === "strata_operations" && metric.type === "Counter") {
        outcomes.set(`${operation} ${outcome}`, Number(metric.state.count))
      }
      if (metric.id === "strata_operation_duration" && metric.type === "Histogram") timed += metric.state.count
    }
    assert.deepStrictEqual(
      outcomes,
      new Map([
        ["writeOffset ok", 2],
        ["writeOffset InvalidInput", 1],
        ["writeOffset Timeout", 1],
        ["advanceOffset OffsetConflict", 1],
        ["listOffsets ok", 1]
      ])
    )
    assert.strictEqual(timed, 5)
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)), Effect.provideService(Metric.MetricRegistry, new Map()))
)
