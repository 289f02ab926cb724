/** Arguments that are checked by hand: never otherwise than their schemas check them. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Clock, Effect, Schema } from "effect"
import { DurableStateStore, EventStore } from "effect-strata"

/** What may be given for any part, for better or worse. */
const values = Arbitrary.schema(
  Schema.Union([
    Schema.Undefined,
    Schema.Null,
    Schema.String,
    Schema.Number,
    Schema.BigInt,
    Schema.Uint8Array,
    Schema.Json,
    Schema.Literals(["", "\0", "\ud800", "a".repeat(255), "a".repeat(256), "a".repeat(513), "😀".repeat(300)]),
    Schema.Literals([-1n, 2n ** 63n, 2n ** 63n - 1n])
  ])
)

/** An object of which one part in some is replaced, taken away or added. */
const spoiled = (parts: Readonly<Record<string, Arbitrary.Arbitrary<unknown>>>, others: ReadonlyArray<string>) => {
  const names = [...Object.keys(parts), ...others]
  return Arbitrary.map(
    Arbitrary.all({
      ...parts,
      $dice: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 * names.length }))),
      $value: values
    }),
    ({ $dice, $value, ...good }: Readonly<Record<string, unknown>>): Record<string, unknown> => {
      const name = names[Number($dice)]
      if (name === undefined) return good
      const { [name]: _, ...rest } = good
      return $value === null ? rest : { ...rest, [name]: $value }
    }
  )
}

const id = Arbitrary.schema(Schema.NonEmptyString)
const version = Arbitrary.schema(DurableStateStore.VersionNumber)

const events = Arbitrary.map(
  Arbitrary.all([
    spoiled({ aggregateId: id, eventType: id, data: Arbitrary.schema(Schema.Json) }, ["id", "metadata", "more"]),
    spoiled({ aggregateId: id, eventType: id, data: Arbitrary.schema(Schema.Json), metadata: values }, [])
  ]),
  (both) => both
)

const appends = Arbitrary.map(
  Arbitrary.all({ events, other: spoiled({}, ["expected", "onDuplicate", "more"]), dice: id }),
  ({ dice, events: [first, second], other }): Record<string, unknown> => ({
    events: dice.length % 4 === 0 ? [first, second] : [dice.length % 2 === 0 ? first : second],
    ...other
  })
)

const states = spoiled(
  {
    persistenceId: id,
    versionNumber: version,
    payload: Arbitrary.schema(Schema.Uint8Array),
    manifest: id
  },
  ["timestamp", "shard", "onDuplicate", "more"]
)

/** A schema of arguments that has a way around itself. */
interface Checked {
  plain(input: unknown, clock: Clock.Clock): object | undefined
  makeEffect(input: unknown): Effect.Effect<object, unknown>
}

/** Whether the input went the short way, which must end where the schema's does. */
const agreed = Effect.fnUntraced(function* (schema: Checked, input: unknown) {
  const plain = schema.plain(input, yield* Clock.Clock)
  if (plain === undefined) return false
  // Of which class they are does not matter.
  const [short, long] = structuredClone([plain, yield* Effect.orDie(schema.makeEffect(input))])
  assert.deepStrictEqual(short, long)
  return true
})

const cases: ReadonlyArray<readonly [string, Checked, Arbitrary.Arbitrary<unknown>]> = [
  ["an append", EventStore.Append, appends],
  ["the id of an event", EventStore.ById, spoiled({ id }, ["more"])],
  ["a state", DurableStateStore.Write, states],
  ["the id of a state", DurableStateStore.ById, spoiled({ persistenceId: id }, ["more"])]
]

describe("what is checked by hand", () => {
  for (const [name, schema, inputs] of cases) {
    let short = 0
    let others = 0
    it.effect.prop(
      `is what the schema makes of it: ${name}`,
      [inputs],
      ([input]) => Effect.map(agreed(schema, input), (plain) => (plain ? short++ : others++)),
      { arbitrary: { runs: 2000, seed: 5 } }
    )
    it(`is a good part of what there is, and not all: ${name}`, () => {
      assert.isAbove(short, 100)
      assert.isAbove(others, 100)
    })
  }

  it.effect("is left to the schema where it is not what it seems", () =>
    Effect.gen(function* () {
      class Event {
        readonly aggregateId = "a"
        readonly eventType = "Happened"
        get data() {
          return { text: "not its own" }
        }
      }
      const good = { aggregateId: "a", eventType: "Happened", data: 1 }
      for (const event of [
        new Event(),
        Object.create(good),
        { ...good, id: undefined },
        { ...good, data: new Date() }
      ]) {
        assert.isUndefined(EventStore.Append.plain({ events: [event] }))
      }
      for (const input of [
        null,
        [],
        "a",
        { events: { 0: good, length: 1 } },
        { events: [good], expected: undefined }
      ]) {
        assert.isUndefined(EventStore.Append.plain(input))
      }
      assert.isTrue(yield* agreed(EventStore.Append, { events: [good] }))
    })
  )
})
