/** The fast path through a schema of arguments decides as the schema does, or not at all. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Clock, DateTime, Duration, Effect, Exit, Option, Predicate, Schema } from "effect"
import * as DurableStateStore from "../../src/DurableState.ts"
import * as EventStore from "../../src/Event.ts"
import { fastPath } from "../../src/internal/FastPath.ts"
import { isSafeJson } from "../../src/internal/SafeJson.ts"
import * as OffsetStore from "../../src/Offset.ts"
import * as SpoolArguments from "../../src/SpoolArguments.ts"
import * as SpoolMessage from "../../src/SpoolMessage.ts"

// Inputs

const cycle: Record<string, unknown> = { name: "cycle" }
cycle["itself"] = cycle

const nested = (levels: number): unknown => (levels === 0 ? 1 : [nested(levels - 1)])

const sparse: Array<unknown> = []
sparse[2] = 1

class Foreign {
  readonly id = "foreign"
  get name() {
    return "not its own"
  }
}

/** What a caller may give for any part, valid or not. Each is at the edge of some rule. */
const strange = Object.values<ReadonlyArray<unknown>>({
  nothing: [undefined, null],
  texts: ["", "\0", "a\0", "\ud800", "\udc00a", "any", "none", "done", "start", "ignore", "1 second"],
  lengths: [128, 255, 256, 512, 513].flatMap((length) => ["a".repeat(length), "😀".repeat(length)]),
  numbers: [0, -0, 1, -1, 1.5, NaN, Infinity, 2 ** 31, 2 ** 53 - 1, 2 ** 53, 100_000, 100_001],
  integers: [0n, 1n, -1n, 2n ** 63n - 1n, 2n ** 63n, -(2n ** 63n), -(2n ** 63n) - 1n],
  bytes: [new Uint8Array(3), new Uint8Array(DurableStateStore.maxPayloadBytes + 1), Buffer.from("a")],
  lists: [[], [undefined], ["a", "a"], sparse, nested(499), nested(501), { length: 1, 0: "a" }, new Set(["a"])],
  objects: [{}, { a: undefined }, { a: 2 ** 53 }, { "\0": 1 }, { toJSON: () => 1 }, Object.create(null), cycle],
  expected: [{ a: "none" }, { a: 5n }],
  instances: [new Foreign(), /a/, new Date(0), DateTime.makeUnsafe(0), Duration.seconds(1)],
  options: [Option.none(), Option.some(1n), Option.some("a")],
  others: [true, false, Symbol("a"), () => 1]
}).flat()

const oneOf = (values: ReadonlyArray<unknown>): Arbitrary.Arbitrary<unknown> =>
  Arbitrary.map(dice(values.length), (index) => values[index])

/** A number from 0 to below `sides`. */
const dice = (sides: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: sides - 1 })))

/** Values of a schema without parts. The library can make some, but none for a declaration, and too few identifiers. */
const valid = (schema: Schema.Constraint): Arbitrary.Arbitrary<unknown> => {
  if (schema.ast._tag === "String") return Arbitrary.schema(Schema.NonEmptyString)
  if (schema.ast._tag === "Objects")
    return Arbitrary.schema(Schema.Record(Schema.NonEmptyString, Schema.NonEmptyString))
  try {
    return Arbitrary.schema(schema)
  } catch {
    return Arbitrary.schema(Schema.Json)
  }
}

/** The same object in a form that is not what it seems, or with something more or less in it. */
const changed = (input: Record<string, unknown>, change: number, at: number, value: unknown): unknown => {
  const keys = Object.keys(input)
  const key = keys[at % Math.max(1, keys.length)] ?? "more"
  const { [key]: given, ...rest } = input
  switch (change) {
    case 0:
      return rest
    case 1:
      return { ...input, more: value }
    case 2:
      return { ...input, [key]: undefined }
    case 3:
      return Object.create(input)
    case 4:
      return Object.assign(Object.create(null), input)
    case 5:
      return Object.assign(Object.create({ [key]: given }), rest)
    case 6:
      return Object.defineProperty({ ...rest }, key, { get: () => given, enumerable: true })
    case 7:
      return Object.defineProperty({ ...rest }, key, { value: given, enumerable: false })
    case 8:
      return Object.assign(new Foreign(), input)
    case 9:
      return new Proxy(input, {})
    case 10:
      return Object.freeze({ ...input, [Symbol("more")]: value })
    default:
      return input
  }
}

