/** What projections do on every backend, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Logger, Queue, Ref, Stream } from "effect"
import { EventStore, type StoredEvent } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import { Transactor } from "../Transactor.ts"
import * as Failures from "./ProjectionFailures.ts"
import * as Operating from "./ProjectionOperating.ts"
import * as Rebuilding from "./ProjectionRebuilding.ts"
import { append, elsewhere, latestVersion, range, scene, start } from "./ProjectionScene.ts"
import * as Sharding from "./ProjectionSharding.ts"
import * as Tagged from "./ProjectionTagged.ts"
import * as Typed from "./ProjectionTyped.ts"

/** Parts of a projection that break the model. */
const invalid: ReadonlyArray<readonly [what: string, part: object]> = [
  ["an empty name", { name: "" }],
  ["a name of 201 characters", { name: "x".repeat(201) }],
  ["no shards", { shards: 0 }],
  ["negative shards", { shards: -1 }],
  ["half a shard", { shards: 0.5 }],
  ["an empty batch", { batchSize: 0 }],
  ["a negative batch", { batchSize: -5 }],
  ["an empty event type", { eventTypes: [""] }],
  ["an empty aggregate id", { aggregateIds: [""] }],
  ["another policy", { onFailure: "ignore" }],
  ["no heartbeat", { heartbeat: 0 }],
  ["a heartbeat that is no duration", { heartbeat: "often" }]
]

