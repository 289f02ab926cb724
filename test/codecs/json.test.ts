import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Equal, Fiber, Layer, Option, Result, Schema, SchemaTransformation } from "effect"
import { DurableStateStore, Json, StateCodec, StoreError } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { TestClock } from "effect/testing"

const utf8 = (text: string) => new TextEncoder().encode(text)
const textOf = ({ payload }: StateCodec.Encoded) => new TextDecoder().decode(payload)

class Counter extends Schema.Class<Counter>("Counter")({ nanos: Json.Int64, id: Json.Int64Text }) {}

class AccountV1 extends Schema.Class<AccountV1>("Account")({ balance: Schema.Number }) {}
class AccountV2 extends Schema.Class<AccountV2>("Account.v2")({ cents: Schema.BigInt }) {}
class Account extends Schema.Class<Account>("Account.v3")({
  cents: Schema.BigInt.check(Schema.isGreaterThanOrEqualToBigInt(0n)),
  currency: Schema.String
}) {}

const v1 = StateCodec.json(AccountV1)
const v2 = StateCodec.upcast(StateCodec.json(AccountV2), {
  from: v1,
  map: ({ balance }) => new AccountV2({ cents: BigInt(Math.round(balance * 100)) })
})
const v3 = StateCodec.upcast(StateCodec.json(Account), {
  from: v2,
  map: ({ cents }) => new Account({ cents, currency: "EUR" })
})

/** As many kinds of values as there are, and what JSON has no notation for. */
class Everything extends Schema.Class<Everything>("Everything")({
  text: Schema.String,
  number: Schema.Number,
  big: Schema.BigInt,
  date: Schema.Date,
  bytes: Schema.Uint8Array,
  option: Schema.Option(Schema.Int),
  missing: Schema.optionalKey(Schema.Boolean),
  undefinable: Schema.UndefinedOr(Schema.String),
  map: Schema.ReadonlyMap(Schema.String, Schema.Array(Schema.Finite)),
  record: Schema.Record(Schema.String, Schema.NullOr(Schema.Int)),
  union: Schema.Union([AccountV1, Account]),
  json: Schema.Json
}) {}

const everything = StateCodec.json(Everything)

