/** Integers beyond 2^53 in JSON, as a program uses them: the same on every backend. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, type Layer, Schema, type Scope, Stream } from "effect"
import { EventStore, InvalidInput, Json, Spool, type SpoolStore, StoreError, type Transactor } from "effect-strata"

/** `time.Now().UnixNano()` of a Go service. */
const nanos = 1764187200123456789n
const text = "9007199254740993"
const edges = [0n, 1n, -1n, 42n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 60n, -(2n ** 60n) - 1n, 2n ** 63n - 1n, -(2n ** 63n)]

class Paid extends Schema.TaggedClass<Paid>()("Paid", {
  atNanos: Json.Int64,
  reference: Json.Int64Text,
  parts: Schema.Array(Json.Int64)
}) {}

/** The same events, by a class that asks for JavaScript's numbers. */
class Rounded extends Schema.TaggedClass<Rounded>()("Paid", { atNanos: Schema.Number }) {}

const Payments = EventStore.typed({ events: [Paid] })
const paid = new Paid({ atNanos: nanos, reference: text, parts: edges })

class Payout extends Schema.Class<Payout>("Payout")({ units: Json.Int64 }) {}

type Stores = EventStore.EventStore | SpoolStore.SpoolStore | Transactor.Transactor

/** Layers on the same tables: with the option `largeIntegers: "bigint"`, and without. */
export interface Layers {
  readonly exact: Layer.Layer<Stores, unknown>
  readonly plain: Layer.Layer<Stores, unknown>
}

/** JSON with a `bigint` in it, for which `Schema.Json` has no type. */
const json = (fields: object): Schema.Json => Object.assign(JSON.parse("{}"), fields)

