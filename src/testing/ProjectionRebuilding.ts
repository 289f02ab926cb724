/** Read models that are built anew, or on demand: a part of the projections' suite. */
import { assert, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer, Logger, Option, Ref, Schedule, Stream } from "effect"
import { DurableStateStore } from "../DurableStateStore.ts"
import * as Projection from "../Projection.ts"
import { Denied, StoreError } from "../StoreError.ts"
import { latestVersion, range, scene, start, untilHandled } from "./ProjectionScene.ts"

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<Projection.Services, E>): void => {
  // Each failure is logged as a warning, and these tests cause many.
  const quiet = Layer.merge(layer, Logger.layer([]))
  it.layer(quiet, { timeout: "2 minutes", excludeTestServices: true })(`Projection, rebuilding (${name})`, (it) => {
    it.effect("is rebuilt in place", () =>
      Effect.gen(function* () {
        const { add, append, clear, name, options, seen } = yield* scene()
        const projection = Projection.make({ ...options, shards: 2, batchSize: 10, handler: add })
        yield* start(projection)
        yield* append("a", ...range(100))
        yield* append("b", 1, 2)
        const head = yield* latestVersion
        yield* untilHandled(name, head)
        const progress = yield* Stream.runCollect(
          Projection.rebuild(projection, { mode: "in place", clear: (slot) => clear(slot, ["a", "b"]) })
        )
        assert.strictEqual(progress.at(-1)?.done, head)
        assert.deepStrictEqual(progress.at(-1)?.remaining, Option.some(Duration.zero))
        assert.deepStrictEqual(yield* seen("a"), range(100))
        assert.deepStrictEqual(yield* seen("b"), [1, 2])
        assert.strictEqual(yield* Projection.slot(name), "blue")
      })
    )

    it.effect(
      "is rebuilt beside the copy that is served, under live writes: readers find a complete copy at any time",
      () =>
        Effect.gen(function* () {
          const { add, append, caughtUp, clear, name, options, seen } = yield* scene()
          let isBroken = false
          const projection = Projection.make({
            ...options,
            shards: 2,
            batchSize: 20,
            handler: (event, slot) =>
              isBroken && slot === "green" && event.data === 50 ? Effect.die("interrupted") : add(event, slot)
          })
          yield* start(projection)
          yield* append("a", ...range(100))
          yield* caughtUp
          const rebuild = Projection.rebuild(projection, { mode: "beside", clear: (slot) => clear(slot, ["a"]) })

          // The rebuild fails half-way, and goes on from there when it is run again.
          isBroken = true
          assert.strictEqual((yield* Effect.flip(Stream.runDrain(rebuild)))._tag, "ProjectionFailed")
          assert.deepStrictEqual(yield* seen("a", "green"), range(50))
          assert.strictEqual(yield* Projection.slot(name), "blue")
          isBroken = false

          let written = 100
          const writer = yield* Effect.forkScoped(
            Effect.forever(Effect.suspend(() => Effect.andThen(append("a", written++), Effect.sleep(2))))
          )
          const wrong = yield* Ref.make<ReadonlyArray<unknown>>([])
          const reader = yield* Effect.forkScoped(
            Effect.gen(function* () {
              let longest = 0
              while (true) {
                const all = yield* seen("a", yield* Projection.slot(name))
                const isWhole = all.length >= longest && all.every((amount, index) => amount === index)
                if (!isWhole) yield* Ref.update(wrong, (found) => [...found, all])
                longest = Math.max(longest, all.length)
                yield* Effect.sleep(1)
              }
            })
          )
          yield* Stream.runDrain(rebuild)
          assert.strictEqual(yield* Projection.slot(name), "green")
          yield* Fiber.interrupt(writer)
          yield* caughtUp
          assert.isUndefined(reader.pollUnsafe())
          yield* Fiber.interrupt(reader)
          assert.deepStrictEqual(yield* Ref.get(wrong), [])
          const all = yield* seen("a", "green")
          assert.deepStrictEqual(all, range(all.length))
          assert.isAtLeast(all.length, written - 1)
          assert.strictEqual(
            (yield* Effect.flip(Projection.status(Projection.rebuildOf(name))))._tag,
            "UnknownProjection"
          )

          // And back to the blue copy, which is out of date by now.
          yield* Stream.runDrain(rebuild)
          assert.strictEqual(yield* Projection.slot(name), "blue")
          assert.deepStrictEqual(yield* seen("a"), range(all.length))
        })
    )

    it.effect("is not switched to a copy that is behind the served one", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, name, options, seen } = yield* scene()
        const isBegun = yield* Deferred.make<void>()
        // The copy fails at later events. Between two attempts it holds nothing that anybody would have to wait for.
        let highest = 0
        const projection = Projection.make({
          ...options,
          batchSize: 1,
          retry: Schedule.spaced("20 millis"),
          handler: Effect.fnUntraced(function* (event, slot) {
            if (slot === "green") {
              yield* Deferred.succeed(isBegun, undefined)
              if (Number(event.data) > highest) return yield* Effect.fail("not yet")
            }
            yield* add(event, slot)
          })
        })
        const shadow = Projection.rebuildOf(name)
        yield* start(projection)
        const [first] = yield* append("a", 1)
        yield* caughtUp
        const rebuild = Projection.rebuild(projection, { mode: "beside", clear: () => Effect.void })
        const rebuilding = yield* Effect.forkScoped(Stream.runDrain(rebuild))
        yield* Deferred.await(isBegun)
        yield* append("a", 2)
        yield* caughtUp
        // The copy comes to where the head was when the rebuild began, and not past the event after it.
        highest = 1
        yield* untilHandled(shadow, first?.version ?? 0n)
        yield* Effect.timeoutOption(Fiber.join(rebuilding), 500)
        assert.strictEqual(yield* Projection.slot(name), "blue")
        highest = 2
        yield* Fiber.join(rebuilding)
        assert.strictEqual(yield* Projection.slot(name), "green")
        assert.deepStrictEqual(yield* seen("a", "green"), [1, 2])
      })
    )

    it.effect("is switched as a whole, or not at all", () =>
      Effect.gen(function* () {
        const { add, append, caughtUp, clear, name, options, seen } = yield* scene()
        const projection = Projection.make({ ...options, handler: add })
        const rebuild = Projection.rebuild(projection, { mode: "beside", clear: (slot) => clear(slot, ["a"]) })
        yield* start(projection)
        yield* append("a", 1)
        yield* caughtUp
        // The other copy gets further than the copy that is served.
        yield* Projection.pause(name)
        yield* append("a", 2, 3)
        const states = yield* DurableStateStore
        const reason = new Denied({ message: "not now" })
        const denied = new StoreError({ store: "DurableStateStore", operation: "writeState", reason })
        // The last write of the switch says which copy is served.
        const failing = DurableStateStore.of({
          ...states,
          writeState: (state) =>
            state.persistenceId === `strata/projection/control/${name}` ? Effect.fail(denied) : states.writeState(state)
        })
        const error = yield* Effect.flip(Effect.provideService(Stream.runDrain(rebuild), DurableStateStore, failing))
        assert.deepStrictEqual(error, new StoreError({ store: "Projection", operation: "rebuild", reason }))
        assert.strictEqual(yield* Projection.slot(name), "blue")
        yield* Projection.resume(name)
        yield* caughtUp
        assert.deepStrictEqual(yield* seen("a"), [1, 2, 3])
        yield* Stream.runDrain(rebuild)
        assert.strictEqual(yield* Projection.slot(name), "green")
        assert.deepStrictEqual(yield* seen("a", "green"), [1, 2, 3])
      })
    )

    it.effect("takes over the events that the new copy has parked and skipped", () =>
      Effect.gen(function* () {
        for (const onFailure of ["park", "skip"] as const) {
          const { add, append, caughtUp, clear, name, options, seen } = yield* scene()
          const projection = Projection.make({
            ...options,
            onFailure,
            handler: (event, slot) =>
              slot === "green" && event.data === 2 ? Effect.die("not in green") : add(event, slot)
          })
          yield* start(projection)
          yield* append("a", 1, 2)
          yield* append("b", 3)
          yield* caughtUp
          yield* Stream.runDrain(
            Projection.rebuild(projection, { mode: "beside", clear: (slot) => clear(slot, ["a", "b"]) })
          )
          yield* append("a", 4)
          yield* caughtUp
          const left = yield* Stream.runCollect(
            onFailure === "park" ? Projection.parked(name) : Projection.skipped(name)
          )
          assert.deepStrictEqual(
            left.map(({ aggregateId, error }) => [aggregateId, error.includes("not in green")]),
            [["a", true]]
          )
          const [shard] = yield* Projection.status(name)
          assert.include(Option.getOrThrow(shard?.failure ?? Option.none()).error, "not in green")
          assert.deepStrictEqual(yield* seen("a", "green"), onFailure === "park" ? [1] : [1, 4])
          assert.deepStrictEqual(yield* seen("b", "green"), [3])
        }
      })
    )

    it.effect("folds the events of a query", () =>
      Effect.gen(function* () {
        const { append, type } = yield* scene()
        yield* append("a", 1, 2)
        yield* append("b", 3)
        const sum = Projection.fold({ eventTypes: [type] }, 0, (total, { data }) => total + Number(data))
        assert.strictEqual(yield* sum, 6)
      })
    )
  })
}