describe("StateCodec.json", () => {
  it.effect("writes integers of 64 bits as numbers, and reads all of their digits", () =>
    Effect.gen(function* () {
      const codec = StateCodec.json(Counter)
      const counter = new Counter({ nanos: 1764187200123456789n, id: "-9007199254740993" })
      const encoded = yield* codec.encode(counter)
      assert.strictEqual(textOf(encoded), '{"nanos":1764187200123456789,"id":-9007199254740993}')
      assert.deepStrictEqual(yield* codec.decode(encoded), counter)
      for (const payload of ['{"nanos":9223372036854775808,"id":1}', '{"nanos":1.5,"id":1}', '{"nanos":"1","id":1}']) {
        const error = yield* Effect.flip(codec.decode({ manifest: "Counter", payload: utf8(payload) }))
        assert.instanceOf(error, StateCodec.CodecError)
      }
      // Another program's digits are never rounded for a field that asks for a number.
      const rounding = StateCodec.json(Schema.Struct({ nanos: Schema.Number }), { manifest: "Counter" })
      assert.instanceOf(yield* Effect.flip(rounding.decode(encoded)), StateCodec.CodecError)
    })
  )

  it.effect("writes JSON in UTF-8 under the identifier of the schema, and reads it", () =>
    Effect.gen(function* () {
      const encoded = yield* v1.encode(new AccountV1({ balance: 1.5 }))
      assert.deepStrictEqual([encoded.manifest, textOf(encoded)], ["Account", '{"balance":1.5}'])
      assert.deepStrictEqual(yield* v1.decode(encoded), new AccountV1({ balance: 1.5 }))
      assert.instanceOf(yield* v1.decode(encoded), AccountV1)

      const annotated = StateCodec.json(Schema.String.annotate({ identifier: "Text" }))
      assert.deepStrictEqual(yield* annotated.encode("é 🐘"), { manifest: "Text", payload: utf8('"é 🐘"') })
      const named = StateCodec.json(Schema.String, { manifest: "given" })
      assert.strictEqual((yield* named.encode("a")).manifest, "given")
    })
  )

  it.effect.prop(
    "gives back any value",
    [Everything],
    ([value]) =>
      Effect.gen(function* () {
        const encoded = yield* everything.encode(value)
        const decoded = yield* everything.decode(encoded)
        assert.isTrue(Equal.equals(decoded, value), textOf(encoded))
        assert.deepStrictEqual(yield* everything.encode(decoded), encoded)
      }),
    { arbitrary: { runs: 200 } }
  )

  it.effect.prop("never dies of bytes, whatever they are", [Schema.Uint8Array], ([payload]) =>
    Effect.gen(function* () {
      const result = yield* Effect.result(everything.decode({ manifest: "Everything", payload }))
      assert.isTrue(Result.isFailure(result) && result.failure instanceof StateCodec.CodecError)
    })
  )

  it.effect("reads what every older version has written, and writes as the newest does", () =>
    Effect.gen(function* () {
      const expected = new Account({ cents: 150n, currency: "EUR" })
      const written = [
        yield* v1.encode(new AccountV1({ balance: 1.5 })),
        yield* v2.encode(new AccountV2({ cents: 150n })),
        yield* v3.encode(expected)
      ]
      assert.deepStrictEqual(
        written.map(({ manifest }) => manifest),
        ["Account", "Account.v2", "Account.v3"]
      )
      for (const encoded of written) assert.deepStrictEqual(yield* v3.decode(encoded), expected)
      // An older codec does not read a newer state, and no codec reads a manifest that is none of its own.
      assert.deepStrictEqual(
        yield* Effect.flip(v2.decode({ manifest: "Account.v3", payload: utf8("{}") })),
        new StateCodec.UnknownManifest({ manifest: "Account.v3" })
      )
      assert.deepStrictEqual(
        yield* Effect.flip(v3.decode({ manifest: "Order", payload: utf8("{}") })),
        new StateCodec.UnknownManifest({ manifest: "Order" })
      )
    })
  )

  const unreadable: ReadonlyArray<readonly [what: string, payload: Uint8Array]> = [
    ["is no JSON", utf8("{")],
    ["is no UTF-8", Uint8Array.of(34, 255, 34)],
    ["is empty", utf8("")],
    ["lacks a field", utf8("{}")],
    ["breaks a check", utf8('{"cents":"-1","currency":"EUR"}')],
    ["nests too deep", utf8("[".repeat(200_000) + "]".repeat(200_000))]
  ]

  it.effect.each(unreadable)("fails at what %s", ([, payload]) =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(v3.decode({ manifest: "Account.v3", payload }))
      assert.strictEqual(error._tag, "CodecError")
      assert.match(error.message, /^no "Account.v3": [^\n]{5,}/)
    })
  )

  it.effect("fails at values that break the schema, at code that throws, and without a manifest", () =>
    Effect.gen(function* () {
      const broken = Object.assign(new Account({ cents: 1n, currency: "EUR" }), { cents: -1n })
      assert.strictEqual((yield* Effect.flip(v3.encode(broken)))._tag, "CodecError")

      const Thrower = Schema.String.pipe(
        Schema.decodeTo(
          Schema.String,
          SchemaTransformation.transform({
            decode: (): string => {
              throw new Error("thrown while reading")
            },
            encode: (): string => {
              throw new Error("thrown while writing")
            }
          })
        )
      )
      const thrower = StateCodec.json(Thrower, { manifest: "thrower" })
      const payload = utf8('"a"')
      assert.match((yield* Effect.flip(thrower.encode("a"))).message, /thrown while writing/)
      assert.match((yield* Effect.flip(thrower.decode({ manifest: "thrower", payload }))).message, /while reading/)

      const throwing = StateCodec.upcast(v2, {
        from: StateCodec.json(Schema.String, { manifest: "old" }),
        map: () => {
          throw new Error("thrown by the upcast")
        }
      })
      assert.match((yield* Effect.flip(throwing.decode({ manifest: "old", payload }))).message, /by the upcast/)

      const anonymous = StateCodec.json(Schema.Struct({ a: Schema.String }))
      assert.match((yield* Effect.flip(anonymous.encode({ a: "" }))).message, /has no identifier/)
      assert.match((yield* Effect.flip(anonymous.decode({ manifest: "", payload }))).message, /has no identifier/)
    })
  )
})

