/** What every `DurableStateStore` does, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Option, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { DurableState, DurableStateStore, maxPayloadBytes, StaleState } from "../DurableStateStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { Transactor } from "../Transactor.ts"
import * as Writers from "./StateWriters.ts"

/** An entity, or a shard, that no other test uses: all tests of a suite share one store. */
const fresh = () => `entity ${crypto.randomUUID()}`
const freshShard = () => Number.parseInt(crypto.randomUUID().slice(0, 8), 16)

const bytes = (...values: ReadonlyArray<number>) => Uint8Array.from(values)

const state = (persistenceId: string, versionNumber: bigint, ...payload: ReadonlyArray<number>) =>
  new DurableState({ persistenceId, versionNumber, payload: bytes(...payload), manifest: "test.State" })

const latest = (persistenceId: string) => DurableStateStore.use((states) => states.getLatestState(persistenceId))

/** Version and payload in short, as `2: 1 2 3`. */
const shown = ({ payload, versionNumber }: DurableState) => `${versionNumber}: ${payload.join(" ")}`

const show = (persistenceId: string) =>
  Effect.map(latest(persistenceId), Option.match({ onNone: () => "none", onSome: shown }))

const collect = (selection?: Parameters<DurableStateStore["Service"]["listStates"]>[0]) =>
  DurableStateStore.use((states) => Stream.runCollect(states.listStates(selection)))

const idsOf = (states: ReadonlyArray<DurableState>) => states.map(({ persistenceId }) => persistenceId)

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

/** Parts of a state that break the model, as a caller without a type checker could send them. */
const invalid: ReadonlyArray<readonly [what: string, part: object]> = [
  ["an empty id", { persistenceId: "" }],
  ["an id of 256 characters", { persistenceId: "x".repeat(256) }],
  ["an id with a NUL character", { persistenceId: "a\0b" }],
  ["an id with a lone surrogate", { persistenceId: "a\ud800" }],
  ["an id that is not text", { persistenceId: 7 }],
  ["a negative version", { versionNumber: -1n }],
  ["a version above int64", { versionNumber: 2n ** 63n }],
  ["a version that is not a bigint", { versionNumber: 1 }],
  ["a payload that is text", { payload: "bytes" }],
  ["no payload", { payload: undefined }],
  ["a payload that no message could carry", { payload: new Uint8Array(maxPayloadBytes + 1) }],
  ["an empty manifest", { manifest: "" }],
  ["a manifest of 256 characters", { manifest: "x".repeat(256) }],
  ["a timestamp above int64", { timestamp: 2n ** 63n }],
  ["a timestamp below int64", { timestamp: -(2n ** 63n) - 1n }],
  ["a negative shard", { shard: -1 }],
  ["a fractional shard", { shard: 0.5 }],
  ["a shard beyond the safe integers", { shard: 2 ** 53 }],
  ["something else than ignore or fail", { onDuplicate: "maybe" }]
]

