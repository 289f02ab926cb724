/** What projections of a typed view do on every backend: a part of their suite. */
import { assert, it } from "@effect/vitest"
import { Effect, type Layer, Ref, Schema, Stream } from "effect"
import { EventStore, typed, upcast } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import * as Projection from "../Projection.ts"
import { CorruptRow } from "../StoreError.ts"
import { append, ending, fresh, latestVersion, quick, start, untilHandled } from "./ProjectionScene.ts"

class PaidV1 extends Schema.TaggedClass<PaidV1>()("suite/Paid", { euros: Schema.Int }) {}
class Paid extends Schema.TaggedClass<Paid>()("suite/Paid", { cents: Schema.Int }) {}
class Refunded extends Schema.TaggedClass<Refunded>()("suite/Refunded", { cents: Schema.Int }) {}

const Payments = typed({
  events: [Paid, Refunded],
  upcast: [upcast({ from: PaidV1, to: Paid, map: ({ euros }) => ({ cents: 100 * euros }) })]
})

/** Collects what a handler was given for one aggregate: all tests share one log. */
const collect = (account: string) =>
  Effect.map(Ref.make<ReadonlyArray<string>>([]), (seen) => ({
    seen: Ref.get(seen),
    add: ({ aggregateId, event, version }: { aggregateId: string; event: Paid | Refunded; version: bigint }) =>
      aggregateId === account && version > 0n
        ? Ref.update(seen, (all) => [...all, `${event._tag} ${event.cents}`])
        : Effect.void
  }))

const caughtUp = (name: string) => Effect.flatMap(latestVersion, (version) => untilHandled(name, version))

/** Pays 5 euros in the old form, and gives 200 cents back. */
const payAndRefund = Effect.fnUntraced(function* (account: string) {
  yield* append({ aggregateId: account, eventType: "suite/Paid", data: { euros: 5 } })
  const payments = yield* Payments
  yield* payments.append(account, new Refunded({ cents: 200 }))
})

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<Projection.Services, E>): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Projection of a typed view (${name})`, (it) => {
    it.effect("hands decoded and upcast events to a handler, to a batch handler, and to handlers by tag", () =>
      Effect.gen(function* () {
        const account = fresh("account")
        const one = yield* collect(account)
        const batch = yield* collect(account)
        const tags = yield* collect(account)
        const some = yield* collect(account)
        const options = () => ({ ...quick, name: fresh("typed"), aggregateIds: [account], events: Payments })
        const projections = [
          Projection.make({ ...options(), handler: one.add }),
          Projection.make({
            ...options(),
            batchHandler: (events) => Effect.forEach(events, batch.add, { discard: true })
          }),
          Projection.make({ ...options(), on: { "suite/Paid": tags.add, "suite/Refunded": tags.add } }),
          Projection.make({ ...options(), on: { "suite/Refunded": some.add }, otherwise: "pass" })
        ]
        yield* Effect.forEach(projections, start)
        yield* append({ aggregateId: account, eventType: "suite/of another view", data: null })
        yield* payAndRefund(account)
        yield* Effect.forEach(projections, (projection) => caughtUp(projection.name))
        const all = ["suite/Paid 500", "suite/Refunded 200"]
        assert.deepStrictEqual(
          [yield* one.seen, yield* batch.seen, yield* tags.seen, yield* some.seen],
          [all, all, all, all.slice(1)]
        )
      })
    )

    it.effect("folds decoded events", () =>
      Effect.gen(function* () {
        const account = fresh("account")
        yield* payAndRefund(account)
        const balance = yield* Projection.fold({ events: Payments, aggregateIds: [account] }, 0, (sum, { event }) =>
          event._tag === "suite/Paid" ? sum + event.cents : sum - event.cents
        )
        assert.strictEqual(balance, 300)
      })
    )

    it.effect("stops before an event that does not decode, or passes it, as with one whose handler fails", () =>
      Effect.gen(function* () {
        const account = fresh("account")
        const options = { ...quick, aggregateIds: [account], events: Payments }
        const [stopping, skipping] = [fresh("stopping"), fresh("skipping")]
        const one = yield* collect(account)
        const batch = yield* collect(account)
        const [broken] = yield* append({ aggregateId: account, eventType: "suite/Refunded", data: { cents: "many" } })
        yield* payAndRefund(account)
        const stopped = yield* start(Projection.make({ ...options, name: stopping, handler: one.add }))
        const error = yield* ending(stopped)
        assert.strictEqual(error._tag, "ProjectionFailed")
        if (error._tag === "ProjectionFailed") {
          assert.strictEqual(error.version, broken?.version)
          assert.instanceOf(error.cause, CorruptRow)
        }
        yield* start(
          Projection.make({
            ...options,
            name: skipping,
            onFailure: "skip",
            batchHandler: (events) => Effect.forEach(events, batch.add, { discard: true })
          })
        )
        yield* caughtUp(skipping)
        assert.deepStrictEqual(yield* batch.seen, ["suite/Paid 500", "suite/Refunded 200"])
        const [skipped] = yield* Stream.runCollect(Projection.skipped(skipping))
        assert.include(skipped?.error, "suite/Refunded")
      })
    )

    it.effect("refuses a view whose classes do not fit together", () =>
      Effect.gen(function* () {
        const twice = typed({ events: [Paid, Paid] })
        const projection = Projection.make({ name: fresh("typed"), events: twice, handler: () => Effect.void })
        assert.deepStrictEqual(
          yield* Effect.flip(Projection.run(projection)),
          new InvalidInput({
            store: "Projection",
            operation: "run",
            issues: [{ field: "events", message: "Expected each tag once" }]
          })
        )
      })
    )

    it.effect("lets a view decode what was read in another way", () =>
      Effect.gen(function* () {
        const account = fresh("account")
        yield* payAndRefund(account)
        const stored = yield* EventStore.use((events) => events.loadByAggregate(account))
        const decoded = yield* Effect.forEach(stored, Payments.decode)
        assert.deepStrictEqual(
          decoded.map(({ aggregateId, event }) => [aggregateId, event]),
          [
            [account, new Paid({ cents: 500 })],
            [account, new Refunded({ cents: 200 })]
          ]
        )
      })
    )
  })
}
