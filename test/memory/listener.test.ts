/** Subscribers in memory that wait: they look where something may be for them. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { interestOf } from "../../src/events/Waiting.ts"

const event = (aggregateId: string, tag = "none") => ({
  aggregateId,
  eventType: "Happened",
  data: {},
  tags: [tag]
})

const others = Array.from({ length: 1_000 }, (_, number) => event(`other ${number}`))

it.effect("a reader that waits looks once, whatever passes it by, and is told what has", () =>
  Effect.gen(function* () {
    const database = yield* Memory.MemoryDatabase.MemoryDatabase
    const events = yield* EventStore.EventStore
    const looks: Array<bigint> = []
    const waiting = yield* database.listener
      .awaitEvents(interestOf({ aggregateIds: ["own"] }), (passed) => {
        looks.push(passed)
        return database.log.settledAfter(passed, 10).find(({ aggregateId }) => aggregateId === "own")
      })
      .pipe(Effect.forkChild({ startImmediately: true }))
    for (const other of others) yield* events.append(other)
    yield* events.append([event("other"), event("own")])
    assert.strictEqual((yield* Fiber.join(waiting)).version, 1_002n)
    assert.deepStrictEqual(looks, [0n, 1_000n])
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)

it.effect("subscribers of an aggregate, a type and a tag get theirs, also after a cut", () =>
  Effect.gen(function* () {
    const database = yield* Memory.MemoryDatabase.MemoryDatabase
    const events = yield* EventStore.EventStore
    const take = (subscription: Omit<Parameters<typeof events.subscribe>[0], "after">) =>
      events.subscribe({ ...subscription, after: "start" }).pipe(
        Stream.map(({ version }) => version),
        Stream.take(3),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
    const fibers = [
      yield* take({ aggregateIds: ["own"] }),
      yield* take({ eventTypes: ["Own"] }),
      yield* take({ tags: ["own", "own too"] }),
      yield* take({ items: [{ tags: ["own"] }, { eventTypes: ["Other"] }], batchSize: 2 })
    ]
    const own = { ...event("own"), eventType: "Own", tags: ["own", "own too"] }
    yield* events.append(own)
    yield* events.append(others)
    yield* database.cutListener
    yield* events.append([...others, own])
    yield* database.restoreListener
    yield* events.append([...others, own])
    for (const fiber of fibers) assert.deepStrictEqual(yield* Fiber.join(fiber), [1n, 2_002n, 3_003n])
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)

it.effect("subscribers that append while they are told keep nothing from each other", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const { withTransaction } = yield* Transactor.Transactor
    const until = 50n
    const follow = (aggregateIds?: ReadonlyArray<string>) =>
      events.subscribe({ after: "start", ...(aggregateIds === undefined ? {} : { aggregateIds }) }).pipe(
        Stream.map(({ version }) => version),
        Stream.tap((version) => (version < until ? withTransaction(events.append(event("own"))) : Effect.void)),
        Stream.takeUntil((version) => version >= until),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
    const fibers = [yield* follow(), yield* follow(["own"]), yield* follow()]
    yield* events.append(event("own"))
    for (const fiber of fibers) {
      const seen = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        seen,
        Array.from({ length: Number(until) }, (_, index) => BigInt(index + 1))
      )
    }
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)
