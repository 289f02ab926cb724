/** How rows become events: nearly all by hand, and always as the schema of a row says. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, DateTime, Effect, Equal, Hash, Result, Schema } from "effect"
import { EventStore, StoreError } from "effect-strata"
import { eventDecoder, Row } from "../../src/postgres/events/EventRow.ts"

const decode = eventDecoder("events")
const decodeRow = Schema.decodeUnknownResult(Row)

const row = {
  version: 7n,
  id: "id",
  aggregateId: "a",
  eventType: "Happened",
  data: `{"text": "a", "__proto__": [1, 0.5, null]}`,
  metadata: `{"by": "me"}`,
  createdAt: new Date(1_763_715_600_123)
}

const made = new EventStore.StoredEvent({
  ...row,
  data: JSON.parse(row.data),
  metadata: { by: "me" },
  createdAt: DateTime.makeUnsafe(row.createdAt),
  streamName: "stream_a"
})

const json = Arbitrary.map(Arbitrary.schema(Schema.Json), (value) => JSON.stringify(value))

/** What can be in a column, for better or worse. */
const values = Arbitrary.schema(
  Schema.Union([
    Schema.Null,
    Schema.Undefined,
    Schema.String,
    Schema.Number,
    Schema.BigInt,
    Schema.Boolean,
    Schema.Date,
    Schema.Array(Schema.String)
  ])
)

const rows = Arbitrary.array(
  Arbitrary.map(
    Arbitrary.all({
      plain: Arbitrary.schema(
        Schema.Struct({
          version: EventStore.Version,
          id: Schema.String,
          aggregateId: Schema.String,
          eventType: Schema.String,
          createdAt: Schema.Date
        })
      ),
      data: json,
      metadata: Arbitrary.map(Arbitrary.schema(Schema.NullOr(Schema.JsonObject)), (value) => JSON.stringify(value)),
      // A third of the rows has another value in one column, a few of which fit.
      column: Arbitrary.schema(
        Schema.Literals(["version", "id", "aggregateId", "eventType", "data", "metadata", "createdAt"])
      ),
      dice: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))),
      value: values,
      text: json
    }),
    ({ column, data, dice, metadata, plain, text, value }): Record<string, unknown> => ({
      ...plain,
      data,
      metadata,
      ...(dice === 0 ? { [column]: value } : dice === 1 ? { [column]: text } : {})
    })
  ),
  { minLength: 1, maxLength: 4 }
)

describe("a row", () => {
  it("becomes what the constructor makes of its parts", () => {
    const { corrupt, events } = decode([row])
    assert.isUndefined(corrupt)
    assert.deepStrictEqual(events, [made])
    assert.strictEqual(Object.getPrototypeOf(events[0]), EventStore.StoredEvent.prototype)
    assert.isTrue(Equal.equals(events[0], made))
    assert.strictEqual(Hash.hash(events[0]), Hash.hash(made))
    assert.isTrue(Schema.is(EventStore.StoredEvent)(events[0]))
    assert.strictEqual(String(events[0]), String(made))
    assert.strictEqual(JSON.stringify(events[0]?.data), JSON.stringify(JSON.parse(row.data)))
  })

  it.effect.prop(
    "is decoded as the schema decodes it",
    [rows],
    ([rows]) =>
      Effect.sync(() => {
        const decoded = rows.map((row) => decodeRow(row))
        const first = decoded.findIndex(Result.isFailure)
        const good = (first === -1 ? decoded : decoded.slice(0, first)).flatMap((result) =>
          Result.isSuccess(result)
            ? [new EventStore.StoredEvent({ ...result.success, streamName: `stream_${result.success.aggregateId}` })]
            : []
        )
        const { corrupt, events } = decode(rows)
        assert.deepStrictEqual(events, good)
        assert.strictEqual(corrupt?.key, first === -1 ? undefined : String(rows[first]?.["version"]))
      }),
    { arbitrary: { runs: 1000, seed: 3 } }
  )

  it.each([
    ["version", -1n, "Expected a value greater than or equal to 0n"],
    ["version", 2n ** 63n, "Expected a 64-bit integer"],
    ["version", "7", "Expected bigint"],
    ["id", null, "Expected string"],
    ["aggregateId", null, "Expected string"],
    ["eventType", 1, "Expected string"],
    ["data", "{", "Expected a valid JSON string"],
    ["data", { parsed: true }, "Expected string | null"],
    ["metadata", "{", "Expected a valid JSON string"],
    ["metadata", "[1]", "Expected a JSON object or null"],
    ["createdAt", null, "Expected a valid Date"],
    ["createdAt", new Date(Number.NaN), "Expected a valid Date"]
  ])("with %s = %s does not fit", (column, value, says) => {
    const bad = { ...row, [column]: value }
    const { corrupt, events } = decode([row, bad, row])
    assert.deepStrictEqual(events, [made])
    assert.instanceOf(corrupt, StoreError.CorruptRow)
    assert.deepInclude(corrupt, { table: "events", key: String(bad.version) })
    const message = `row ${bad.version} of events does not fit the model (${column}: ${says}); mend or delete it`
    assert.strictEqual(corrupt?.message, message)
  })

  it("that is no row at all does not fit", () => {
    for (const value of [null, undefined, 7, "row", []]) {
      assert.strictEqual(decode([value]).corrupt?.key, "?")
    }
  })

  it("without data or metadata has null for them, as SQL's or as JSON's", () => {
    for (const data of [null, "null"]) {
      for (const metadata of [null, "null"]) {
        const { events } = decode([{ ...row, data, metadata }])
        assert.deepStrictEqual([events[0]?.data, events[0]?.metadata], [null, null])
      }
    }
  })
})

