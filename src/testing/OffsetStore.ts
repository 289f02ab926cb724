/** What every `OffsetStore` does, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Equal, Exit, Layer, Option, Queue, Result, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { InvalidInput } from "../InvalidInput.ts"
import { Offset, OffsetConflict, OffsetStore } from "../OffsetStore.ts"
import { Transactor } from "../Transactor.ts"

/** A name that no other test uses: all tests of a suite share one store. */
const fresh = (name = "projection") => `${name} ${crypto.randomUUID()}`

const some = Option.some<bigint>
const none = Option.none<bigint>()

const valueOf = (projectionName: string, shardNumber = 0) =>
  OffsetStore.use((offsets) => offsets.getCurrentOffset({ projectionName, shardNumber })).pipe(
    Effect.map(Option.map((offset) => offset.value))
  )

const valuesOf = (projectionName: string) =>
  OffsetStore.use((offsets) => Stream.runCollect(offsets.listOffsets(projectionName))).pipe(
    Effect.map((offsets) => offsets.map((offset) => [offset.shardNumber, offset.value] as const))
  )

const shards = (projectionName: string, values: ReadonlyArray<bigint>) =>
  OffsetStore.use((offsets) =>
    Effect.forEach(values, (value, shardNumber) => offsets.writeOffset({ projectionName, shardNumber, value }), {
      discard: true
    })
  )

/** Parts of an offset that break the model, as a caller without a type checker could send them. */
const invalid: ReadonlyArray<readonly [what: string, part: object]> = [
  ["an empty name", { projectionName: "" }],
  ["a name of 256 characters", { projectionName: "x".repeat(256) }],
  ["a name with a NUL character", { projectionName: "a\0b" }],
  ["a name with a lone surrogate", { projectionName: "a\ud800" }],
  ["a name that is not text", { projectionName: 7 }],
  ["a negative shard", { shardNumber: -1 }],
  ["a fractional shard", { shardNumber: 0.5 }],
  ["a shard beyond the safe integers", { shardNumber: 2 ** 53 }],
  ["a shard that is not a number", { shardNumber: Number.NaN }],
  ["a value above int64", { value: 2n ** 63n }],
  ["a value below int64", { value: -(2n ** 63n) - 1n }],
  ["a value that is not a bigint", { value: 42 }],
  ["a timestamp above int64", { timestamp: 2n ** 63n }]
]

/**
 * Registers the suite. The layer is built once; each test uses projections of its own, so a store with records in it
 * is fine.
 */
