import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Option, Ref } from "effect"
import { OffsetStore, StoreError, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { TestClock } from "effect/testing"

const { MemoryDatabase } = Memory.MemoryDatabase

const write = (shardNumber: number, value: bigint) =>
  OffsetStore.OffsetStore.use((offsets) => offsets.writeOffset({ projectionName: "p", shardNumber, value }))

const read = (shardNumber: number) =>
  OffsetStore.OffsetStore.use((offsets) => offsets.getCurrentOffset({ projectionName: "p", shardNumber })).pipe(
    Effect.map((offset) => Option.getOrUndefined(offset)?.value)
  )

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.Transactor.use(({ withTransaction }) => withTransaction(effect))

/** Gives other fibers their turn until `count` transactions wait. */
const untilWaiting = (count: number) =>
  Effect.gen(function* () {
    const { waiting } = yield* MemoryDatabase
    while ((yield* waiting) !== count) yield* Effect.yieldNow
  })

const tagOf = (error: unknown) => (error instanceof StoreError.StoreError ? error.reason._tag : error)

const reasonOf = <A, E>(effect: Effect.Effect<A, E, Services>) => Effect.map(Effect.flip(effect), tagOf)

type Services = OffsetStore.OffsetStore | Transactor.Transactor | Memory.MemoryDatabase.MemoryDatabase

/** A test on a database of its own. */
const test = <A, E>(name: string, effect: Effect.Effect<A, E, Services>) =>
  it.effect(name, () => Effect.provide(effect, Layer.fresh(Memory.layer)))

test(
  "is empty whenever the layer is built",
  Effect.gen(function* () {
    yield* write(0, 1n)
    assert.strictEqual(yield* Effect.provide(read(0), Layer.fresh(Memory.layer)), undefined)
    assert.strictEqual(yield* read(0), 1n)
  })
)

it.effect("keeps its records across layers that share it", () =>
  Effect.gen(function* () {
    const database = yield* Memory.MemoryDatabase.make
    yield* Effect.provide(write(0, 15n), Memory.layerShared(database))
    assert.strictEqual(yield* Effect.provide(read(0), Memory.layerShared(database)), 15n)
    yield* Effect.provide(write(0, 16n), Memory.layerShared(database))
    assert.strictEqual(yield* Effect.provide(read(0), Memory.layerShared(database)), 16n)
  })
)

test(
  "never gives a number of a sequence again, whatever becomes of the transaction",
  Effect.gen(function* () {
    const { nextValue } = yield* MemoryDatabase
    const next = (sequence: string) => Effect.sync(() => nextValue(sequence))
    assert.strictEqual(yield* next("a"), 1n)
    yield* Effect.exit(transaction(Effect.andThen(next("a"), Effect.fail("rolled back"))))
    assert.strictEqual(yield* transaction(next("a")), 3n)
    assert.strictEqual(yield* next("b"), 1n)
  })
)

test(
  "makes the next statements fail for the given reason",
  Effect.gen(function* () {
    const { failNext } = yield* MemoryDatabase
    yield* failNext(new StoreError.Unavailable({ message: "down" }), { times: 2 })
    assert.strictEqual(yield* reasonOf(write(0, 1n)), "Unavailable")
    const error = yield* Effect.flip(read(0))
    assert.strictEqual(error.message, "OffsetStore.getCurrentOffset: down")
    assert.strictEqual(yield* read(0), undefined)
    yield* write(0, 1n).pipe(Effect.retry({ times: 1 }))
    assert.strictEqual(yield* read(0), 1n)
  })
)

test(
  "ends the transaction in which a statement is made to fail",
  Effect.gen(function* () {
    const { failNext } = yield* MemoryDatabase
    const ended = transaction(
      Effect.gen(function* () {
        yield* write(0, 1n)
        yield* failNext(new StoreError.Timeout({ message: "too slow" }))
        assert.strictEqual(yield* reasonOf(write(1, 1n)), "Timeout")
        assert.strictEqual(yield* reasonOf(read(0)), "Unexpected")
      })
    )
    assert.strictEqual(yield* reasonOf(ended), "Unexpected")
    assert.strictEqual(yield* read(0), undefined)
    yield* write(0, 2n)
    assert.strictEqual(yield* read(0), 2n)
  })
)

test(
  "delays commits by the clock",
  Effect.gen(function* () {
    const { delayCommits } = yield* MemoryDatabase
    yield* delayCommits("1 second")
    for (const slow of [write(0, 1n), transaction(write(1, 1n))]) {
      const fiber = yield* Effect.forkChild(slow, { startImmediately: true })
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual([fiber.pollUnsafe(), (yield* read(0)) ?? (yield* read(1))], [undefined, undefined])
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(fiber)
      yield* delayCommits(0)
      assert.strictEqual((yield* read(0)) ?? (yield* read(1)), 1n)
      yield* OffsetStore.OffsetStore.use((offsets) => offsets.deleteOffsets("p"))
      yield* delayCommits("1 second")
    }
  })
)

test(
  "gives a row to those who wait for it in their order, and not to one who gave up",
  Effect.gen(function* () {
    const end = yield* Deferred.make<void>()
    const order = yield* Ref.make<ReadonlyArray<number>>([])
    const contend = (id: number) =>
      transaction(
        Effect.andThen(
          write(0, BigInt(id)),
          Ref.update(order, (ids) => [...ids, id])
        )
      )
    const held = Effect.andThen(write(0, 0n), Deferred.await(end))
    const holder = yield* Effect.forkChild(transaction(held), { startImmediately: true })
    const first = yield* Effect.forkChild(contend(1))
    yield* untilWaiting(1)
    const second = yield* Effect.forkChild(contend(2))
    yield* untilWaiting(2)
    const third = yield* Effect.forkChild(contend(3))
    yield* untilWaiting(3)
    yield* Fiber.interrupt(second)
    yield* untilWaiting(2)
    yield* Deferred.succeed(end, undefined)
    yield* Fiber.joinAll([holder, first, third])
    assert.deepStrictEqual(yield* Ref.get(order), [1, 3])
    assert.strictEqual(yield* read(0), 3n)
    yield* untilWaiting(0)
  })
)

test(
  "finds a circle of any length, at the one who closes it",
  Effect.gen(function* () {
    const contend = (id: number, go: Deferred.Deferred<void>) =>
      transaction(
        write(id, BigInt(id)).pipe(Effect.andThen(Deferred.await(go)), Effect.andThen(write((id + 1) % 3, 9n)))
      )
    const contenders = yield* Effect.forEach([0, 1, 2], (id) =>
      Effect.gen(function* () {
        const go = yield* Deferred.make<void>()
        return { go, fiber: yield* Effect.forkChild(contend(id, go), { startImmediately: true }) }
      })
    )
    for (const [waiting, { go }] of contenders.entries()) {
      yield* untilWaiting(waiting)
      yield* Deferred.succeed(go, undefined)
    }
    const endings: Array<unknown> = []
    for (const { fiber } of contenders) {
      const exit = yield* Fiber.await(fiber)
      endings.push(
        Exit.isSuccess(exit) ? "committed" : Option.getOrUndefined(Option.map(Exit.findErrorOption(exit), tagOf))
      )
    }
    assert.deepStrictEqual(endings, ["committed", "committed", "Contention"])
  })
)

test(
  "refuses the statements of a fiber that outlives its transaction",
  Effect.gen(function* () {
    const end = yield* Deferred.make<void>()
    const late = Effect.forkDetach(Effect.andThen(Deferred.await(end), write(0, 1n)))
    const fiber = yield* transaction(late)
    yield* Deferred.succeed(end, undefined)
    assert.strictEqual(yield* reasonOf(Fiber.join(fiber)), "Unexpected")
    assert.strictEqual(yield* read(0), undefined)
  })
)
