/** How a projection reads the log, and how its progress is awaited. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Latch, Layer, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { TestClock } from "effect/testing"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"

const event = (aggregateId: string, eventType = "Happened") => ({ aggregateId, eventType, data: 1 })

const fresh = Layer.fresh(Memory.layer)

/** A store that counts the subscriptions, and the events that they read. */
const counted = (events: EventStore.EventStore["Service"]) => {
  const read = { subscriptions: 0, events: 0 }
  const store = EventStore.EventStore.of({
    ...events,
    follow: (subscription) => {
      read.subscriptions++
      return Stream.tap(events.follow(subscription), (step) =>
        Effect.sync(() => {
          read.events += step.events.length
        })
      )
    }
  })
  return { read, store }
}

it.live("the log is read once for all shards of a process", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const stored = yield* events.append(Array.from({ length: 1000 }, (_, number) => event(`a${number}`)))
    const handled: Array<bigint> = []
    const projection = Projection.make({
      name: "reading",
      shards: 16,
      handler: ({ version }) => Effect.sync(() => handled.push(version))
    })
    const { read, store } = counted(events)
    yield* Effect.raceFirst(
      Effect.provideService(Projection.run(projection), EventStore.EventStore, store),
      untilHandled("reading", stored.at(-1)?.version ?? 0n)
    )
    assert.strictEqual(handled.length, 1000)
    assert.deepStrictEqual(read, { subscriptions: 1, events: 1000 })
  }).pipe(Effect.provide(fresh))
)

it.live("a projection of a rare type is given its own events alone, and its offset moves past the others", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const projection = Projection.make({ name: "rare", eventTypes: ["Rare"], shards: 3, handler: () => Effect.void })
    const { read, store } = counted(events)
    const runUntil = (version: bigint) =>
      Effect.raceFirst(
        Effect.provideService(Projection.run(projection), EventStore.EventStore, store),
        untilHandled("rare", version)
      )
    const first = yield* events.append([event("a", "Rare"), ...Array.from({ length: 500 }, () => event("a"))])
    yield* runUntil(first.at(-1)?.version ?? 0n)
    const second = yield* events.append([event("a"), event("a")])
    yield* runUntil(second.at(-1)?.version ?? 0n)
    assert.deepStrictEqual(read, { subscriptions: 2, events: 1 })
  }).pipe(Effect.provide(fresh))
)

it.effect("awaitVersion returns at a wake-up, before it looks again", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const waiting: Projection.Options = { name: "awaited", heartbeat: "1 hour" }
    yield* Effect.forkScoped(Projection.run(Projection.make({ ...waiting, handler: () => Effect.void })))
    const pass = Effect.repeat(TestClock.adjust("10 millis"), { times: 39 })
    yield* pass
    const fiber = yield* Effect.forkScoped(Projection.awaitVersion("awaited", 1n, "1 hour"))
    yield* TestClock.adjust("10 millis")
    yield* events.append(event("a"))
    yield* pass
    // It looks each second, and less than a second has passed by this clock.
    assert.isDefined(fiber.pollUnsafe())
  }).pipe(Effect.provide(fresh))
)

it.live("a slow shard is left behind: events beyond its buffer are not kept for it, but read again", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const shards = 2
    const shardOf = (aggregateId: string) => Projection.shardOf(aggregateId, shards)
    const fast = ["a", "b", "c", "d", "e", "f"].find((id) => shardOf(id) !== shardOf("slow")) ?? ""
    const stored = yield* events.append([...Array.from({ length: 5000 }, () => event("slow")), event(fast)])
    const gate = yield* Latch.make()
    const passed = yield* Deferred.make<void>()
    const handled: Array<bigint> = []
    const projection = Projection.make({
      name: "slow",
      shards,
      batchSize: 10,
      handler: ({ aggregateId, version }) =>
        aggregateId === fast
          ? Deferred.succeed(passed, undefined)
          : Effect.andThen(
              gate.await,
              Effect.sync(() => handled.push(version))
            )
    })
    const { read, store } = counted(events)
    yield* Effect.forkScoped(Effect.provideService(Projection.run(projection), EventStore.EventStore, store))
    yield* Deferred.await(passed)
    assert.strictEqual(read.subscriptions, 1)
    yield* gate.open
    yield* untilHandled("slow", stored.at(-1)?.version ?? 0n)
    assert.isAbove(read.subscriptions, 1)
    assert.deepStrictEqual(
      handled,
      stored.slice(0, 5000).map(({ version }) => version)
    )
  }).pipe(Effect.provide(fresh))
)