describe("DurableStateStore.typed", () => {
  const accounts = DurableStateStore.typed({
    codec: v3,
    initial: (persistenceId) => new Account({ cents: 0n, currency: persistenceId }),
    shard: (persistenceId) => persistenceId.length
  })

  it.effect("reads older states, and writes them back as the newest", () =>
    Effect.gen(function* () {
      const states = yield* DurableStateStore.DurableStateStore
      const { modify, read } = yield* accounts
      const encoded = yield* v1.encode(new AccountV1({ balance: 2 }))
      yield* states.writeState({ persistenceId: "a", versionNumber: 5n, shard: 9, ...encoded })
      const value = new Account({ cents: 200n, currency: "EUR" })
      assert.deepStrictEqual(yield* read("a"), { persistenceId: "a", versionNumber: 5n, value, shard: 9 })
      assert.deepStrictEqual(yield* modify("a", (account) => account), {
        persistenceId: "a",
        versionNumber: 6n,
        value,
        shard: 9
      })
      const stored = Option.getOrThrow(yield* states.getLatestState("a"))
      assert.strictEqual(stored.manifest, "Account.v3")
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )

  it.effect("asks for the default and the shard of an entity by its id", () =>
    Effect.gen(function* () {
      const { modify, read, write } = yield* accounts
      const value = new Account({ cents: 0n, currency: "entity" })
      assert.deepStrictEqual(yield* read("entity"), { persistenceId: "entity", versionNumber: 0n, value, shard: 6 })
      const written = yield* modify("entity", ({ currency }) => new Account({ cents: 1n, currency }))
      assert.deepStrictEqual([written.versionNumber, written.shard], [1n, 6])
      yield* write({ persistenceId: "other", versionNumber: 1n, value })
      assert.strictEqual((yield* read("other")).shard, 5)
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )

  it.effect(
    "fails with CorruptRow at what does not decode, naming the entity, and with InvalidInput at what does not encode",
    () =>
      Effect.gen(function* () {
        const states = yield* DurableStateStore.DurableStateStore
        const { modify, read, write } = yield* accounts
        yield* states.writeState({
          persistenceId: "bad",
          versionNumber: 1n,
          manifest: "Account.v3",
          payload: utf8("{}")
        })
        yield* states.writeState({ persistenceId: "alien", versionNumber: 1n, manifest: "Order", payload: utf8("{}") })
        for (const [id, says] of [
          ["bad", /the state of "bad" does not decode: no "Account.v3": .*; mend or delete it$/],
          ["alien", /the state of "alien" does not decode: no codec for "Order"; mend or delete it$/]
        ] as const) {
          for (const operation of [read(id), modify(id, (account) => account)]) {
            const error = yield* Effect.flip(operation)
            if (!(error instanceof StoreError.StoreError)) return assert.fail(error._tag)
            assert.match(error.message, says)
            assert.isTrue(error.reason._tag === "CorruptRow" && error.reason.key === id)
          }
        }
        const broken = Object.assign(new Account({ cents: 1n, currency: "EUR" }), { cents: -1n })
        for (const operation of [
          write({ persistenceId: "new", versionNumber: 1n, value: broken }),
          modify("new", () => broken)
        ]) {
          const error = yield* Effect.flip(operation)
          assert.isTrue(error._tag === "InvalidInput" && error.issues[0]?.field === "value", error.message)
        }
        assert.isTrue(Option.isNone(yield* states.getLatestState("new")))
      }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )

  it.effect("gives up by the schedule, with the conflict", () =>
    Effect.gen(function* () {
      const states = yield* DurableStateStore.DurableStateStore
      const { modify } = yield* accounts
      let attempts = 0
      const encoded = yield* v3.encode(new Account({ cents: 7n, currency: "EUR" }))
      // Another writer is always faster.
      const fiber = yield* Effect.forkChild(
        Effect.flip(
          modify("busy", (account) =>
            Effect.as(
              states.writeState({ persistenceId: "busy", versionNumber: BigInt(++attempts), ...encoded }),
              account
            )
          )
        )
      )
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "StaleState" && error.current.versionNumber === BigInt(attempts))
      assert.isAbove(attempts, 10)
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )

  it.effect("tries again at a conflict of its own only, not at one of the function's", () =>
    Effect.gen(function* () {
      const states = yield* DurableStateStore.DurableStateStore
      const { modify } = yield* accounts
      const old = { persistenceId: "other", versionNumber: 1n, ...(yield* v1.encode(new AccountV1({ balance: 1 }))) }
      yield* states.writeState({ ...old, versionNumber: 2n })
      let attempts = 0
      const error = yield* Effect.flip(
        modify("entity", (account) => {
          attempts++
          return Effect.as(states.writeState(old), account)
        })
      )
      assert.deepStrictEqual([error._tag, attempts], ["StaleState", 1])
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )

  it.effect("leaves the services of a schema in the requirements", () =>
    Effect.gen(function* () {
      class Currency extends Context.Service<Currency, string>()("strata-test/Currency") {}
      const Amount = Schema.String.pipe(
        Schema.decodeTo(
          Schema.String,
          SchemaTransformation.transformEffect({
            decode: (text: string) => Currency.useSync((currency) => `${text} ${currency}`),
            encode: (text: string) => Effect.succeed(text.split(" ")[0] ?? "")
          })
        )
      )
      const amounts = yield* DurableStateStore.typed({
        codec: StateCodec.json(Amount, { manifest: "amount" }),
        initial: () => "0"
      })
      const write: Effect.Effect<void, unknown> = amounts.write({ persistenceId: "a", versionNumber: 1n, value: "5 x" })
      yield* write
      // @ts-expect-error: Currency is needed
      const wrong: Effect.Effect<unknown, unknown> = amounts.read("a")
      assert.isDefined(wrong)
      const read = yield* amounts.read("a").pipe(Effect.provideService(Currency, "EUR"))
      assert.strictEqual(read.value, "5 EUR")
    }).pipe(Effect.provide(Layer.fresh(Memory.layer)))
  )
})
