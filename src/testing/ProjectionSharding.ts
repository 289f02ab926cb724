/** Which events a shard handles, and what shards do to each other: a part of the projections' suite. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Layer, Logger, Metric, Schedule, Stream } from "effect"
import type { StoredEvent } from "../EventStore.ts"
import * as Projection from "../Projection.ts"
import { append, ending, keepsLog, long, range, scene, start } from "./ProjectionScene.ts"

/** An id that belongs to the shard of two. */
const idIn = (shard: number, name: string) =>
  range(100)
    .map((index) => `${name}${index}`)
    .find((id) => Projection.shardOf(id, 2) === shard) ?? ""

const customerOf = ({ metadata }: StoredEvent) => String(metadata?.["customer"])

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<Projection.Services, E>,
  { interleaving }: { readonly interleaving: boolean }
): void => {
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Projection, shards (${name})`, (it) => {
    it.effect.runIf(interleaving)("counts and tells that shards were in each other's way, and tries again", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        const { logged, withLog } = keepsLog()
        const [one, other] = [idIn(0, "one"), idIn(1, "other")]
        yield* append(one, 1)
        yield* append(other, 2)
        // Each shard changes one row, and then waits for the row that the other one has changed.
        const inTheMiddle = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
        let attempts = 0
        const handler = (event: StoredEvent, slot: Projection.Slot) =>
          Effect.gen(function* () {
            attempts++
            const isOne = event.aggregateId === one
            const [first, second] = isOne ? ["anna", "bert"] : ["bert", "anna"]
            yield* add({ ...event, aggregateId: first ?? "" }, slot)
            yield* Deferred.succeed(inTheMiddle[isOne ? 0 : 1], undefined)
            yield* Deferred.await(inTheMiddle[isOne ? 1 : 0])
            yield* add({ ...event, aggregateId: second ?? "" }, slot)
          })
        yield* withLog(
          Effect.raceFirst(
            Projection.run(Projection.make({ ...options, shards: 2, retry: Schedule.recurs(0), handler })),
            caughtUp
          )
        )
        assert.deepStrictEqual((yield* seen("anna")).toSorted(), [1, 2])
        assert.deepStrictEqual((yield* seen("bert")).toSorted(), [1, 2])
        assert.isAtLeast(attempts, 3)
        // Each shard tells of it once in a minute. On a busy machine both may lose, and the process may warn of other things.
        const lost = logged.filter((text) => text.includes("has lost against"))
        assert.isNotEmpty(lost)
        assert.lengthOf([...new Set(lost.map((text) => text.slice(0, "shard 0".length)))], lost.length)
        assert.match(
          lost[0] ?? "",
          /^shard [01] of projection ".*" has lost against a concurrent transaction, and its batch is tried again within 2 seconds: .*; where shards write the same rows, .* shardBy/
        )
        const counters = (yield* Metric.snapshot).filter(({ id }) => id === "strata_projection_contention")
        const own = counters.filter(({ attributes }) => attributes?.["projection"] === name)
        assert.deepStrictEqual(
          own.map(({ state }) => state),
          [{ count: attempts - 2, incremental: true }]
        )
      })
    )

    it.effect("handles the events of a key in order, whatever their aggregates are", () =>
      Effect.gen(function* () {
        const { add, caughtUp, options, seen, type } = yield* scene()
        const customers = range(5).map((index) => `customer ${index}`)
        const ordered = range(20).flatMap((data) =>
          customers.map((customer) => ({
            aggregateId: `order ${data} of ${customer}`,
            eventType: type,
            data,
            metadata: { customer }
          }))
        )
        yield* append(ordered)
        yield* start(
          Projection.make({
            ...options,
            shards: 8,
            batchSize: 3,
            shardBy: customerOf,
            handler: (event, slot) => add({ ...event, aggregateId: customerOf(event) }, slot)
          })
        )
        yield* caughtUp
        for (const customer of customers) assert.deepStrictEqual(yield* seen(customer), range(20))
      })
    )

    it.effect("retries of a parked aggregate only what belongs to the shard", () =>
      Effect.gen(function* () {
        const { add, caughtUp, name, options, seen, type } = yield* scene()
        const events = [idIn(0, "key"), idIn(1, "key"), idIn(0, "key")].map((customer, data) => ({
          aggregateId: "a",
          eventType: type,
          data,
          metadata: { customer }
        }))
        yield* append(events)
        let isMended = false
        yield* start(
          Projection.make({
            ...options,
            shards: 2,
            onFailure: "park",
            shardBy: customerOf,
            handler: (event, slot) =>
              Effect.andThen(isMended || event.data !== 0 ? Effect.void : Effect.fail("no zeros"), add(event, slot))
          })
        )
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1])
        isMended = true
        const [retried] = yield* Projection.retryParked(name, long)
        assert.strictEqual(retried?.state, "handled")
        assert.deepStrictEqual(yield* seen("a"), [1, 0, 2])
        assert.deepStrictEqual(yield* Stream.runCollect(Projection.parked(name)), [])
      })
    )

    it.effect("stops before an event whose key cannot be told", () =>
      Effect.gen(function* () {
        const { add, append, options, seen } = yield* scene()
        yield* append("a", 1)
        const [bad] = yield* append("b", 2)
        const shardBy = ({ aggregateId, data }: StoredEvent) => {
          if (data === 2) throw new Error("no key")
          return aggregateId
        }
        const error = yield* ending(yield* start(Projection.make({ ...options, shards: 2, shardBy, handler: add })))
        if (error._tag !== "ProjectionFailed") return assert.fail(error.message)
        assert.deepStrictEqual([error.version, String(error.cause)], [bad?.version, "Error: no key"])
        assert.deepStrictEqual(yield* seen("b"), [])
      })
    )
  })
}