export const suite = (name: string, make: Effect.Effect<Layers, unknown, Scope.Scope>) => {
  describe(`large integers (${name})`, () => {
    it.live("of a typed view are numbers in JSON, and come back with all of their digits", () =>
      Effect.gen(function* () {
        const { exact } = yield* make
        yield* Effect.gen(function* () {
          const payments = yield* Payments
          const store = yield* EventStore.EventStore
          const follower = yield* payments
            .subscribe({ after: "start" })
            .pipe(Stream.take(2), Stream.runCollect, Effect.forkChild({ startImmediately: true }))
          const [stored] = yield* payments.append("order-1", paid)
          assert.deepStrictEqual(stored?.event, paid)
          const data = json({ atNanos: nanos, reference: BigInt(text), parts: edges })
          yield* store.append({ aggregateId: "order-2", eventType: "Paid", data })
          for (const { event } of [...(yield* payments.load()), ...(yield* Fiber.join(follower))]) {
            assert.deepStrictEqual(event, paid)
          }
          // What JavaScript can hold is a number, as ever.
          const parts = edges.map((edge) => (String(Number(edge)) === String(edge) ? Number(edge) : edge))
          const [raw] = yield* store.loadByAggregate("order-1")
          assert.deepStrictEqual(raw?.data, json({ atNanos: nanos, reference: BigInt(text), parts }))
        }).pipe(Effect.provide(exact))
      }).pipe(Effect.scoped)
    )

    it.live("are found by their digits, in the log and by those who follow it", () =>
      Effect.gen(function* () {
        const { exact } = yield* make
        yield* Effect.gen(function* () {
          const payments = yield* Payments
          const of = (atNanos: bigint) => new Paid({ atNanos, reference: "1", parts: [] })
          const filters = [json({ atNanos: nanos }), json({ atNanos: 7n })]
          const followers = yield* Effect.forEach(filters, (data) =>
            payments
              .subscribe({ after: "start", data })
              .pipe(Stream.take(2), Stream.runCollect, Effect.forkChild({ startImmediately: true }))
          )
          for (let round = 0; round < 2; round++) {
            yield* payments.append("a", [of(nanos - 1n), of(nanos), of(nanos + 1n), of(7n), of(8n)])
          }
          const read = yield* Effect.forEach(filters, (data) => Stream.runCollect(payments.read({ data })))
          for (const [found, foundSmall] of [read, yield* Effect.forEach(followers, Fiber.join)]) {
            assert.deepStrictEqual(
              [found, foundSmall].map((events) => events?.map(({ event }) => event.atNanos)),
              [
                [nanos, nanos],
                [7n, 7n]
              ]
            )
          }
        }).pipe(Effect.provide(exact))
      }).pipe(Effect.scoped)
    )

    it.live("are told apart when an append is tried again", () =>
      Effect.gen(function* () {
        const { exact } = yield* make
        yield* Effect.gen(function* () {
          const payments = yield* Payments
          const again = (atNanos: bigint) =>
            payments.appendAll(
              [{ id: "one", aggregateId: "a", event: new Paid({ atNanos, reference: "1", parts: [] }) }],
              { onDuplicate: "ignore" }
            )
          const [first] = yield* again(nanos)
          const [second] = yield* again(nanos)
          assert.deepStrictEqual(second, first)
          assert.instanceOf(yield* Effect.flip(again(nanos + 1n)), EventStore.DuplicateEvent)
        }).pipe(Effect.provide(exact))
      }).pipe(Effect.scoped)
    )

    it.live("are refused without the option, and a CorruptRow where another layer has written them", () =>
      Effect.gen(function* () {
        const { exact, plain } = yield* make
        yield* Effect.gen(function* () {
          const payments = yield* Payments
          const { append } = yield* EventStore.EventStore
          const refused = yield* Effect.flip(payments.append("a", paid))
          assert.instanceOf(refused, InvalidInput.InvalidInput)
          assert.deepStrictEqual(
            refused.issues.map(({ field }) => field),
            ["events.0.data.atNanos"]
          )
          // What JavaScript can hold is no bigint in JSON.
          yield* payments.append("a", new Paid({ atNanos: 7n, reference: "7", parts: [] }))
          yield* append({ aggregateId: "a", eventType: "Other", data: 1e21 })
        }).pipe(Effect.provide(plain))
        yield* Effect.flatMap(Payments, ({ append }) => append("a", paid)).pipe(Effect.provide(exact))
        yield* Effect.gen(function* () {
          const store = yield* EventStore.EventStore
          const payments = yield* Payments
          const seen: Array<bigint> = []
          const failures = [
            yield* Effect.flip(store.load()),
            yield* Effect.flip(payments.loadByAggregate("a", 2n)),
            yield* Effect.flip(
              Stream.runForEach(store.subscribe({ after: "start" }), ({ version }) =>
                Effect.sync(() => seen.push(version))
              )
            )
          ]
          for (const error of failures) {
            assert.instanceOf(error, StoreError.StoreError)
            assert.strictEqual(error.reason._tag, "CorruptRow", error.message)
            assert.match(error.message, /row 3 of events.*JavaScript cannot hold.*largeIntegers/)
          }
          assert.deepStrictEqual(seen, [1n, 2n])
          assert.lengthOf(yield* store.load(3n), 0)
        }).pipe(Effect.provide(plain))
      }).pipe(Effect.scoped)
    )

    it.live("are a CorruptRow to a class that asks for a number", () =>
      Effect.gen(function* () {
        const { exact } = yield* make
        yield* Effect.gen(function* () {
          yield* Effect.flatMap(Payments, ({ append }) => append("a", paid))
          const rounded = yield* EventStore.typed({ events: [Rounded] })
          const error = yield* Effect.flip(rounded.load())
          assert.match(error.message, /does not fit "Paid" \(atNanos: Expected number/)
        }).pipe(Effect.provide(exact))
      }).pipe(Effect.scoped)
    )

    it.live("of a message come to its handler with all of their digits", () =>
      Effect.gen(function* () {
        const { exact, plain } = yield* make
        const payouts = Spool.make({ name: "payouts", payload: Payout })
        const units = 2n ** 60n + 1n
        const refused = yield* Effect.flip(payouts.enqueue(new Payout({ units }))).pipe(Effect.provide(plain))
        assert.instanceOf(refused, InvalidInput.InvalidInput)
        yield* Effect.gen(function* () {
          yield* payouts.enqueue(new Payout({ units }))
          const handled = yield* Deferred.make<Payout>()
          const handle = payouts.run((payout) => Deferred.succeed(handled, payout))
          const payout = yield* Effect.raceFirst(handle, Deferred.await(handled))
          assert.deepStrictEqual(payout, new Payout({ units }))
        }).pipe(Effect.provide(exact))
      }).pipe(Effect.scoped)
    )
  })
}
