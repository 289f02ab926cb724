/** What events keep of where they come from, for every `EventStore`: see `Origin`. */
import { assert, it } from "@effect/vitest"
import { Effect, type Layer, Stream, Tracer } from "effect"
import { DuplicateEvent, EventStore } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { Origin } from "../Origin.ts"

/** An event of an aggregate that no other test uses. */
const fresh = () => ({ aggregateId: `aggregate ${crypto.randomUUID()}`, eventType: "Happened", data: { n: 1 } })

const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

/** Collects the spans that the effect begins. */
export const withSpans = <A, E, R>(effect: Effect.Effect<A, E, R>, isSampled = true) =>
  Effect.gen(function* () {
    const spans: Array<Tracer.Span> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan({ ...options, sampled: isSampled })
        spans.push(span)
        return span
      }
    })
    return { result: yield* Effect.withTracer(effect, tracer), spans }
  })

const traceparentOf = ({ spanId, traceId }: Tracer.AnySpan) => `00-${traceId}-${spanId}-01`

const foreign = Tracer.externalSpan({
  traceId: "4bf92f3577b34da6a3ce929d0e0e4736",
  spanId: "00f067aa0ba902b7",
  sampled: true
})

const origin = { correlationId: "request-7", causationId: "command-1" }

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<EventStore, E>): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`EventStore origins (${name})`, (it) => {
    it.effect("keeps what has caused an event, and the span that appends it, beside what the caller says", () =>
      Effect.gen(function* () {
        const [first, second] = [fresh(), { ...fresh(), metadata: { by: "me", correlationId: "mine" } }]
        const { result: stored, spans } = yield* append([first, second]).pipe(
          Effect.provideService(Origin, origin),
          Effect.withSpan("caller"),
          withSpans
        )
        const span = spans.find(({ name }) => name === "EventStore.append")
        if (span === undefined) return assert.fail("no span")
        const traceparent = traceparentOf(span)
        const metadatas = [
          { ...origin, traceparent },
          { by: "me", correlationId: "mine", causationId: "command-1", traceparent }
        ]
        assert.deepStrictEqual(
          stored.map(({ metadata }) => metadata),
          metadatas
        )
        const events = yield* EventStore
        const read = yield* Effect.forEach(stored, ({ id }) => events.get(id))
        assert.deepStrictEqual(
          read.map(({ metadata }) => metadata),
          metadatas
        )
        const found = yield* Stream.runCollect(
          events.read({ aggregateIds: [first.aggregateId], metadata: { correlationId: "request-7" } })
        )
        assert.deepStrictEqual(found, stored.slice(0, 1))
      })
    )

    it.effect("keeps nothing where nobody collects spans, and none that is not sampled", () =>
      Effect.gen(function* () {
        const plain = yield* Effect.withSpan(append(fresh()), "caller")
        const { result: unsampled } = yield* withSpans(append(fresh()), false)
        assert.deepStrictEqual(
          [...plain, ...unsampled].map(({ metadata }) => metadata),
          [null, null]
        )
        const passedOn = yield* Effect.provideService(append(fresh()), Tracer.ParentSpan, foreign)
        assert.deepStrictEqual(
          passedOn.map(({ metadata }) => metadata),
          [{ traceparent: traceparentOf(foreign) }]
        )
      })
    )

    it.effect("recognises an append that is tried again in another trace, and from another origin", () =>
      Effect.gen(function* () {
        const contents = [{}, { metadata: { by: "me" } }]
        for (const content of contents) {
          const again = { ...fresh(), ...content, id: crypto.randomUUID() }
          const attempt = (effect = append(again, { onDuplicate: "ignore", expected: "none" })) =>
            Effect.map(withSpans(effect), ({ result }) => result)
          const stored = yield* attempt()
          const others = [
            attempt(),
            append(again, { onDuplicate: "ignore" }),
            Effect.provideService(attempt(), Origin, origin)
          ]
          // The stored event comes back, with the trace of the first append.
          for (const other of others) assert.deepStrictEqual(yield* other, stored)
          const changed = { ...again, metadata: { by: "somebody else" } }
          assert.deepStrictEqual(
            yield* Effect.flip(append(changed, { onDuplicate: "ignore" })),
            new DuplicateEvent({ id: again.id })
          )
        }
      })
    )

    it.effect("refuses an origin that no backend can keep", () =>
      Effect.gen(function* () {
        for (const correlationId of ["", "a\0b", "x".repeat(513)]) {
          const event = fresh()
          const error = yield* Effect.flip(Effect.provideService(append(event), Origin, { correlationId }))
          assert.instanceOf(error, InvalidInput)
          assert.include(error.message, "Origin.correlationId")
          const events = yield* EventStore
          assert.deepStrictEqual(yield* events.loadByAggregate(event.aggregateId), [])
        }
      })
    )
  })
}
