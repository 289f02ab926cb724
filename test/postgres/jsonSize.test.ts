/** How long the text of `jsonb` is at most, as it is told from the JSON that is sent. */
import { assert, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import { jsonbBytes } from "../../src/internal/JsonText.ts"
import { isSafeJson, safeJsonUpTo } from "../../src/internal/SafeJson.ts"
import { withConnection } from "../support/connection.ts"
import { postgresUrl } from "../support/database.ts"

/** What makes `jsonb` text longer or shorter than that of JavaScript. */
const special: ReadonlyArray<Schema.Json> = [
  1e300,
  -Number.MAX_VALUE,
  5e-324,
  -2.2250738585072014e-308,
  1.2345e-7,
  1e21,
  123456789012345680000,
  0.1 + 0.2,
  'é🐘\u0001\n"\\,:1e300',
  { 'a,:\\"': [[], {}, true, false, null], "1e21": [1, [2, [3]]] },
  Array.from({ length: 100 }, (_, index) => index)
]

const json = Arbitrary.array(
  Arbitrary.map(
    Arbitrary.all({
      any: Arbitrary.schema(Schema.Json),
      which: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 * special.length })))
    }),
    ({ any, which }): Schema.Json => special[which] ?? any
  ),
  { minLength: 1, maxLength: 20 }
)

it.live.prop(
  "is never less than it is",
  [json],
  ([value]) =>
    Effect.gen(function* () {
      if (!isSafeJson(value)) return
      const text = JSON.stringify(value)
      const [[bytes] = []] = yield* withConnection(
        postgresUrl,
        (sql) => sql`SELECT octet_length(${text}::text::jsonb::text)`.values
      )
      const bound = jsonbBytes(text)
      assert.isAtLeast(bound, Number(bytes))
      // What is refused at once by its bound is looked at closely: the two say the same.
      assert.isTrue(Schema.is(safeJsonUpTo(bound))(value))
      assert.isFalse(Schema.is(safeJsonUpTo(bound - 1))(value))
    }),
  { arbitrary: { runs: 100, seed: 5 } }
)

it("counts the spaces", () => {
  assert.strictEqual(jsonbBytes(JSON.stringify([0, 0, { a: 1, b: ":,é" }])), `[0, 0, {"a": 1, "b": ":,é"}]`.length + 1)
})
