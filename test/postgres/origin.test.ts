/** Follows what has caused what, through the log and a queue, as somebody does who looks into an incident. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer, Option, Schema, Stream, Tracer } from "effect"
import { EventStore, Origin, Projection, Spool, type SpoolStore } from "effect-strata"
import * as Memory from "effect-strata/memory"
import * as Postgres from "effect-strata/postgres"
import { layerSchema } from "../support/database.ts"

const layers = [
  ["memory", Layer.fresh(Memory.layer), Layer.fresh(Memory.layerWith({ traceparent: "never" }))],
  [
    "postgres",
    Layer.provide(Postgres.layer(), layerSchema()),
    Layer.provide(Postgres.layer({ traceparent: "never" }), layerSchema())
  ]
] as const

/** Collects the spans that the effect begins. */
const collecting = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, collected: Effect.withTracer(tracer) }
}

class Placed extends Schema.TaggedClass<Placed>()("Placed", { total: Schema.Int }) {}
class Billed extends Schema.TaggedClass<Billed>()("Billed", { total: Schema.Int }) {}
const Orders = EventStore.typed({ events: [Placed, Billed] })
const mails = Spool.make({ name: "mails", payload: Schema.String })

const traceparentOf = ({ spanId, traceId }: Tracer.AnySpan) => `00-${traceId}-${spanId}-01`

const parentOf = (span: Tracer.Span | undefined) => span && Option.getOrUndefined(span.parent)

describe.each(layers)("on %s", (_, layer, layerWithoutTraces) => {
  it.live("a request leads to an event, a mail and an event of its worker, and each names what has caused it", () =>
    Effect.gen(function* () {
      const { collected, spans } = collecting()
      const orders = yield* Orders
      const events = yield* EventStore.EventStore
      const done = yield* Deferred.make<SpoolStore.SpoolMessage>()

      const billing = Projection.make({
        name: "billing",
        events: Orders,
        on: { Placed: ({ event }) => mails.enqueue(`you pay ${event.total}`) },
        otherwise: "pass"
      })
      const send = (_: string, message: SpoolStore.SpoolMessage) =>
        Effect.andThen(orders.append("order-7", new Billed({ total: 3 })), Deferred.succeed(done, message))

      const request = orders
        .append("order-7", new Placed({ total: 3 }))
        .pipe(
          Effect.provideService(Origin.Origin, { correlationId: "request-1" }),
          Effect.withSpan("POST /orders", { root: true })
        )
      const message = yield* request.pipe(
        Effect.andThen(Deferred.await(done)),
        Effect.raceFirst(Projection.run(billing)),
        Effect.raceFirst(mails.run(send)),
        collected
      )

      const story = yield* Stream.runCollect(events.read({ metadata: { correlationId: "request-1" } }))
      assert.deepStrictEqual(
        story.map(({ eventType, metadata }) => [eventType, metadata?.["causationId"]]),
        [
          ["Placed", undefined],
          ["Billed", message.id]
        ]
      )
      const [placed, billed] = story
      assert.deepInclude(message.headers, { correlationId: "request-1", causationId: placed?.id })

      // The trace: the request, the span of its append, the projection's handler linked to it, and the mail below that.
      const named = (name: string) => spans.filter((span) => span.name === name)
      const append = named("EventStore.append").find(
        (span) => traceparentOf(span) === placed?.metadata?.["traceparent"]
      )
      assert.strictEqual(parentOf(append)?.spanId, named("POST /orders")[0]?.spanId)
      const handle = named("Projection.handle").find(({ links }) => links[0]?.span.spanId === append?.spanId)
      assert.strictEqual(message.headers.traceparent, handle && traceparentOf(handle))
      const [worker] = named("Spool.handle")
      assert.strictEqual(parentOf(worker)?.spanId, handle?.spanId)
      const last = named("EventStore.append").find((span) => traceparentOf(span) === billed?.metadata?.["traceparent"])
      assert.strictEqual(last?.traceId, worker?.traceId)
    }).pipe(Effect.provide(layer))
  )

  it.live("a subscriber says what has caused what it writes, and an event without a correlation begins one", () =>
    Effect.gen(function* () {
      const { collected, spans } = collecting()
      const events = yield* EventStore.EventStore
      const [first] = yield* collected(events.append({ aggregateId: "a", eventType: "First", data: 1 }))
      if (first === undefined) return assert.fail("no event")
      const answer = (event: EventStore.StoredEvent) =>
        events
          .append({ aggregateId: "a", eventType: "Second", data: 2 })
          .pipe(Effect.withSpan("answer"), Origin.causedBy(event))
      const answers = yield* events
        .subscribe({ after: first.version - 1n })
        .pipe(Stream.take(1), Stream.mapEffect(answer), Stream.runCollect, collected)
      assert.deepInclude(answers[0]?.[0]?.metadata, { correlationId: first.id, causationId: first.id })
      const span = spans.find(({ name }) => name === "answer")
      assert.deepStrictEqual(
        span?.links.map((link) => traceparentOf(link.span)),
        [first.metadata?.["traceparent"]]
      )
    }).pipe(Effect.provide(layer))
  )

  it.live('no traces are written with `traceparent: "never"`', () =>
    Effect.gen(function* () {
      const { collected } = collecting()
      const events = yield* EventStore.EventStore
      const append = events.append({ aggregateId: "a", eventType: "First", data: 1 })
      const stored = yield* Effect.provideService(append, Origin.Origin, { correlationId: "1" }).pipe(collected)
      assert.deepStrictEqual(
        stored.map(({ metadata }) => metadata),
        [{ correlationId: "1" }]
      )
    }).pipe(Effect.provide(layerWithoutTraces))
  )

  it.live("an event of another program with an id that is too long is handled all the same", () =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      const metadata = { correlationId: "x".repeat(600) }
      const [first] = yield* events.append({ aggregateId: "b", eventType: "First", data: 1, metadata })
      if (first === undefined) return assert.fail("no event")
      const caused = events.append({ aggregateId: "b", eventType: "Second", data: 2 }).pipe(Origin.causedBy(first))
      assert.deepInclude((yield* caused)[0]?.metadata, { correlationId: first.id, causationId: first.id })
      assert.deepStrictEqual(Origin.of({ ...first, id: "x".repeat(600) }), {})
    }).pipe(Effect.provide(layer))
  )
})
