/** What the writers of one entity see of each other, on every `DurableStateStore`: a part of its suite. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, type Layer, Option, Result, Schedule, Schema } from "effect"
import { DurableState, DurableStateStore, StaleState, typed } from "../DurableStateStore.ts"
import { json } from "../StateCodec.ts"
import { Transactor } from "../Transactor.ts"

/** An entity that no other test uses. */
const fresh = () => `entity ${crypto.randomUUID()}`

const state = (persistenceId: string, versionNumber: bigint, ...payload: ReadonlyArray<number>) =>
  new DurableState({ persistenceId, versionNumber, payload: Uint8Array.from(payload), manifest: "test.State" })

const latest = (persistenceId: string) => DurableStateStore.use((states) => states.getLatestState(persistenceId))

/** Version and payload in short, as `2: 1 2 3`. */
const shown = ({ payload, versionNumber }: DurableState) => `${versionNumber}: ${payload.join(" ")}`

const show = (persistenceId: string) =>
  Effect.map(latest(persistenceId), Option.match({ onNone: () => "none", onSome: shown }))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

class Counter extends Schema.Class<Counter>("test.Counter")({ count: Schema.Int }) {}

const counters = typed({
  codec: json(Counter),
  initial: () => new Counter({ count: 0 }),
  retry: Schedule.recurs(1_000)
})

