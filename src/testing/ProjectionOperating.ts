/** Orders to projections while they run: a part of the projections' suite. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Logger, Option, Stream } from "effect"
import { InvalidInput } from "../InvalidInput.ts"
import { OffsetStore } from "../OffsetStore.ts"
import * as Projection from "../Projection.ts"
import { elsewhere, ending, fresh, latestVersion, range, scene, start, type SuiteOptions } from "./ProjectionScene.ts"

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<Projection.Services, E>,
  { interleaving }: SuiteOptions
): void => {
  // Each failure is logged as a warning, and these tests cause many.
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Projection, operating (${name})`, (it) => {
    it.effect("handles nothing after a pause, until it is resumed", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        yield* start(Projection.make({ ...options, shards: 2, handler: add }))
        yield* append("a", 1)
        yield* caughtUp
        yield* elsewhere(Projection.pause(name))
        yield* append("a", 2)
        const late = yield* Effect.flip(Effect.flatMap(latestVersion, (at) => Projection.awaitVersion(name, at, 200)))
        assert.strictEqual(late._tag, "AwaitTimeout")
        assert.deepStrictEqual(yield* seen("a"), [1])
        for (const { state } of yield* Projection.status(name)) assert.strictEqual(state, "paused")
        yield* elsewhere(Projection.resume(name))
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1, 2])
      })
    )

    it.effect("pauses between batches, and loses nothing", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        yield* append("a", ...range(100))
        yield* start(Projection.make({ ...options, batchSize: 3, handler: add }))
        for (const _ of range(5)) {
          yield* Effect.retry(Projection.pause(name), { while: ({ _tag }) => _tag === "UnknownProjection" })
          const before = yield* seen("a")
          yield* Effect.sleep(20)
          assert.deepStrictEqual(yield* seen("a"), before)
          yield* Projection.resume(name)
        }
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), range(100))
      })
    )

    it.effect.runIf(interleaving)("waits for a batch that is under way before it is paused", () =>
      Effect.gen(function* () {
        const { add, append, name, options, seen } = yield* scene()
        const entered = yield* Deferred.make<void>()
        const leave = yield* Deferred.make<void>()
        yield* append("a", 1)
        yield* start(
          Projection.make({
            ...options,
            heartbeat: "1 minute",
            handler: (event, slot) =>
              Effect.gen(function* () {
                yield* add(event, slot)
                yield* Deferred.succeed(entered, undefined)
                yield* Deferred.await(leave)
              })
          })
        )
        yield* Deferred.await(entered)
        const pausing = yield* Effect.forkScoped(Effect.andThen(Projection.pause(name), seen("a")))
        // A pause that does not wait for the batch would have returned by then.
        yield* Effect.timeoutOption(Fiber.join(pausing), 200)
        yield* Deferred.succeed(leave, undefined)
        assert.deepStrictEqual(yield* Fiber.join(pausing), [1])
      })
    )

    it.effect("handles every event again after a reset, or those after a version", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        const [first] = yield* append("a", 1)
        yield* append("a", 2)
        yield* start(Projection.make({ ...options, shards: 3, handler: add }))
        yield* caughtUp
        yield* elsewhere(Projection.reset(name))
        yield* caughtUp
        yield* elsewhere(Projection.reset(name, first?.version))
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1, 2, 1, 2, 2])
      })
    )

    it.effect("forgets with a reset the events that were parked and skipped, and handles them again", () =>
      Effect.gen(function* () {
        for (const onFailure of ["park", "skip"] as const) {
          const { add, append, caughtUp, name, options, seen } = yield* scene()
          let isBroken = true
          yield* start(
            Projection.make({
              ...options,
              onFailure,
              handler: (event, slot) => (isBroken && event.data === 2 ? Effect.die("broken") : add(event, slot))
            })
          )
          yield* append("a", 1, 2)
          yield* caughtUp
          const unhandled = Effect.map(Projection.status(name), ([shard]) => [
            shard?.parked,
            shard?.skipped,
            Option.isSome(shard?.failure ?? Option.none())
          ])
          assert.deepStrictEqual(yield* unhandled, onFailure === "park" ? [1, 0, true] : [0, 1, true])
          isBroken = false
          yield* Projection.reset(name)
          yield* caughtUp
          assert.deepStrictEqual(yield* unhandled, [0, 0, false])
          assert.deepStrictEqual(yield* Stream.runCollect(Projection.skipped(name)), [])
          assert.deepStrictEqual(yield* Stream.runCollect(Projection.parked(name)), [])
          assert.deepStrictEqual(yield* seen("a"), [1, 1, 2])
        }
      })
    )

    it.effect("refuses a reset beyond the head", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options } = yield* scene()
        yield* append("a", 1)
        yield* start(Projection.make({ ...options, handler: add }))
        yield* caughtUp
        const head = yield* latestVersion
        for (const version of [head + 1n, -1n]) {
          const error = yield* Effect.flip(Projection.reset(name, version))
          assert.instanceOf(error, InvalidInput)
          assert.deepStrictEqual(
            error.issues.map(({ field }) => field),
            ["version"]
          )
        }
      })
    )

    it.effect(
      "names the projections that have run, until they are removed, and not the offsets of other programs",
      () =>
        Effect.gen(function* () {
          const { add, append, caughtUp, name, options } = yield* scene()
          const foreign = ["x".repeat(255), fresh("foreign")]
          yield* OffsetStore.use(({ writeOffset }) =>
            Effect.forEach(foreign, (projectionName) => writeOffset({ projectionName, shardNumber: 0, value: 1n }))
          )
          const fiber = yield* start(Projection.make({ ...options, shards: 2, handler: add }))
          yield* append("a", 1)
          yield* caughtUp
          const ours = Effect.map(Stream.runCollect(Projection.names), (names) =>
            names.filter((found) => found === name || foreign.includes(found))
          )
          assert.deepStrictEqual(yield* ours, [name])
          yield* Fiber.interrupt(fiber)
          yield* Projection.remove(name)
          assert.deepStrictEqual(yield* ours, [])
        })
    )

    it.effect("knows no projection that has never run", () =>
      Effect.gen(function* () {
        const name = fresh("unknown")
        const tags = yield* Effect.forEach(
          [
            Projection.pause(name),
            Projection.resume(name),
            Projection.reset(name),
            Effect.asVoid(Projection.status(name)),
            Projection.remove(name),
            Stream.runDrain(Projection.parked(name)),
            Effect.asVoid(Projection.retryParked(name, 0)),
            Stream.runDrain(Projection.skipped(name))
          ],
          (operation) => Effect.map(Effect.flip(operation), ({ _tag }) => _tag)
        )
        assert.deepStrictEqual([...new Set(tags)], ["UnknownProjection"])
      })
    )

    it.effect("keeps to the number of shards it began with, until it is removed", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        yield* append("a", 1)
        const first = yield* start(Projection.make({ ...options, shards: 3, handler: add }))
        yield* caughtUp
        yield* Fiber.interrupt(first)
        const error = yield* Effect.flip(Projection.run(Projection.make({ ...options, shards: 2, handler: add })))
        assert.strictEqual(error._tag, "ShardCountMismatch")
        assert.include(error.message, "has 3 shards, not 2")
        const rebuild = Projection.rebuild(Projection.make({ ...options, shards: 2, handler: add }), {
          mode: "beside",
          clear: () => Effect.void
        })
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(rebuild)))._tag, "ShardCountMismatch")
        yield* Projection.remove(name)
        yield* start(Projection.make({ ...options, shards: 2, handler: add }))
        yield* caughtUp
        assert.strictEqual((yield* Projection.status(name)).length, 2)
        assert.deepStrictEqual(yield* seen("a"), [1, 1])
      })
    )

    it.effect("ends when it is removed while it runs", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options } = yield* scene()
        const fiber = yield* start(Projection.make({ ...options, handler: add }))
        yield* append("a", 1)
        yield* caughtUp
        yield* Projection.remove(name)
        assert.strictEqual((yield* ending(fiber))._tag, "UnknownProjection")
      })
    )

    it.effect("says when a version was not handled in time", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options } = yield* scene()
        const never = yield* Effect.flip(Projection.awaitVersion(name, 1n, 1))
        assert.strictEqual(never._tag === "AwaitTimeout" ? never.message.includes("has not run yet") : never._tag, true)
        yield* start(Projection.make({ ...options, handler: add }))
        yield* append("a", 1)
        yield* caughtUp
        const head = yield* latestVersion
        const error = yield* Effect.flip(Projection.awaitVersion(name, head + 1000n, 1))
        assert.strictEqual(error._tag, "AwaitTimeout")
        if (error._tag === "AwaitTimeout") assert.isTrue(Option.exists(error.reached, (at) => at >= head))
        const invalid = yield* Effect.flip(Projection.awaitVersion(name, -1n, 1))
        assert.strictEqual(invalid._tag, "InvalidInput")
      })
    )

    it.effect("says what each shard is doing", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options } = yield* scene()
        yield* append("a", 1)
        const fiber = yield* start(Projection.make({ ...options, shards: 2, heartbeat: "1 minute", handler: add }))
        yield* caughtUp
        const running = yield* Projection.status(name)
        assert.deepStrictEqual(
          running.map(({ failure, parked, shardNumber, skipped, state }) => [
            shardNumber,
            state,
            parked,
            skipped,
            Option.isNone(failure)
          ]),
          [
            [0, "running", 0, 0, true],
            [1, "running", 0, 0, true]
          ]
        )
        yield* Fiber.interrupt(fiber)
        yield* append("a", 2)
        const idle = yield* Projection.status(name)
        assert.isTrue(idle.every(({ behind, lag, state }) => state === "idle" && lag > 0n && behind !== undefined))
      })
    )
  })
}