const objects = (fields: Readonly<Record<string, Schema.Constraint>>): Arbitrary.Arbitrary<unknown> =>
  Arbitrary.map(
    Arbitrary.all({
      parts: Arbitrary.all(
        Object.fromEntries(
          Object.entries(fields).map(([name, field]) => [name, Arbitrary.all([parts(field), dice(2)])])
        )
      ),
      change: dice(40),
      at: dice(10),
      value: oneOf(strange)
    }),
    ({ at, change, parts, value }) => {
      const given = Object.entries(parts).filter(([name, [, coin]]) => coin === 0 || !isOptional(fields[name]))
      return changed(Object.fromEntries(given.map(([name, [part]]) => [name, part])), change, at, value)
    }
  )

const isOptional = (field: Schema.Constraint | undefined) =>
  field?.ast.context?.isOptional === true || field?.ast.context?.constructorDefault !== undefined

const partOf = (schema: object, name: string): Schema.Constraint | undefined => {
  const part: unknown = Reflect.get(schema, name)
  return Schema.isSchema(part) ? part : undefined
}

/** The structs of a union. */
const membersOf = (schema: Schema.Constraint): ReadonlyArray<Schema.Constraint> => {
  const members: unknown = schema.ast._tag === "Union" ? Reflect.get(schema, "members") : undefined
  return Array.isArray(members) && members.every(isStruct) ? members : []
}

/** What may be given for a schema: mostly what it takes, or nearly. */
const inputs = (schema: Schema.Constraint): Arbitrary.Arbitrary<unknown> => {
  if (isStruct(schema)) return objects(schema.fields)
  const item = schema.ast._tag === "Arrays" ? partOf(schema, "value") : undefined
  if (item !== undefined) return Arbitrary.array(parts(item), { maxLength: 3 })
  const members = membersOf(schema)
  if (members.length > 0) {
    return Arbitrary.map(
      Arbitrary.all([Arbitrary.all(members.map(parts)), dice(members.length)]),
      ([all, at]) => all[at]
    )
  }
  const inner = partOf(schema, "schema")
  return inner === undefined ? valid(schema) : inputs(inner)
}

/** The same, or now and then something strange. */
const parts = (schema: Schema.Constraint): Arbitrary.Arbitrary<unknown> =>
  Arbitrary.map(Arbitrary.all([inputs(schema), oneOf(strange), dice(20)]), ([input, other, side]) =>
    side === 0 ? other : input
  )

// The schemas

interface Checked extends Schema.Constraint {
  makeEffect(input: unknown): Effect.Effect<unknown, unknown>
}

interface Struct extends Checked {
  readonly fields: Readonly<Record<string, Schema.Constraint>>
}

const isStruct = (value: unknown): value is Struct => Schema.isSchema(value) && Predicate.hasProperty(value, "fields")

const SpoolStore = { ...SpoolMessage, ...SpoolArguments }

/** Every class of values that the contracts export, and so the arguments of every operation. */
const classes = Object.entries({ EventStore, OffsetStore, DurableStateStore, SpoolStore }).flatMap(([store, module]) =>
  Object.entries(module).flatMap(([name, value]: [string, unknown]) => {
    const isError = Predicate.hasProperty(value, "prototype") && value.prototype instanceof Error
    return isStruct(value) && !isError ? [{ name: `${store}.${name}`, schema: value }] : []
  })
)

/** Those with a part that the fast path leaves to the schema: an option, or data as it was read. */
const undecidable = new Set([
  "EventStore.UnknownEvent",
  "EventStore.StoredEvent",
  "OffsetStore.Step",
  "SpoolStore.SpoolMessage"
])

/** Whether the fast path has decided, which it must do as the schema does. */
const agreed = Effect.fnUntraced(function* (schema: Checked, input: unknown) {
  const fast = fastPath(schema)(input, yield* Clock.Clock)
  if (fast === undefined) return false
  const slow = yield* Effect.exit(schema.makeEffect(input))
  if (Exit.isFailure(slow)) return assert.fail("the fast path takes what the schema refuses")
  assert.deepStrictEqual(fast, slow.value)
  return true
})

