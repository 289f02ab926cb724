import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger } from "effect"
import { DurableStateStore, EventStore, OffsetStore, Projection, StoreError } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"

const event = { aggregateId: "a", eventType: "Happened", data: 1 }

/** The stores without a logger, because each loss is logged as a warning. */
const quiet = Layer.merge(Layer.fresh(Memory.layer), Logger.layer([]))

describe("a projection whose database goes away", () => {
  it.live("waits for the database when it begins, and while it runs", () =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      const { failNext } = yield* Memory.MemoryDatabase.MemoryDatabase
      const lost = new StoreError.Unavailable({ message: "pulled the plug" })
      const handled: Array<bigint> = []
      const projection = Projection.make({
        name: "patient",
        heartbeat: "20 millis",
        handler: ({ version }) => Effect.sync(() => handled.push(version))
      })
      const [first] = yield* events.append(event)
      yield* failNext(lost, { times: 3 })
      yield* Effect.forkScoped(Projection.run(projection), { startImmediately: true })
      const caughtUp = (version = 0n) =>
        Effect.retry(untilHandled("patient", version), {
          while: ({ _tag }) => _tag === "StoreError"
        })
      yield* caughtUp(first?.version)
      const [second] = yield* events.append(event)
      yield* failNext(lost, { times: 5 })
      yield* caughtUp(second?.version)
      assert.deepStrictEqual([...new Set(handled)], [first?.version, second?.version])
    }).pipe(Effect.provide(quiet))
  )

  it.live("ends with an error that no waiting mends", () =>
    Effect.gen(function* () {
      const { failNext } = yield* Memory.MemoryDatabase.MemoryDatabase
      yield* failNext(new StoreError.Denied({ message: "not for you" }))
      const fiber = yield* Effect.forkScoped(Projection.run(Projection.make({ name: "x", handler: () => Effect.void })))
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.strictEqual(error._tag === "StoreError" ? error.reason._tag : error._tag, "Denied")
    }).pipe(Effect.provide(quiet))
  )
})

describe("a process that is silent", () => {
  it.live("loses its shards to the other processes", () =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      const offsets = yield* OffsetStore.OffsetStore
      const states = yield* DurableStateStore.DurableStateStore
      const handledBy = new Set<string>()
      const runner = (name: string) =>
        Projection.run(
          Projection.make({
            name: "shared",
            shards: 4,
            heartbeat: "20 millis",
            handler: () => Effect.sync(() => handledBy.add(name))
          })
        ).pipe(Effect.provideService(OffsetStore.OffsetStore, { ...offsets }))
      let isFrozen = false
      const gate = <A, E>(effect: Effect.Effect<A, E>) => Effect.suspend(() => (isFrozen ? Effect.never : effect))
      /** The states of a frozen process: it cannot even remove itself from the runners. */
      const frozen = DurableStateStore.DurableStateStore.of({
        ...states,
        getLatestState: (id) => gate(states.getLatestState(id)),
        writeState: (...args) => gate(states.writeState(...args))
      })
      const first = yield* Effect.forkScoped(
        Effect.provideService(runner("first"), DurableStateStore.DurableStateStore, frozen)
      )
      const round = Effect.gen(function* () {
        handledBy.clear()
        const stored = yield* events.append(Array.from({ length: 40 }, (_, n) => ({ ...event, aggregateId: `a${n}` })))
        yield* untilHandled("shared", stored.at(-1)?.version ?? 0n)
        return [...handledBy].sort().join()
      })
      assert.strictEqual(yield* round, "first")
      yield* Effect.forkScoped(runner("second"))
      yield* Effect.repeat(round, { until: (names) => names === "first,second" })
      isFrozen = true
      yield* Fiber.interrupt(first)
      yield* Effect.repeat(round, { until: (names) => names === "second" })
    }).pipe(Effect.provide(quiet))
  )
})