export const suite = <E>(name: string, layer: Layer.Layer<OffsetStore | Transactor, E>): void => {
  it.layer(layer, { timeout: "2 minutes" })(`OffsetStore (${name})`, (it) => {
    it.effect("reads back what was written", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const offset = { projectionName: fresh(), shardNumber: 3, value: 42n, timestamp: 1755381600123n }
        yield* offsets.writeOffset(offset)
        const stored = yield* offsets.getCurrentOffset(offset)
        assert.deepStrictEqual(stored, Option.some(new Offset(offset)))
      })
    )

    it.effect("has no offset for a shard that was never written", () =>
      Effect.gen(function* () {
        const projectionName = fresh()
        yield* shards(projectionName, [1n])
        assert.deepStrictEqual(yield* valueOf(projectionName, 1), none)
        assert.deepStrictEqual(yield* valueOf(fresh()), none)
      })
    )

    it.effect("keeps exactly one offset per projection and shard, the last", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        yield* shards(a, [1n, 2n, 3n])
        yield* shards(b, [10n, 20n])
        yield* shards(a, [4n, 1n])
        assert.deepStrictEqual(yield* valuesOf(a), [
          [0, 4n],
          [1, 1n],
          [2, 3n]
        ])
        assert.deepStrictEqual(yield* valuesOf(b), [
          [0, 10n],
          [1, 20n]
        ])
      })
    )

    it.effect("stamps with the time of Clock unless a time is given", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        yield* TestClock.setTime(12_345)
        const id = { projectionName: fresh(), shardNumber: 0 }
        const stamp = Effect.map(
          offsets.getCurrentOffset(id),
          Option.map((offset) => offset.timestamp)
        )
        yield* offsets.writeOffset({ ...id, value: 1n })
        assert.deepStrictEqual(yield* stamp, some(12_345n))
        yield* offsets.writeOffset({ ...id, value: 1n, timestamp: 7n })
        assert.deepStrictEqual(yield* stamp, some(7n))
        yield* offsets.advanceOffset(id, { from: some(1n), to: 2n })
        assert.deepStrictEqual(yield* stamp, some(12_345n))
      })
    )

    it.effect("keeps every value of an int64, and names of any 255 characters", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        for (const value of [-(2n ** 63n), -1n, 0n, 2n ** 53n + 1n, 2n ** 63n - 1n]) {
          const offset = { projectionName: fresh(), shardNumber: Number.MAX_SAFE_INTEGER, value, timestamp: value }
          yield* offsets.writeOffset(offset)
          assert.deepStrictEqual(yield* offsets.getCurrentOffset(offset), Option.some(new Offset(offset)))
        }
        const id = crypto.randomUUID()
        for (const ending of ["'; DROP TABLE offsets_store; --", '"quoted"', "%_\\", "ünïcödé 🐘", " ", "\n\t"]) {
          yield* shards(id + ending, [5n])
          assert.deepStrictEqual(yield* valueOf(id + ending), some(5n))
        }
        const longest = id + "🐘".repeat(255 - id.length)
        yield* shards(longest, [5n])
        assert.deepStrictEqual(yield* valuesOf(longest), [[0, 5n]])
        assert.deepStrictEqual(yield* valueOf(id), none)
      })
    )

    it.effect("lists by name, by code point, and by shard", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = crypto.randomUUID()
        const names = ["", " ", "-", "A", "B", "a", "b", "z", "é", "\uffee", "🐘"].map((ending) => id + ending)
        for (const projectionName of names.toReversed()) yield* shards(projectionName, [1n, 2n])
        const mine = offsets.listOffsets().pipe(Stream.filter((offset) => offset.projectionName.startsWith(id)))
        const listed = yield* Stream.runCollect(mine)
        assert.deepStrictEqual(
          listed.map((offset) => [offset.projectionName, offset.shardNumber]),
          names.flatMap((projectionName) => [
            [projectionName, 0],
            [projectionName, 1]
          ])
        )
      })
    )

    it.effect("lists thousands of offsets, each once", () =>
      Effect.gen(function* () {
        const { withTransaction } = yield* Transactor
        const projectionName = fresh()
        const values = Array.from({ length: 1_200 }, (_, shard) => BigInt(shard))
        yield* withTransaction(shards(projectionName, values))
        assert.deepStrictEqual(
          yield* valuesOf(projectionName),
          values.map((value, shard) => [shard, value])
        )
        assert.deepStrictEqual(yield* valuesOf(fresh()), [])
      })
    )

    it.effect("resets every shard of one projection, stamped now", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const [a, b] = [fresh(), fresh()]
        yield* shards(a, [1n, 2n, 3n])
        yield* shards(b, [9n])
        yield* TestClock.setTime(5_000)
        assert.strictEqual(yield* offsets.resetOffset(a, 2n), 3)
        const listed = yield* Stream.runCollect(offsets.listOffsets(a))
        assert.deepStrictEqual(
          listed,
          [0, 1, 2].map((shardNumber) => new Offset({ projectionName: a, shardNumber, value: 2n, timestamp: 5_000n }))
        )
        assert.deepStrictEqual(yield* valuesOf(b), [[0, 9n]])
        assert.strictEqual(yield* offsets.resetOffset(fresh(), 0n), 0)
      })
    )

    it.effect("deletes every shard of one projection", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const [a, b] = [fresh(), fresh()]
        yield* shards(a, [1n, 2n])
        yield* shards(b, [9n])
        assert.strictEqual(yield* offsets.deleteOffsets(a), 2)
        assert.deepStrictEqual(yield* valuesOf(a), [])
        assert.deepStrictEqual(yield* valuesOf(b), [[0, 9n]])
        assert.strictEqual(yield* offsets.deleteOffsets(a), 0)
      })
    )

    it.effect("advances only from the offset that is stored", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = { projectionName: fresh(), shardNumber: 0 }
        const advance = (from: Option.Option<bigint>, to: bigint) =>
          Effect.map(
            Effect.result(offsets.advanceOffset(id, { from, to })),
            Result.map((offset) => offset.value)
          )
        const conflict = (expected: Option.Option<bigint>, actual: Option.Option<bigint>) =>
          Result.fail(new OffsetConflict({ ...id, expected, actual }))

        assert.deepStrictEqual(yield* advance(some(0n), 1n), conflict(some(0n), none))
        assert.deepStrictEqual(yield* valueOf(id.projectionName), none)
        assert.deepStrictEqual(yield* advance(none, 1n), Result.succeed(1n))
        assert.deepStrictEqual(yield* advance(none, 2n), conflict(none, some(1n)))
        assert.deepStrictEqual(yield* advance(some(1n), 2n), Result.succeed(2n))
        assert.deepStrictEqual(yield* advance(some(1n), 3n), conflict(some(1n), some(2n)))
        assert.deepStrictEqual(yield* advance(some(2n), 2n), Result.succeed(2n))
        assert.deepStrictEqual(yield* advance(some(2n), 1n), Result.succeed(1n))
        assert.deepStrictEqual(yield* valueOf(id.projectionName), some(1n))
        yield* offsets.deleteOffsets(id.projectionName)
        assert.deepStrictEqual(yield* advance(some(1n), 2n), conflict(some(1n), none))
      })
    )

    it.effect("lets exactly one of many concurrent callers advance", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = { projectionName: fresh(), shardNumber: 0 }
        let from = none
        for (let round = 0; round < 10; round++) {
          const attempts = Array.from({ length: 20 }, (_, caller) => BigInt(round * 100 + caller))
          const results = yield* Effect.forEach(
            attempts,
            (to) => Effect.result(offsets.advanceOffset(id, { from, to })),
            { concurrency: "unbounded" }
          )
          const won = results.filter(Result.isSuccess)
          assert.strictEqual(won.length, 1)
          const stored = yield* valueOf(id.projectionName)
          assert.deepStrictEqual(stored, Option.fromUndefinedOr(won[0]?.success.value))
          for (const { failure } of results.filter(Result.isFailure)) {
            assert.deepStrictEqual(failure, new OffsetConflict({ ...id, expected: from, actual: stored }))
          }
          from = stored
        }
      })
    )

    it.effect("keeps one offset of many concurrent writers", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = { projectionName: fresh(), shardNumber: 0 }
        const values = Array.from({ length: 50 }, (_, value) => BigInt(value))
        yield* Effect.forEach(values, (value) => offsets.writeOffset({ ...id, value }), {
          concurrency: "unbounded",
          discard: true
        })
        const stored = yield* valuesOf(id.projectionName)
        assert.strictEqual(stored.length, 1)
        assert.include(values, stored[0]?.[1])
      })
    )

    it.effect("undoes what a failed transaction wrote, reset and deleted", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const { withTransaction } = yield* Transactor
        const projectionName = fresh()
        yield* shards(projectionName, [1n, 2n])
        const exit = yield* Effect.exit(
          withTransaction(
            Effect.gen(function* () {
              yield* offsets.resetOffset(projectionName, 7n)
              yield* offsets.writeOffset({ projectionName, shardNumber: 2, value: 7n })
              assert.deepStrictEqual(yield* valuesOf(projectionName), [
                [0, 7n],
                [1, 7n],
                [2, 7n]
              ])
              yield* offsets.deleteOffsets(projectionName)
              assert.deepStrictEqual(yield* valuesOf(projectionName), [])
              return yield* Effect.fail("rolled back")
            })
          )
        )
        assert.deepStrictEqual(exit, Exit.fail("rolled back"))
        assert.deepStrictEqual(yield* valuesOf(projectionName), [
          [0, 1n],
          [1, 2n]
        ])
      })
    )

    it.effect("does not spoil the transaction that catches an OffsetConflict", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const { withTransaction } = yield* Transactor
        const projectionName = fresh()
        yield* withTransaction(
          Effect.gen(function* () {
            yield* shards(projectionName, [1n])
            const id = { projectionName, shardNumber: 0 }
            for (const from of [none, some(5n)]) {
              const error = yield* Effect.flip(offsets.advanceOffset(id, { from, to: 6n }))
              assert.instanceOf(error, OffsetConflict)
            }
            yield* offsets.writeOffset({ ...id, value: 2n })
          })
        )
        assert.deepStrictEqual(yield* valuesOf(projectionName), [[0, 2n]])
      })
    )

    it.effect.each(invalid)("refuses %s", ([, part]) =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const projectionName = fresh()
        const offset = { projectionName, shardNumber: 0, value: 1n, timestamp: 0n }
        yield* offsets.writeOffset(offset)
        const error = yield* Effect.flip(offsets.writeOffset(Object.assign({ ...offset, value: 2n }, part)))
        assert.strictEqual(error._tag, "InvalidInput")
        assert.include(error.message, `OffsetStore.writeOffset: invalid input: ${Object.keys(part)[0]}: Expected`)
        assert.deepStrictEqual(yield* valuesOf(projectionName), [[0, 1n]])
      })
    )

    it.effect("refuses invalid arguments of every operation, naming the field", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const id = { projectionName: fresh(), shardNumber: 0 }
        const beyond = 2n ** 63n
        const fieldsOf = <A>(operation: Effect.Effect<A, { readonly _tag: string; readonly message: string }>) =>
          Effect.map(Effect.flip(operation), (error) =>
            error instanceof InvalidInput ? error.issues.map(({ field }) => field) : error
          )
        assert.deepStrictEqual(yield* fieldsOf(offsets.getCurrentOffset({ ...id, shardNumber: -1 })), ["shardNumber"])
        assert.deepStrictEqual(
          yield* fieldsOf(offsets.advanceOffset({ projectionName: "", shardNumber: -1 }, { from: none, to: beyond })),
          ["projectionName", "shardNumber", "to"]
        )
        assert.deepStrictEqual(yield* fieldsOf(offsets.advanceOffset(id, { from: some(beyond), to: 0n })), [
          "from.value"
        ])
        assert.deepStrictEqual(yield* fieldsOf(offsets.resetOffset("", beyond)), ["projectionName", "value"])
        assert.deepStrictEqual(yield* fieldsOf(offsets.deleteOffsets("")), ["projectionName"])
        assert.deepStrictEqual(yield* fieldsOf(Stream.runDrain(offsets.listOffsets(""))), ["projectionName"])
      })
    )

    it.effect("tells listeners when offsets have changed, and not before the change is committed", () =>
      Effect.gen(function* () {
        const offsets = yield* OffsetStore
        const { withTransaction } = yield* Transactor
        const projectionName = fresh()
        const id = { projectionName, shardNumber: 0 }
        const seen = yield* Queue.unbounded<Option.Option<bigint>>()
        yield* Effect.forkScoped(
          Stream.runForEach(offsets.changes, () =>
            Effect.flatMap(valueOf(projectionName), (value) => Queue.offer(seen, value))
          )
        )
        const until = (value: Option.Option<bigint>) =>
          Effect.repeat(Queue.take(seen), { until: (next) => Equal.equals(next, value) })
        yield* until(none)
        yield* offsets.writeOffset({ ...id, value: 1n })
        yield* until(some(1n))
        yield* withTransaction(offsets.advanceOffset(id, { from: some(1n), to: 2n }))
        yield* until(some(2n))
        yield* offsets.resetOffset(projectionName, 3n)
        yield* until(some(3n))
        yield* offsets.deleteOffsets(projectionName)
        yield* until(none)
      })
    )

    it.effect("answers a ping", () => OffsetStore.use((offsets) => offsets.ping))

    it.effect("is closed once the scope of its layer has ended", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
        const offsets = Context.get(context, OffsetStore)
        yield* offsets.ping
        yield* Scope.close(scope, Exit.void)
        for (const operation of [
          offsets.ping,
          offsets.writeOffset({ projectionName: fresh(), shardNumber: 0, value: 1n }),
          Stream.runDrain(offsets.listOffsets())
        ]) {
          const error = yield* Effect.flip(operation)
          assert.strictEqual(error._tag === "StoreError" ? error.reason._tag : error._tag, "Closed")
        }
      })
    )
  })
}