const increment = ({ count }: Counter) => new Counter({ count: count + 1 })

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<DurableStateStore | Transactor, E>,
  { interleaving }: { readonly interleaving: boolean }
): void => {
  it.layer(layer, { timeout: "2 minutes" })(`DurableStateStore, writers (${name})`, (it) => {
    it.effect("lets exactly one of many concurrent writers of a version succeed", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const id = fresh()
        for (let version = 1n; version <= 10n; version++) {
          const results = yield* Effect.forEach(
            Array.from({ length: 20 }, (_, writer) => writer),
            (writer) => Effect.result(states.writeState(state(id, version, writer))),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(results.filter(Result.isSuccess).length, 1)
          const current = Option.getOrThrow(yield* latest(id))
          assert.strictEqual(shown(current), `${version}: ${results.findIndex(Result.isSuccess)}`)
          for (const { failure } of results.filter(Result.isFailure)) {
            assert.deepStrictEqual(failure, new StaleState({ persistenceId: id, attempted: version, current }))
          }
        }
      })
    )

    it.effect("never goes back, whatever the order in which concurrent writers come", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const ids = Array.from({ length: 5 }, fresh)
        const writes = Array.from({ length: 200 }, (_, index) => {
          const version = (index * 37) % 50
          return state(ids[index % 5] ?? "", BigInt(version), version)
        })
        const results = yield* Effect.forEach(writes, (write) => Effect.result(states.writeState(write)), {
          concurrency: "unbounded"
        })
        for (const id of ids) {
          const mine = writes.flatMap(({ persistenceId, versionNumber }, index) =>
            persistenceId === id ? [{ versionNumber, result: results[index] }] : []
          )
          const newest = mine.reduce((max, { versionNumber }) => (versionNumber > max ? versionNumber : max), 0n)
          assert.strictEqual(yield* show(id), `${newest}: ${newest}`)
          for (const { result, versionNumber } of mine) {
            if (result === undefined || Result.isSuccess(result)) assert.isTrue(result !== undefined)
            else
              assert.isTrue(
                result.failure._tag === "StaleState" && result.failure.current.versionNumber > versionNumber
              )
          }
          assert.isTrue(
            mine.some(({ result, versionNumber }) => versionNumber === newest && result?._tag === "Success")
          )
        }
      })
    )

    it.effect("reads and writes values, with a default for entities that have none", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const { read, write } = yield* counters
        const persistenceId = fresh()
        const unknown = { persistenceId, versionNumber: 0n, value: new Counter({ count: 0 }), shard: 0 }
        assert.deepStrictEqual(yield* read(persistenceId), unknown)
        const first = { persistenceId, versionNumber: 1n, value: new Counter({ count: 7 }), shard: 3 }
        yield* write(first)
        assert.deepStrictEqual(yield* read(persistenceId), first)
        const stored = Option.getOrThrow(yield* states.getLatestState(persistenceId))
        assert.deepStrictEqual(
          [stored.manifest, new TextDecoder().decode(stored.payload)],
          ["test.Counter", '{"count":7}']
        )
        const error = yield* Effect.flip(write({ ...first, value: new Counter({ count: 8 }) }))
        assert.deepStrictEqual(error, new StaleState({ persistenceId, attempted: 1n, current: stored }))
      })
    )

    it.effect("modifies values, and loses none of many concurrent modifications, not even equal ones", () =>
      Effect.gen(function* () {
        const { modify, read } = yield* counters
        const id = fresh()
        yield* Effect.forEach(Array.from({ length: 30 }), () => modify(id, increment), { concurrency: "unbounded" })
        const { value, versionNumber } = yield* read(id)
        assert.deepStrictEqual([value.count, versionNumber], [30, 30n])
        // In a transaction, `modify` sees what the transaction has done, and is undone with it.
        yield* Effect.exit(
          transaction(Effect.andThen(modify(id, increment), Effect.andThen(modify(id, increment), Effect.fail("no"))))
        )
        assert.strictEqual(
          (yield* transaction(modify(id, (counter) => Effect.succeed(increment(counter))))).value.count,
          31
        )
      })
    )

    it.effect("passes on what a modification fails with, and writes nothing", () =>
      Effect.gen(function* () {
        const { modify } = yield* counters
        const id = fresh()
        assert.strictEqual(yield* Effect.flip(modify(id, () => Effect.fail("refused"))), "refused")
        assert.strictEqual(yield* show(id), "none")
      })
    )

    if (!interleaving) return

    /** A transaction that stays open until it is told how to end. */
    const open = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.gen(function* () {
        const begun = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void, "rollback">()
        const fiber = yield* effect.pipe(
          Effect.ensuring(Deferred.succeed(begun, undefined)),
          Effect.andThen(Deferred.await(end)),
          transaction,
          Effect.exit,
          Effect.forkChild
        )
        yield* Deferred.await(begun)
        return {
          commit: Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber)),
          rollback: Effect.andThen(Deferred.fail(end, "rollback"), Fiber.join(fiber))
        }
      })

    it.effect("makes a writer wait for another transaction, and see what that has committed", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        // First the entity has no state, then it has an older one.
        for (const before of [[], [1n]]) {
          for (const end of ["commit", "rollback"] as const) {
            const id = fresh()
            for (const version of before) yield* states.writeState(state(id, version, 1))
            const held = yield* open(states.writeState(state(id, 3n, 3)))
            const late = yield* Effect.forkChild(Effect.result(states.writeState(state(id, 2n, 2))), {
              startImmediately: true
            })
            yield* held[end]
            const result = yield* Fiber.join(late)
            if (end === "rollback") {
              assert.isTrue(Result.isSuccess(result))
              assert.strictEqual(yield* show(id), "2: 2")
            } else {
              const current = Option.getOrThrow(yield* latest(id))
              assert.strictEqual(shown(current), "3: 3")
              assert.deepStrictEqual(result, Result.fail(new StaleState({ persistenceId: id, attempted: 2n, current })))
            }
          }
        }
      })
    )

    it.effect("holds up only writers of the same entity", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const [held, other] = [fresh(), fresh()]
        const holding = yield* open(states.writeState(state(held, 1n, 1)))
        const waiting = yield* Effect.forkChild(states.writeState(state(held, 2n, 2)), { startImmediately: true })
        yield* Effect.forEach(
          [0n, 1n, 2n].flatMap((version) => [state(other, version, 1), state(fresh(), version, 1)]),
          (write) => states.writeState(write),
          { concurrency: 1 }
        )
        yield* Effect.forEach(Array.from({ length: 20 }), () => states.writeState(state(fresh(), 1n, 1)), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual([yield* show(held), yield* show(other)], ["none", "2: 1"])
        yield* holding.commit
        yield* Fiber.join(waiting)
        assert.strictEqual(yield* show(held), "2: 2")
      })
    )
  })
}
