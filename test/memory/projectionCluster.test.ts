import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Schedule } from "effect"
import { EventStore, InvalidInput, OffsetStore, Projection, Supervisor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { Sharding, TestRunner } from "effect/cluster"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"

const cluster = (handled: Array<string>) =>
  Projection.layerCluster(
    Projection.make({
      name: "clustered",
      shards: 5,
      handler: ({ aggregateId, data }) => Effect.sync(() => handled.push(`${aggregateId} ${data}`))
    })
  ).pipe(Layer.provide([TestRunner.layer, Supervisor.layer]))

const append = (data: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const aggregates = Array.from({ length: 20 }, (_, index) => `a${index}`)
    const stored = yield* events.append(aggregates.map((aggregateId) => ({ aggregateId, eventType: "Happened", data })))
    yield* untilHandled("clustered", stored.at(-1)?.version ?? 0n)
    return aggregates.map((aggregateId) => `${aggregateId} ${data}`).sort()
  })

describe("Projection.layerCluster", () => {
  it.live("runs every shard on a runner of the cluster, and stops with the layer", () =>
    Effect.gen(function* () {
      const first: Array<string> = []
      const second: Array<string> = []
      const expected = yield* Effect.provide(append(1), cluster(first))
      assert.deepStrictEqual(first.sort(), expected)

      // The next cluster goes on where the first one was.
      const next = yield* Effect.provide(append(2), cluster(second))
      assert.deepStrictEqual(second.sort(), next)
      assert.strictEqual(first.length, 20)
      const { resetOffset } = yield* OffsetStore.OffsetStore
      assert.strictEqual(yield* resetOffset("clustered", 0n), 5)
    }).pipe(Effect.provide(Memory.layer))
  )

  it.live("retries a parked event once, where two clusters run the same shard", () =>
    Effect.gen(function* () {
      const handled: Array<unknown> = []
      const entered = yield* Deferred.make<void>()
      const leave = yield* Deferred.make<void>()
      let isMended = false
      const projection = Projection.make({
        name: "twice",
        retry: Schedule.recurs(0),
        onFailure: "park",
        handler: ({ data }) =>
          Effect.gen(function* () {
            if (!isMended) return yield* Effect.fail("not mended")
            yield* Deferred.succeed(entered, undefined)
            yield* Deferred.await(leave)
            handled.push(data)
          })
      })
      const offsets = yield* OffsetStore.OffsetStore
      for (const _ of [1, 2]) {
        const elsewhere = Layer.succeed(OffsetStore.OffsetStore, { ...offsets })
        yield* Layer.build(
          Projection.layerCluster(projection).pipe(
            Layer.provide([Layer.fresh(TestRunner.layer), Supervisor.layer, elsewhere])
          )
        )
      }
      const events = yield* EventStore.EventStore
      const append = Effect.fnUntraced(function* (data: number) {
        const [stored] = yield* events.append({ aggregateId: "a", eventType: "Happened", data })
        yield* untilHandled("twice", stored?.version ?? 0n)
      })
      yield* append(1)
      isMended = true
      const retrying = yield* Effect.forkScoped(Projection.retryParked("twice", "10 minutes"))
      yield* Deferred.await(entered)
      // By then the other cluster waits for the shard.
      yield* Effect.sleep(200)
      yield* Deferred.succeed(leave, undefined)
      assert.deepStrictEqual(
        (yield* Fiber.join(retrying)).map(({ state }) => state),
        ["handled"]
      )
      yield* append(2)
      assert.deepStrictEqual(handled, [1, 2])
    }).pipe(Effect.scoped, Effect.provide(Memory.layer))
  )

  it.live("refuses wrong settings before the cluster places a shard", () =>
    Effect.gen(function* () {
      const sharding = yield* Sharding.Sharding
      let placed = 0
      const counting = Layer.succeed(Sharding.Sharding, {
        ...sharding,
        registerSingleton: (...singleton) => {
          placed++
          return sharding.registerSingleton(...singleton)
        }
      })
      const many = Projection.make({ name: "many", shards: 2000, handler: () => Effect.void })
      const { cause } = yield* Effect.flip(Supervisor.launch(Layer.provide(Projection.layerCluster(many), counting)))
      assert.instanceOf(cause, InvalidInput.InvalidInput)
      assert.strictEqual(placed, 0)
    }).pipe(Effect.provide(TestRunner.layer), Effect.provide(Memory.layer))
  )

  it.live("ends the process when the projection ends, as the supervisor has it", () =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      yield* events.append({ aggregateId: "a", eventType: "Happened", data: 1 })
      const failing = Projection.make({
        name: "failing",
        shards: 3,
        retry: Schedule.recurs(0),
        handler: () => Effect.fail("not mended")
      })
      const launched = Supervisor.launch(Layer.provide(Projection.layerCluster(failing), TestRunner.layer))
      const { cause, work } = yield* Effect.flip(launched)
      assert.strictEqual(work, 'projection "failing"')
      assert.instanceOf(cause, Projection.ProjectionFailed)
    }).pipe(Effect.provide(Memory.layer))
  )
})