/**
 * Registers the suite. The layer is built once; each test uses entities of its own, so a store with records in it is fine.
 * `interleaving: false` leaves out what takes two transactions open at once.
 */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<DurableStateStore | Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  it.layer(layer, { timeout: "2 minutes" })(`DurableStateStore (${name})`, (it) => {
    it.effect("reads back what was written", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const written = {
          persistenceId: fresh(),
          versionNumber: 3n,
          payload: bytes(0, 1, 254, 255),
          manifest: "google.protobuf.Any",
          timestamp: 1_755_381_600_123_456_789n,
          shard: 7
        }
        yield* states.writeState(written)
        assert.deepStrictEqual(yield* latest(written.persistenceId), Option.some(new DurableState(written)))
        const other = { ...written, persistenceId: fresh(), payload: bytes() }
        yield* states.overwriteState(other)
        assert.deepStrictEqual(yield* latest(other.persistenceId), Option.some(new DurableState(other)))
        assert.deepStrictEqual(yield* latest(fresh()), Option.none())
      })
    )

    it.effect("stamps with the time of Clock, in nanoseconds, and with shard 0, unless they are given", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        yield* TestClock.setTime(12_345)
        const { manifest, payload, persistenceId } = state(fresh(), 1n, 1)
        for (const [versionNumber, write] of [
          [1n, states.writeState],
          [2n, states.overwriteState]
        ] as const) {
          yield* write({ persistenceId, versionNumber, payload, manifest })
          const stored = Option.getOrThrow(yield* latest(persistenceId))
          assert.deepStrictEqual([stored.timestamp, stored.shard], [12_345_000_000n, 0])
        }
      })
    )

    it.effect("keeps any bytes, every value of an int64, and ids of any 255 characters", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const id = crypto.randomUUID()
        const endings = ["'; DROP TABLE states_store; --", '"quoted"', "%_\\", "ünïcödé 🐘", " ", "\n\t"]
        const ids = [...endings.map((ending) => id + ending), id + "🐘".repeat(255 - id.length)]
        const large = Uint8Array.from({ length: 1_000_000 }, (_, index) => index % 251)
        const buffer = Buffer.from([1, 2, 3])
        for (const [index, payload] of [bytes(), bytes(0), bytes(92, 120, 48), buffer, large].entries()) {
          const timestamp = [-(2n ** 63n), -1n, 0n, 2n ** 63n - 1n][index] ?? 1n
          const written = { persistenceId: ids[index] ?? "", versionNumber: 2n ** 63n - 1n, payload, timestamp }
          yield* states.writeState({ ...written, manifest: ids[6] ?? "", shard: Number.MAX_SAFE_INTEGER })
          const stored = Option.getOrThrow(yield* latest(written.persistenceId))
          assert.deepStrictEqual(
            { ...stored, payload: [] },
            {
              ...written,
              payload: [],
              manifest: ids[6] ?? "",
              shard: Number.MAX_SAFE_INTEGER
            }
          )
          assert.deepStrictEqual(stored.payload, new Uint8Array(payload))
        }
        for (const persistenceId of ids) {
          yield* states.overwriteState(state(persistenceId, 1n, 5))
          assert.strictEqual(yield* show(persistenceId), "1: 5")
        }
        assert.strictEqual(yield* show(id), "none")
      })
    )

    it.effect("shares no bytes with those who write and read them", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const id = fresh()
        const payload = bytes(1, 2)
        yield* states.writeState({ persistenceId: id, versionNumber: 1n, payload, manifest: "m" })
        payload.fill(9)
        for (let times = 0; times < 2; times++) {
          const stored = Option.getOrThrow(yield* latest(id))
          assert.deepStrictEqual([...stored.payload], [1, 2])
          stored.payload.fill(9)
        }
      })
    )

    it.effect("writes a newer version, and nothing older", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const id = fresh()
        yield* states.writeState(state(id, 1n, 1))
        yield* states.writeState(state(id, 5n, 5))
        const current = Option.getOrThrow(yield* latest(id))
        assert.strictEqual(shown(current), "5: 5")
        for (const versionNumber of [0n, 1n, 4n]) {
          const error = yield* Effect.flip(states.writeState(state(id, versionNumber, 5)))
          assert.deepStrictEqual(error, new StaleState({ persistenceId: id, attempted: versionNumber, current }))
        }
        yield* states.writeState(state(id, 2n ** 63n - 1n, 6))
        assert.strictEqual(yield* show(id), `${2n ** 63n - 1n}: 6`)
      })
    )

    it.effect("takes the same again, but nothing else of the same version", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const written = { ...state(fresh(), 2n, 1, 2), timestamp: 1n }
        yield* states.writeState(written)
        const current = new DurableState(written)
        yield* states.writeState(written)
        yield* states.writeState({ ...written, timestamp: 2n })
        assert.deepStrictEqual(yield* latest(written.persistenceId), Option.some(current))
        const stale = new StaleState({ persistenceId: written.persistenceId, attempted: 2n, current })
        for (const other of [
          { payload: bytes(1, 3) },
          { payload: bytes(1) },
          { payload: bytes() },
          { manifest: "m" }
        ]) {
          assert.deepStrictEqual(yield* Effect.flip(states.writeState({ ...written, ...other })), stale)
        }
        assert.deepStrictEqual(yield* Effect.flip(states.writeState(written, { onDuplicate: "fail" })), stale)
        assert.deepStrictEqual(yield* latest(written.persistenceId), Option.some(current))
        yield* states.writeState({ ...written, versionNumber: 3n }, { onDuplicate: "fail" })
        assert.strictEqual(yield* show(written.persistenceId), "3: 1 2")
      })
    )

    it.effect("overwrites whatever is there", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const id = fresh()
        for (const [version, payload] of [
          [5n, 1],
          [5n, 2],
          [3n, 3],
          [0n, 4]
        ] as const) {
          yield* states.overwriteState(state(id, version, payload))
          assert.strictEqual(yield* show(id), `${version}: ${payload}`)
        }
      })
    )

    it.effect("gets several states, in the order of the ids, each once", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const ids = Array.from({ length: 3 }, fresh)
        for (const [index, id] of ids.entries()) yield* states.writeState(state(id, 1n, index))
        const [a = "", b = "", c = ""] = ids
        const found = yield* states.getStates([c, fresh(), a, c, b])
        assert.deepStrictEqual(idsOf(found), [c, a, b])
        assert.deepStrictEqual(found.map(shown), ["1: 2", "1: 0", "1: 1"])
        assert.deepStrictEqual(yield* states.getStates([]), [])
      })
    )

    it.effect("overwrites a state and gets others in one call, as they were before the write", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const ids = Array.from({ length: 3 }, fresh)
        const [a = "", b = "", c = ""] = ids
        assert.deepStrictEqual(yield* states.overwriteAndGet(state(a, 5n, 1), [a, b]), [])
        yield* states.writeState(state(b, 1n, 2))
        const found = yield* states.overwriteAndGet(state(a, 3n, 3), [b, c, a, b])
        assert.deepStrictEqual(idsOf(found), [b, a])
        assert.deepStrictEqual(found.map(shown), ["1: 2", "5: 1"])
        assert.strictEqual(yield* show(a), "3: 3")
        assert.deepStrictEqual(yield* states.overwriteAndGet(state(c, 0n, 4), []), [])
        assert.strictEqual(yield* show(c), "0: 4")
      })
    )

    it.effect("lists by shard, by manifest, and both", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const [shard, other] = [freshShard(), freshShard()]
        const manifest = fresh()
        const [a, b, c, d] = [fresh(), fresh(), fresh(), fresh()]
        yield* states.writeState({ ...state(a, 1n), shard })
        yield* states.writeState({ ...state(b, 1n), shard, manifest })
        yield* states.writeState({ ...state(c, 1n), shard: other, manifest })
        yield* states.writeState({ ...state(d, 1n), shard: other })
        assert.sameMembers(idsOf(yield* collect({ shard })), [a, b])
        assert.sameMembers(idsOf(yield* collect({ manifest })), [b, c])
        assert.deepStrictEqual(idsOf(yield* collect({ shard, manifest })), [b])
        assert.deepStrictEqual(yield* collect({ shard, manifest: fresh() }), [])
        assert.includeMembers(idsOf(yield* collect()), [a, b, c, d])
      })
    )

    it.effect("lists thousands of states, large ones too, each once, whatever their ids are", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const shard = freshShard()
        const id = crypto.randomUUID()
        const ids = ["", " ", "-", "A", "a", "B", "b", "é", "\uffee", "🐘"].flatMap((prefix) =>
          Array.from({ length: 120 }, (_, index) => `${prefix}${index}${id}`)
        )
        yield* transaction(
          Effect.forEach(ids, (persistenceId) => states.writeState({ ...state(persistenceId, 1n, 1), shard }))
        )
        const listed = yield* collect({ shard })
        assert.strictEqual(listed.length, ids.length)
        assert.sameMembers(idsOf(listed), ids)
        const large = new Uint8Array(1_500_000)
        for (const persistenceId of ids.slice(0, 10)) {
          yield* states.overwriteState({ ...state(persistenceId, 2n), payload: large, shard })
        }
        const again = yield* collect({ shard })
        assert.sameMembers(idsOf(again), ids)
        assert.strictEqual(again.filter(({ payload }) => payload.length === large.length).length, 10)
      })
    )

    it.effect("deletes the state of an entity, and its version with it", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const [a, b] = [fresh(), fresh()]
        yield* states.writeState(state(a, 5n, 1))
        yield* states.writeState(state(b, 5n, 1))
        assert.isTrue(yield* states.deleteState(a))
        assert.isFalse(yield* states.deleteState(a))
        assert.deepStrictEqual([yield* show(a), yield* show(b)], ["none", "5: 1"])
        yield* states.writeState(state(a, 1n, 2))
        assert.strictEqual(yield* show(a), "1: 2")
      })
    )

    it.effect("undoes what a failed transaction wrote and deleted", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const [a, b, c] = [fresh(), fresh(), fresh()]
        yield* states.writeState(state(a, 1n, 1))
        yield* states.writeState(state(b, 1n, 1))
        const exit = yield* Effect.exit(
          transaction(
            Effect.gen(function* () {
              yield* states.writeState(state(a, 2n, 2))
              yield* states.deleteState(b)
              yield* states.overwriteState(state(c, 1n, 3))
              assert.deepStrictEqual([yield* show(a), yield* show(b), yield* show(c)], ["2: 2", "none", "1: 3"])
              const found = yield* states.overwriteAndGet(state(c, 2n, 4), [a])
              assert.deepStrictEqual([...found.map(shown), yield* show(c)], ["2: 2", "2: 4"])
              return yield* Effect.fail("rolled back")
            })
          )
        )
        assert.deepStrictEqual(exit, Exit.fail("rolled back"))
        assert.deepStrictEqual([yield* show(a), yield* show(b), yield* show(c)], ["1: 1", "1: 1", "none"])
      })
    )

    it.effect("does not spoil the transaction that catches a StaleState", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const [a, b] = [fresh(), fresh()]
        yield* states.writeState(state(a, 2n, 2))
        yield* transaction(
          Effect.gen(function* () {
            yield* states.writeState(state(b, 2n, 2))
            for (const id of [a, b])
              assert.instanceOf(yield* Effect.flip(states.writeState(state(id, 1n, 1))), StaleState)
            yield* states.writeState(state(a, 3n, 3))
          })
        )
        assert.deepStrictEqual([yield* show(a), yield* show(b)], ["3: 3", "2: 2"])
      })
    )

    it.effect.each(invalid)("refuses %s", ([, part]) =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const written = { ...state(fresh(), 1n, 1), timestamp: 0n }
        yield* states.writeState(written)
        const operations = Object.hasOwn(part, "onDuplicate")
          ? [["writeState", states.writeState] as const]
          : [["writeState", states.writeState] as const, ["overwriteState", states.overwriteState] as const]
        for (const [operation, write] of operations) {
          const error = yield* Effect.flip(write(Object.assign({ ...written, versionNumber: 2n }, part)))
          assert.strictEqual(error._tag, "InvalidInput")
          assert.match(
            error.message,
            new RegExp(`^DurableStateStore.${operation}: invalid input: ${Object.keys(part)[0]}: .{0,200}$`)
          )
        }
        assert.strictEqual(yield* show(written.persistenceId), "1: 1")
      })
    )

    it.effect("refuses invalid arguments of every operation, naming the field, and a record of zeros", () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore
        const fieldsOf = <A>(operation: Effect.Effect<A, { readonly _tag: string; readonly message: string }>) =>
          Effect.map(Effect.flip(operation), (error) =>
            error instanceof InvalidInput ? error.issues.map(({ field }) => field) : error
          )
        const zeros = { persistenceId: "", versionNumber: 0n, payload: bytes(), manifest: "", timestamp: 0n, shard: 0 }
        for (const write of [states.writeState, states.overwriteState]) {
          assert.deepStrictEqual(yield* fieldsOf(write(zeros)), ["persistenceId", "manifest"])
        }
        assert.deepStrictEqual(yield* fieldsOf(states.getLatestState("")), ["persistenceId"])
        assert.deepStrictEqual(yield* fieldsOf(states.getStates([fresh(), ""])), ["persistenceIds.1"])
        assert.deepStrictEqual(yield* fieldsOf(states.overwriteAndGet(zeros, [fresh(), ""])), [
          "persistenceId",
          "manifest",
          "persistenceIds.1"
        ])
        assert.deepStrictEqual(yield* fieldsOf(states.deleteState("")), ["persistenceId"])
        assert.deepStrictEqual(yield* fieldsOf(Stream.runDrain(states.listStates({ shard: -1, manifest: "" }))), [
          "shard",
          "manifest"
        ])
      })
    )

    it.effect("answers a ping", () => DurableStateStore.use((states) => states.ping))

    it.effect("is closed once the scope of its layer has ended", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
        const states = Context.get(context, DurableStateStore)
        yield* states.ping
        yield* Scope.close(scope, Exit.void)
        for (const operation of [
          states.ping,
          states.writeState(state(fresh(), 1n)),
          Stream.runDrain(states.listStates())
        ]) {
          const error = yield* Effect.flip(operation)
          assert.strictEqual(error._tag === "StoreError" ? error.reason._tag : error._tag, "Closed")
        }
      })
    )
  })

  Writers.suite(name, layer, { interleaving })
}