describe("the fast path through the arguments of an operation", () => {
  it("is compared for the arguments of every contract", () => {
    assert.includeMembers(
      classes.map(({ name }) => name),
      ["EventStore.Append", "OffsetStore.Offset", "DurableStateStore.Write", "SpoolStore.Settle"]
    )
    assert.isAbove(classes.length, 30)
  })

  for (const { name, schema } of classes) {
    let decided = 0
    it.effect.prop(
      `gives what the schema gives, or leaves the input to it: ${name}`,
      [parts(schema)],
      ([input]) => Effect.map(agreed(schema, input), (isDecided) => void (isDecided && decided++)),
      { arbitrary: { runs: 400, seed: 5, maxDiscards: 40_000 } }
    )
    if (undecidable.has(name)) continue
    it(`decides for some of the inputs: ${name}`, () => assert.isAbove(decided, 3))
  }

  const taken: ReadonlyArray<readonly [string, Checked, unknown]> = [
    [
      "one event",
      EventStore.Append,
      { events: [{ aggregateId: "a", eventType: "A", data: { text: "a", list: [1] } }] }
    ],
    [
      "several events that expect a version",
      EventStore.Append,
      {
        events: [
          { id: "1", aggregateId: "a", eventType: "A", data: 1, metadata: { user: "u" } },
          { id: "2", aggregateId: "a", eventType: "A", data: null }
        ],
        expected: 5n,
        onDuplicate: "ignore"
      }
    ],
    ["an event's id", EventStore.ById, { id: "1" }],
    ["an aggregate", EventStore.AggregateSince, { aggregateId: "a", since: 0n }],
    ["an offset", OffsetStore.Offset, { projectionName: "p", shardNumber: 0, value: 1n }],
    ["a shard", OffsetStore.ProjectionId, { projectionName: "p", shardNumber: 0 }],
    [
      "a state",
      DurableStateStore.Write,
      { persistenceId: "a", versionNumber: 1n, payload: new Uint8Array(9), manifest: "m", onDuplicate: "fail" }
    ],
    ["a state's id", DurableStateStore.ById, { persistenceId: "😀".repeat(255) }],
    [
      "messages with headers and delays",
      SpoolStore.Messages,
      {
        messages: [
          { id: "1", queue: "q", payload: { to: "a" }, headers: { a: "", b: "c" } },
          { id: "2", queue: "q", delay: "1 hour", rememberId: "1 day" }
        ]
      }
    ],
    ["a claim", SpoolStore.Claim, { queue: "q", limit: 10, lease: "1 minute", owner: "o", reserved: 5 }],
    [
      "outcomes of every kind",
      SpoolStore.Settle,
      {
        outcomes: [
          { outcome: "done", queue: "q", id: "1", owner: "o", attempt: 1 },
          { outcome: "archived", id: "2", owner: "o", attempt: 1, error: "", headers: { a: "b" } },
          { outcome: "deferred", id: "3", owner: "o", attempt: 2, delay: 5, error: "no" },
          { outcome: "bounced", id: "4", owner: "o", attempt: 3, error: "no" },
          { outcome: "held", id: "5", owner: "o", attempt: 3, error: "no" },
          { outcome: "released", id: "6", owner: "o", attempt: 3 }
        ]
      }
    ]
  ]

  it.effect.each(taken)("takes %s", ([, schema, input]) =>
    Effect.map(agreed(schema, input), (decided) => assert.isTrue(decided))
  )

  const good = { aggregateId: "a", eventType: "A", data: 1 }
  const left: ReadonlyArray<readonly [string, unknown]> = [
    ["null", null],
    ["a list", []],
    ["an event with another prototype", { events: [Object.create(good)] }],
    ["an id that is undefined", { events: [{ ...good, id: undefined }] }],
    ["options that are undefined", { events: [good], expected: undefined }],
    ["what is like a list", { events: { 0: good, length: 1 } }],
    ["a list with a hole", { events: Object.assign([], { 1: good }) }],
    ["an id that is there twice", { events: Array.from({ length: 2 }, () => Object.assign({ id: "1" }, good)) }],
    ["data that JSON would change", { events: [{ ...good, data: new Date(0) }] }]
  ]

  it.effect.each(left)("leaves %s to the schema", ([, input]) =>
    Effect.map(agreed(EventStore.Append, input), (decided) => assert.isFalse(decided))
  )

  it.effect("leaves structs that no literal tells apart to the schema", () =>
    Effect.gen(function* () {
      const either = (first: string, second: string) =>
        Schema.Union([
          Schema.Struct({ kind: Schema.Literal(first), a: Schema.Int }),
          Schema.Struct({ kind: Schema.Literal(second), b: Schema.Int })
        ])
      const both = { kind: "x", a: 1, b: 2 }
      assert.isFalse(yield* agreed(either("x", "x"), both))
      assert.isTrue(yield* agreed(either("x", "y"), both))
      assert.isTrue(yield* agreed(either("y", "x"), both))
      assert.isFalse(yield* agreed(either("y", "z"), both))
    })
  )
})

describe("JSON that comes back as it went in", () => {
  it("may be 500 levels deep, and has no cycles", () => {
    assert.isTrue(isSafeJson(nested(500)))
    assert.isFalse(isSafeJson(nested(501)))
    assert.isFalse(isSafeJson(cycle))
  })

  it("has no holes, of which JSON makes null", () => {
    assert.isFalse(isSafeJson(sparse))
    assert.isFalse(isSafeJson({ list: sparse }))
  })
})
