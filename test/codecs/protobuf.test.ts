import { create, createRegistry, equals, isMessage, type Message } from "@bufbuild/protobuf"
import {
  AnySchema,
  EmptySchema,
  FieldMaskSchema,
  StructSchema,
  timestampFromMs,
  TimestampSchema,
  type Value,
  ValueSchema
} from "@bufbuild/protobuf/wkt"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Result, Schema } from "effect"
import { StateCodec } from "effect-strata"
import { protobuf } from "effect-strata/protobuf"
import { account, AccountSchema, ClosedSchema, registry } from "./messages.ts"

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
const hex = (payload: Uint8Array) => Buffer.from(payload).toString("hex")
const ascii = (text: string) => Buffer.from(text, "ascii").toString("hex")

const any = "google.protobuf.Any"
const codec = protobuf(
  AccountSchema,
  ClosedSchema,
  TimestampSchema,
  StructSchema,
  FieldMaskSchema,
  EmptySchema,
  AnySchema
)

/**
 * Rows by the wire format: each field is its number times 8 plus 2 (length-delimited) or 0 (varint), then the length and the
 * bytes, or the number in groups of 7 bits, the lowest first.
 */
const golden: ReadonlyArray<readonly [what: string, message: Message, typeName: string, value: string]> = [
  // 1: "a-42"; 2: 4200 = 32 * 128 + 104.
  ["a message", account({ accountId: "a-42", balanceCents: 4200n }), "test.Account", "0a 04 612d3432  10 e8 20"],
  // A negative number has ten groups. Of 3, each element is a field of its own.
  [
    "a negative number, and a list",
    account({ balanceCents: -1n, tags: ["x", "yz"] }),
    "test.Account",
    "10 ffffffffffffffffff01  1a 01 78  1a 02 797a"
  ],
  ["messages in messages", account({ parent: account({ parent: account({}) }) }), "test.Account", "22 02 22 00"],
  ["an empty message", account({}), "test.Account", ""],
  ["a message without fields", create(ClosedSchema), "test.Closed", ""],
  ["a well-known type", timestampFromMs(1_500), "google.protobuf.Timestamp", "08 01  10 80 ca b5 ee 01"],
  ["google.protobuf.Empty", create(EmptySchema), "google.protobuf.Empty", ""],
  // 1: a pair of 1: "k", 2: a value whose 4 is true.
  [
    "google.protobuf.Struct",
    create(StructSchema, { fields: { k: create(ValueSchema, { kind: { case: "boolValue", value: true } }) } }),
    "google.protobuf.Struct",
    "0a 07  0a 01 6b  12 02 20 01"
  ]
]

/** The field 1, the URL of the type, and the field 2, its value, unless that is empty. */
const anyOf = (typeName: string, value: string, prefix = "type.googleapis.com/") => {
  const url = prefix + typeName
  const length = (count: number) => count.toString(16).padStart(2, "0")
  const inner = value.replaceAll(" ", "")
  return bytes(
    `0a ${length(url.length)} ${ascii(url)} ${inner === "" ? "" : `12 ${length(inner.length / 2)} ${inner}`}`
  )
}

const same = (actual: Message, expected: Message) => {
  const desc = registry.getMessage(expected.$typeName) ?? wellKnown.getMessage(expected.$typeName)
  assert.isTrue(desc !== undefined && actual.$typeName === expected.$typeName && equals(desc, actual, expected))
}

const wellKnown = createRegistry(TimestampSchema, StructSchema, FieldMaskSchema, EmptySchema, ValueSchema, AnySchema)

