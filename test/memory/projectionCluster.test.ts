import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestRunner } from "effect/cluster"
import { EventStore, OffsetStore, Projection } from "effect-strata"
import * as Memory from "effect-strata/memory"

const cluster = (handled: Array<string>) =>
  Projection.layerCluster(
    Projection.make({
      name: "clustered",
      shards: 5,
      handler: ({ aggregateId, data }) => Effect.sync(() => handled.push(`${aggregateId} ${data}`))
    })
  ).pipe(Layer.provide(TestRunner.layer))

const append = (data: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const aggregates = Array.from({ length: 20 }, (_, index) => `a${index}`)
    const stored = yield* events.append(aggregates.map((aggregateId) => ({ aggregateId, eventType: "Happened", data })))
    yield* Projection.awaitVersion("clustered", stored.at(-1)?.version ?? 0n, "30 seconds")
    return aggregates.map((aggregateId) => `${aggregateId} ${data}`).sort()
  })

describe("Projection.layerCluster", () => {
  it.live("runs every shard on a runner of the cluster, and stops with the layer", () =>
    Effect.gen(function* () {
      const first: Array<string> = []
      const second: Array<string> = []
      const expected = yield* Effect.provide(append(1), cluster(first))
      assert.deepStrictEqual(first.sort(), expected)

      // The next cluster goes on where that one was.
      const next = yield* Effect.provide(append(2), cluster(second))
      assert.deepStrictEqual(second.sort(), next)
      assert.strictEqual(first.length, 20)
      const { resetOffset } = yield* OffsetStore.OffsetStore
      assert.strictEqual(yield* resetOffset("clustered", 0n), 5)
    }).pipe(Effect.provide(Memory.layer))
  )
})