/**
 * Registers the suite.
 *
 * `interleaving: false` is for a backend whose transactions run one after another: it leaves out the tests that have two
 * transactions open at once.
 */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<Projection.Services, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  // Each failure is logged as a warning, and these tests cause many.
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Projection (${name})`, (it) => {
    it.effect("handles the stored events and then new ones, in order, each once", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, options, seen } = yield* scene()
        const aggregates = range(20).map((index) => `a${index}`)
        yield* Effect.forEach(aggregates, (id) => append(id, 1, 2, 3))
        yield* start(Projection.make({ ...options, shards: 4, batchSize: 7, handler: add }))
        yield* caughtUp
        yield* Effect.forEach(aggregates, (id) => append(id, 4, 5))
        yield* caughtUp
        for (const id of aggregates) assert.deepStrictEqual(yield* seen(id), [1, 2, 3, 4, 5])
      })
    )

    it.effect("goes on where it was when it is interrupted and run again", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, options, seen } = yield* scene()
        for (const round of range(5)) {
          yield* append("a", round)
          const fiber = yield* start(Projection.make({ ...options, shards: 2, handler: add }))
          yield* caughtUp
          yield* Fiber.interrupt(fiber)
        }
        assert.deepStrictEqual(yield* seen("a"), range(5))
      })
    )

    it.effect("gives a batch handler all events that are there, up to the size of a batch", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, options, seen } = yield* scene()
        const sizes = yield* Ref.make<ReadonlyArray<number>>([])
        yield* append("a", ...range(25))
        yield* start(
          Projection.make({
            ...options,
            batchSize: 10,
            batchHandler: (events, slot) =>
              Effect.andThen(
                Ref.update(sizes, (all) => [...all, events.length]),
                Effect.forEach(events, (event) => add(event, slot))
              )
          })
        )
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), range(25))
        assert.deepStrictEqual(yield* Ref.get(sizes), [10, 10, 5])
      })
    )

    it.effect("passes other types and aggregates, and its offsets follow the log", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen, type } = yield* scene()
        yield* start(Projection.make({ ...options, aggregateIds: ["a", "b"], shards: 3, handler: add }))
        yield* append("a", 1)
        yield* append("c", 2)
        yield* EventStore.use((events) => events.append({ aggregateId: "a", eventType: `not ${type}`, data: 3 }))
        yield* append("b", 4)
        yield* EventStore.use((events) => events.append({ aggregateId: "a", eventType: `not ${type}`, data: 5 }))
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1])
        assert.deepStrictEqual(yield* seen("b"), [4])
        assert.deepStrictEqual(yield* seen("c"), [])
        const head = yield* latestVersion
        for (const { lag, offset } of yield* Projection.status(name)) {
          assert.deepStrictEqual([offset, lag], [head, 0n])
        }
      })
    )

    it.effect("divides the shards among processes, which take over from one that has gone", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, options, seen } = yield* scene()
        const handledBy = yield* Ref.make<ReadonlyArray<readonly [runner: string, aggregateId: string]>>([])
        const aggregates = range(40).map((index) => `a${index}`)
        const runner = (id: string) =>
          elsewhere(
            start(
              Projection.make({
                ...options,
                shards: 4,
                handler: (event, slot) =>
                  Effect.andThen(
                    add(event, slot),
                    Ref.update(handledBy, (all) => [...all, [id, event.aggregateId] as const])
                  )
              })
            )
          )
        const first = yield* runner("first")
        yield* Effect.forEach(aggregates, (id) => append(id, 1))
        yield* caughtUp
        yield* runner("second")
        /** Appends rounds of events until the runners have shared one as expected. */
        let amount = 1
        const until = (expected: ReadonlyArray<string>) =>
          Effect.gen(function* () {
            yield* Ref.set(handledBy, [])
            amount++
            yield* Effect.forEach(aggregates, (id) => append(id, amount))
            yield* caughtUp
            return [...new Set((yield* Ref.get(handledBy)).map(([id]) => id))].sort()
          }).pipe(Effect.repeat({ until: (ids) => ids.join() === expected.join() }))
        yield* until(["first", "second"])
        yield* Fiber.interrupt(first)
        yield* until(["second"])
        for (const id of aggregates) {
          assert.deepStrictEqual(
            yield* seen(id),
            range(amount).map((index) => index + 1)
          )
        }
      })
    )

    it.effect("notices that its offset was moved, and goes on from there", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        const offsets = yield* OffsetStore
        yield* start(Projection.make({ ...options, handler: add }))
        yield* append("a", 1)
        yield* caughtUp
        const [first] = yield* EventStore.use((events) => Stream.runCollect(events.read({ ...options, limit: 1 })))
        yield* offsets.resetOffset(name, (first?.version ?? 1n) - 1n)
        yield* append("a", 2)
        yield* Effect.repeat(seen("a"), { until: (all) => all.length === 3 })
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1, 1, 2])
      })
    )

    it.effect("runs a projection once in a process", () =>
      Effect.gen(function* () {
        const { add, caughtUp, options } = yield* scene()
        const projection = Projection.make({ ...options, handler: add })
        const fiber = yield* start(projection)
        yield* caughtUp
        assert.strictEqual((yield* Effect.flip(Projection.run(projection)))._tag, "DuplicateProjection")
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(
          (yield* Effect.flip(Projection.runAll([projection, projection])))._tag,
          "DuplicateProjection"
        )
      })
    )

    it.effect("runs several projections side by side", () =>
      Effect.gen(function* () {
        const [one, two] = [yield* scene(), yield* scene()]
        yield* Effect.forkScoped(
          Projection.runAll([
            Projection.make({ ...one.options, handler: one.add }),
            Projection.make({ ...two.options, shards: 2, handler: two.add })
          ])
        )
        yield* one.append("a", 1)
        yield* two.append("a", 2)
        yield* one.caughtUp
        yield* two.caughtUp
        assert.deepStrictEqual([yield* one.seen("a"), yield* two.seen("a")], [[1], [2]])
      })
    )

    it.effect.each(invalid)("refuses %s", ([, part]) =>
      Effect.gen(function* () {
        const { options } = yield* scene()
        const projection = Projection.make(Object.assign({ ...options, handler: () => Effect.void }, part))
        const error = yield* Effect.flip(Projection.run(projection))
        assert.instanceOf(error, InvalidInput)
        assert.include(error.message, `Projection.run: invalid input: ${Object.keys(part)[0]}`)
      })
    )

    it.effect.runIf(interleaving)("does not let a slow shard stall the others", () =>
      Effect.gen(function* () {
        const { add, caughtUp, options, seen, type } = yield* scene()
        const { afterCommit } = yield* Transactor
        const stuck = yield* Deferred.make<void>()
        const handled = yield* Queue.unbounded<string>()
        const slow =
          range(100)
            .map((index) => `slow${index}`)
            .find((id) => Projection.shardOf(id, 2) === 0) ?? ""
        const fast =
          range(100)
            .map((index) => `fast${index}`)
            .find((id) => Projection.shardOf(id, 2) === 1) ?? ""
        // More events than a buffer has room for.
        const many = range(3000).map((data) => ({ aggregateId: slow, eventType: type, data }))
        yield* append([...many, { aggregateId: fast, eventType: type, data: 1 }])
        const isSlow = ({ aggregateId }: StoredEvent) => aggregateId === slow
        yield* start(
          Projection.make({
            ...options,
            shards: 2,
            batchHandler: (events, slot) =>
              Effect.gen(function* () {
                const [first] = events
                if (first !== undefined && isSlow(first)) {
                  yield* Deferred.await(stuck)
                  const last = events.at(-1)
                  // The ends of a batch show whether an event was left out or has come twice.
                  for (const event of [first, last]) if (event !== undefined) yield* add(event, slot)
                } else {
                  for (const event of events) yield* add(event, slot)
                }
                yield* afterCommit(Effect.asVoid(Queue.offer(handled, first?.aggregateId ?? "")))
              })
          })
        )
        assert.strictEqual(yield* Queue.take(handled), fast)
        yield* append({ aggregateId: fast, eventType: type, data: 2 })
        assert.strictEqual(yield* Queue.take(handled), fast)
        assert.deepStrictEqual(yield* seen(fast), [1, 2])
        yield* Deferred.succeed(stuck, undefined)
        yield* caughtUp
        const ends = yield* seen(slow)
        assert.strictEqual(ends[0], 0)
        assert.strictEqual(ends.at(-1), 2999)
        for (const index of range(ends.length / 2 - 1)) {
          assert.strictEqual(ends[2 * index + 2], (ends[2 * index + 1] ?? 0) + 1)
        }
      })
    )

    it.effect("knows the shard of an aggregate", () =>
      Effect.sync(() => {
        // FNV-1a with 32 bits of "", "a", "foobar": 2166136261, 3826002220, 3214735720.
        assert.strictEqual(Projection.shardOf("", 1000), 261)
        assert.strictEqual(Projection.shardOf("a", 1000), 220)
        assert.strictEqual(Projection.shardOf("foobar", 1000), 720)
        // The hash is of the bytes of UTF-8: 513665217, 337892798.
        assert.strictEqual(Projection.shardOf("é", 1000), 217)
        assert.strictEqual(Projection.shardOf("user-日本-🙂", 1000), 798)
        assert.strictEqual(Projection.shardOf("user-123", 1), 0)
      })
    )
  })

  Failures.suite(name, layer)
  Operating.suite(name, layer, { interleaving })
  Rebuilding.suite(name, layer)
  Typed.suite(name, quiet)
  Tagged.suite(name, quiet)
  Sharding.suite(name, layer, { interleaving })
}