describe("a number in JSON", () => {
  const numbers = [
    ["123456789012345", true],
    ["0.1234567890123", true],
    ["9007199254740991", true],
    ["-9007199254740991", true],
    ["0.30000000000000004", true],
    ["1.0000000000000000000", true],
    ["9007199254740993", false],
    ["-9007199254740992", true],
    ["-9007199254740993", false],
    ["0.12345678901234567890", false],
    ["1234567890.12345678", false],
    ["9007199254740992", true],
    ["1764182234123456789", false],
    ["1764182234123456800", true],
    ["1152921504606846976", false],
    ["1152921504606847000", true],
    ["1000000000000000000000", true],
    ["1000000000000000000001", false],
    [`17976931348623157${"0".repeat(292)}`, true],
    [`17976931348623158${"0".repeat(292)}`, false],
    [`17976931348623159${"0".repeat(292)}`, false],
    ["0.1000000000000000055511151231257827", false],
    ["0.1000000000000000", true],
    ["-0.0000000000000000", true],
    ["100000000000000e5", true],
    ["1000000000000000E5", true],
    ["10000000000000000E-5", true],
    ["1000000000000000.5e400", false],
    [`1${"0".repeat(400)}`, false]
  ] as const

  // Wherever it begins, as only some places are looked at.
  const paddings = Array.from({ length: 40 }, (_, length) => " ".repeat(length))

  it.each(numbers)("%s can be held: %s", (number, fits) => {
    for (const padding of paddings) {
      for (const text of [padding + number, `${padding}{"9999999999999999": [${number}, 1]}`]) {
        for (const metadata of [null, `{"n": ${text}}`]) {
          const data = metadata === null ? text : null
          const { corrupt, events } = decode([{ ...row, data, metadata }])
          if (fits) assert.deepStrictEqual(events[0]?.data, JSON.parse(data ?? "null"))
          else assert.match(corrupt?.message ?? "", /^row 7 of events .* JavaScript cannot hold the number -?\d/)
          assert.strictEqual(events.length, fits ? 1 : 0)
        }
      }
    }
  })

  it("can be written in every way beside a long one", () => {
    const data = `{"9007199254740993": [0.30000000000000004, -0, 1E5, 1.50e-1, true, null, "1e400"]}`
    assert.deepStrictEqual(decode([{ ...row, data }]).events[0]?.data, {
      "9007199254740993": [0.30000000000000004, -0, 1e5, 0.15, true, null, "1e400"]
    })
    for (const number of ["1e400", "-1e400", "1e-400"]) {
      const { corrupt } = decode([{ ...row, data: `[0.30000000000000004, ${number}]` }])
      assert.include(corrupt?.message, `JavaScript cannot hold the number ${number}`)
    }
  })

  it.each(numbers)("%s inside of a string is none", (number) => {
    for (const padding of paddings) {
      const value = [
        `${padding}${number}`,
        `\\"${number}`,
        `${number}\\`,
        `"${number}"`,
        `x ${number} y`,
        `${number}\\"`
      ]
      assert.deepStrictEqual(decode([{ ...row, data: JSON.stringify(value) }]).events[0]?.data, value)
    }
  })
})
