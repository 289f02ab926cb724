import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Logger, Option, References, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { SecureRandom } from "effect/crypto"
import { TestClock } from "effect/testing"

const event = (data: string) => ({ aggregateId: data, eventType: "Happened", data })

it.effect("waits two seconds for a hole, then loads what is before it, and says so", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const { withTransaction } = yield* Transactor.Transactor
    const messages: Array<unknown> = []
    const logger = Logger.make<unknown, void>(({ message }) => void messages.push(message))

    yield* events.append(event("before"))
    const end = yield* Deferred.make<void>()
    const slow = yield* Effect.forkChild(
      withTransaction(Effect.andThen(events.append(event("slow")), Deferred.await(end))),
      { startImmediately: true }
    )
    yield* events.append(event("after"))

    const load = yield* Effect.forkChild(Effect.provide(events.load(), Logger.layer([logger])), {
      startImmediately: true
    })
    yield* TestClock.adjust("1999 millis")
    assert.strictEqual(load.pollUnsafe(), undefined)
    yield* TestClock.adjust("1 millis")
    const loaded = yield* Fiber.join(load)
    assert.deepStrictEqual(
      loaded.map(({ data }) => data),
      ["before"]
    )
    assert.match(String(messages), /held up at version 2/)

    yield* Deferred.succeed(end, undefined)
    yield* Fiber.join(slow)
    const all = yield* events.load()
    assert.deepStrictEqual(
      all.map(({ data }) => data),
      ["before", "slow", "after"]
    )
  }).pipe(Effect.provideService(References.MinimumLogLevel, "Warn"), Effect.provide(Layer.fresh(Memory.layer)))
)

it.effect("hands out no object that it keeps", () =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const data = { list: [1] }
    yield* events.append({ aggregateId: "a", eventType: "Happened", data })
    data.list.push(2)
    const [first] = yield* events.loadByAggregate("a")
    if (typeof first?.data !== "object" || first.data === null) return assert.fail("no object")
    assert.deepStrictEqual(first.data, { list: [1] })
    Object.assign(first.data, { list: [] })
    const [again] = yield* events.loadByAggregate("a")
    assert.deepStrictEqual(again?.data, { list: [1] })
  }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)

it.effect("gives events ids by the clock, and by the random that is provided", () =>
  Effect.gen(function* () {
    // Later than the ids that this process has given already, as they never go back.
    const now = Date.now() + 3_600_000
    yield* TestClock.setTime(now)
    const hex = now.toString(16).padStart(12, "0")
    const time = `${hex.slice(0, 8)}-${hex.slice(8)}`
    const random = SecureRandom.make((size) => new Uint8Array(size))
    const layer = Layer.provide(Layer.fresh(Memory.layer), Layer.succeed(SecureRandom.SecureRandom, random))
    for (const [provided, rest] of [
      [layer, "7000-8000-00000000000[01]$"],
      [Layer.fresh(Memory.layer), "7"]
    ] as const) {
      const [stored] = yield* EventStore.EventStore.use((events) => events.append(event("a"))).pipe(
        Effect.provide(provided)
      )
      assert.match(stored?.id ?? "", new RegExp(`^${time}-${rest}`))
    }
  })
)

it.effect("tells a reader whose cursor is of another database", () =>
  Effect.gen(function* () {
    const [one, other] = [yield* Memory.MemoryDatabase.make, yield* Memory.MemoryDatabase.make]
    const append = (count: number) =>
      EventStore.EventStore.use((events) => events.append(Array.from({ length: count }, () => event("a"))))
    const [, second, third] = yield* Effect.provide(append(3), Memory.layerShared(one))
    assert.isDefined(second)
    assert.isDefined(third)
    yield* Effect.gen(function* () {
      const [, there] = yield* append(2)
      const events = yield* EventStore.EventStore
      for (const [cursor, found] of [
        [second, there?.id],
        [third, undefined],
        [third.version, undefined]
      ] as const) {
        const read = [events.load(cursor), Stream.runCollect(events.subscribe({ after: cursor }))]
        for (const error of yield* Effect.forEach(read, Effect.flip)) {
          assert.instanceOf(error, EventStore.LogReplaced)
          assert.deepStrictEqual([error.foundId, error.latest], [Option.fromUndefinedOr(found), 2n])
        }
      }
      // Without the id nobody can tell that another event has the version.
      assert.deepStrictEqual(yield* events.load(second.version), [])
    }).pipe(Effect.provide(Memory.layerShared(other)))
  })
)

type Append = (
  events: EventStore.EventStore["Service"],
  condition: EventStore.Condition
) => Effect.Effect<unknown, { readonly _tag: string }>

const waiting: ReadonlyArray<readonly [what: string, error: string, append: Append]> = [
  ["expects no event", "VersionConflict", (events) => events.append(event("a"), { expected: "none" })],
  ["has a condition", "ConditionFailed", (events, condition) => events.append(event("b"), { condition })],
  ["has an id", "DuplicateEvent", (events) => events.append({ ...event("b"), id: "id" })]
]

it.effect.each(waiting)(
  "an append that %s sees what the transaction has committed that it waits for",
  ([, tag, append]) =>
    Effect.gen(function* () {
      const events = yield* EventStore.EventStore
      const { withTransaction } = yield* Transactor.Transactor
      const { waiting } = yield* Memory.MemoryDatabase.MemoryDatabase
      const end = yield* Deferred.make<void>()
      const own = events.append({ ...event("a"), tags: ["t"], id: "id" })
      const holder = yield* Effect.forkChild(withTransaction(Effect.andThen(own, Deferred.await(end))), {
        startImmediately: true
      })
      const { condition } = yield* events.readForDecision([{ tags: ["t"] }])
      const later = yield* Effect.forkChild(Effect.flip(append(events, condition)))
      while ((yield* waiting) !== 1) yield* Effect.yieldNow
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(holder)
      assert.strictEqual((yield* Fiber.join(later))._tag, tag)
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
)