describe("protobuf", () => {
  it("has golden rows that are what they should be, to the byte", () => {
    assert.strictEqual(
      hex(anyOf("test.Account", "0a 04 612d3432 10 e8 20")),
      "0a20747970652e676f6f676c65617069732e636f6d2f746573742e4163636f756e7412090a04612d343210e820"
    )
  })

  it.effect.each(golden)("writes %s as eGo does", ([, message, typeName, value]) =>
    Effect.gen(function* () {
      const encoded = yield* codec.encode(message)
      assert.deepStrictEqual([encoded.manifest, hex(encoded.payload)], [any, hex(anyOf(typeName, value))])
    })
  )

  it.effect.each(golden)("reads %s, as Any and by its own name", ([, message, typeName, value]) =>
    Effect.gen(function* () {
      const forms = [
        { manifest: any, payload: anyOf(typeName, value) },
        { manifest: any, payload: anyOf(typeName, value, "https://example.com/a/") },
        { manifest: any, payload: anyOf(typeName, value, "/") },
        { manifest: typeName, payload: bytes(value) }
      ]
      for (const form of forms) same(yield* codec.decode(form), message)
    })
  )

  it.effect("keeps fields that the descriptors do not know", () =>
    Effect.gen(function* () {
      // 15: 42, and 16, whose number takes two bytes: "new".
      const unknown = "78 2a  82 01 03 6e6577"
      for (const [typeName, known] of [
        ["test.Account", "0a 01 61"],
        ["test.Closed", ""]
      ] as const) {
        const payload = anyOf(typeName, `${known} ${unknown}`)
        const message = yield* codec.decode({ manifest: any, payload })
        assert.strictEqual(hex((yield* codec.encode(message)).payload), hex(payload))
      }
    })
  )

  it.effect("takes a state that is an Any itself", () =>
    Effect.gen(function* () {
      const inner = create(AnySchema, { typeUrl: "type.googleapis.com/test.Closed" })
      const encoded = yield* codec.encode(inner)
      assert.strictEqual(hex(encoded.payload), hex(anyOf(any, hex(anyOf("test.Closed", "")))))
      same(yield* codec.decode(encoded), inner)
    })
  )

  it.effect("finds types in registries, too, and knows the types of its values", () =>
    Effect.gen(function* () {
      const all = protobuf(createRegistry(registry, TimestampSchema))
      for (const message of [account({ accountId: "a" }), timestampFromMs(5)]) {
        same(yield* all.decode(yield* all.encode(message)), message)
      }
      const times = protobuf(TimestampSchema, FieldMaskSchema)
      const decoded = yield* times.decode(yield* times.encode(timestampFromMs(5_000)))
      // The type is the union of the two.
      assert.deepStrictEqual(isMessage(decoded, TimestampSchema) ? decoded.seconds : decoded.paths, 5n)
    })
  )

  it.effect("names the type that is not registered", () =>
    Effect.gen(function* () {
      const times = protobuf(TimestampSchema)
      for (const [encoded, manifest] of [
        [{ manifest: any, payload: anyOf("test.Account", "") }, "test.Account"],
        [{ manifest: "test.Account", payload: bytes("") }, "test.Account"],
        [{ manifest: "Account.v3", payload: bytes("7b7d") }, "Account.v3"]
      ] as const) {
        const error = yield* Effect.flip(times.decode(encoded))
        assert.deepStrictEqual(error, new StateCodec.UnknownManifest({ manifest }))
        assert.strictEqual(error.message, `no codec for "${manifest}"`)
      }
      const everything = protobuf(registry)
      assert.deepStrictEqual(
        yield* Effect.flip(everything.encode(timestampFromMs(0))),
        new StateCodec.UnknownManifest({ manifest: "google.protobuf.Timestamp" })
      )
    })
  )

  it.effect.each([
    ["ends in the middle", any, "0a 20 74"],
    ["ends in the middle of the value", "test.Account", "0a 04 61"],
    ["has a field of another kind than a known one", "test.Account", "08"],
    ["has text that is no UTF-8", "test.Account", "0a 01 ff"],
    ["has a number of more than ten groups", "test.Account", "10 ffffffffffffffffffff01"]
  ] as const)("fails at what %s", ([, manifest, value]) =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(codec.decode({ manifest, payload: bytes(value) }))
      assert.strictEqual(error._tag, "CodecError")
      assert.match(error.message, new RegExp(`^no "${manifest}": .+`))
      const untyped = yield* Effect.flip(codec.decode({ manifest: any, payload: bytes("") }))
      assert.strictEqual(untyped.message, "an Any without a type")
    })
  )

  it.effect("fails at values that are no messages, or do not fit", () =>
    Effect.gen(function* () {
      const times = protobuf(TimestampSchema)
      const broken = Object.assign(create(TimestampSchema), { seconds: 2n ** 63n })
      const error = yield* Effect.flip(times.encode(broken))
      assert.isTrue(error._tag === "CodecError" && error.manifest === "google.protobuf.Timestamp", error.message)
      const plain = Object.assign(create(TimestampSchema), { $typeName: undefined })
      assert.strictEqual((yield* Effect.flip(times.encode(plain)))._tag, "CodecError")
    })
  )

  it.effect("reads whatever it could write, however deep", () =>
    Effect.gen(function* () {
      let deep = account({})
      for (let level = 0; level < 300; level++) deep = account({ parent: deep })
      const encoded = yield* codec.encode(deep)
      assert.strictEqual(hex((yield* codec.encode(yield* codec.decode(encoded))).payload), hex(encoded.payload))
      for (let level = 0; level < 30_000; level++) deep = account({ parent: deep })
      assert.strictEqual((yield* Effect.flip(codec.encode(deep)))._tag, "CodecError")
    })
  )

  const WellFormed = Schema.String.check(Schema.makeFilter((text) => text.isWellFormed()))
  const Account = Schema.Struct({
    accountId: WellFormed,
    balanceCents: Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: -(2n ** 63n), maximum: 2n ** 63n - 1n })),
    tags: Schema.Array(WellFormed),
    raw: Schema.Uint8Array
  })
  const Time = Schema.Struct({
    seconds: Account.fields.balanceCents,
    nanos: Schema.Int.check(Schema.isBetween({ minimum: -(2 ** 31), maximum: 2 ** 31 - 1 }))
  })

  it.effect.prop(
    "gives back any value, and the same bytes for it",
    [Arbitrary.schema(Account), Arbitrary.schema(Account), Arbitrary.schema(Time), Arbitrary.schema(Schema.Json)],
    ([fields, parent, time, json]) =>
      Effect.gen(function* () {
        for (const message of [
          account({ ...fields, parent: account(parent) }),
          create(TimestampSchema, time),
          create(FieldMaskSchema, { paths: [...fields.tags] }),
          create(StructSchema, { fields: { json: valueOf(json) } })
        ]) {
          const encoded = yield* codec.encode(message)
          const decoded = yield* codec.decode(encoded)
          same(decoded, message)
          assert.strictEqual(hex((yield* codec.encode(decoded)).payload), hex(encoded.payload))
        }
      }),
    { arbitrary: { runs: 200 } }
  )

  it.effect.prop("never dies of bytes, whatever they are", [Schema.Uint8Array], ([payload]) =>
    Effect.gen(function* () {
      for (const manifest of [any, "test.Account", "google.protobuf.Struct"]) {
        const result = yield* Effect.result(codec.decode({ manifest, payload }))
        if (Result.isSuccess(result)) yield* codec.encode(result.success)
      }
    })
  )
})

/** JSON as `google.protobuf.Value` has it. */
const valueOf = (json: Schema.Json): Value => {
  if (json === null) return create(ValueSchema, { kind: { case: "nullValue", value: 0 } })
  switch (typeof json) {
    case "string":
      return create(ValueSchema, { kind: { case: "stringValue", value: json.toWellFormed() } })
    case "number":
      return create(ValueSchema, { kind: { case: "numberValue", value: json } })
    case "boolean":
      return create(ValueSchema, { kind: { case: "boolValue", value: json } })
    default:
      if (Array.isArray(json)) {
        return create(ValueSchema, { kind: { case: "listValue", value: { values: json.map(valueOf) } } })
      }
      return create(ValueSchema, {
        kind: {
          case: "structValue",
          value: {
            fields: Object.fromEntries(Object.entries(json).map(([key, value]) => [key.toWellFormed(), valueOf(value)]))
          }
        }
      })
  }
}
