/** JSON comes back as it was written, whatever keys its objects have, and whatever objects were parsed before. */
import { assert, describe, it } from "@effect/vitest"
import { fromText, parseExact, toText } from "../../src/internal/ExactJson.ts"

const keys = [
  "a",
  "zz",
  " ",
  "\\",
  "\n",
  '"',
  "\u0001",
  "\ue000",
  "\ue0000",
  "__proto__",
  "x\\",
  "x\n",
  "x\\\\",
  "x\\y",
  "é"
]
const leaves = [1, 2 ** 60, "text", '"key": ', "\\", "back\\slash\n", null, true]

/** Numbers from 0 to 1 that follow from the seed. */
const numbersOf = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    const mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    const again = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((again ^ (again >>> 14)) >>> 0) / 2 ** 32
  }
}

const makeValue = (next: () => number) => {
  const pick = <A>(values: ReadonlyArray<A>, otherwise: A) => values[Math.floor(next() * values.length)] ?? otherwise
  const value = (level: number): unknown => {
    const kind = next()
    if (level > 4 || kind < 0.3) return pick<unknown>(leaves, null)
    const length = Math.floor(next() * 4)
    if (kind < 0.45) return Array.from({ length }, () => value(level + 1))
    return Object.fromEntries(Array.from({ length }, () => [pick(keys, ""), value(level + 1)]))
  }
  return () => value(0)
}

describe("JSON of objects with any keys", () => {
  it.each([1, 2, 3])("comes back as it was written, from seed %i", (seed) => {
    const value = makeValue(numbersOf(seed))
    for (let count = 0; count < 5000; count++) {
      const given = value()
      const text = toText(given)
      assert.strictEqual(toText(fromText(text)), text)
      assert.strictEqual(toText(parseExact(text, "fail")), text)
      assert.strictEqual(toText(fromText(JSON.stringify(given, null, 1))), text)
    }
  })

  it("comes back with spaces around its colons, too", () => {
    assert.deepStrictEqual(fromText('{"spaced":1,"\\\\":2}'), { spaced: 1, "\\": 2 })
    assert.deepStrictEqual(fromText('{ "spaced" : 1 , "\\n"\t\r\n : 2 }'), { spaced: 1, "\n": 2 })
  })

  it.each(['{"a\\', '{"a\\"', '{"a\\\\', '{"a\\n":1,"b\\', '"\\', "\\", '{"a\\n":1} "'])(
    "and text that is none fails: %s",
    (text) => {
      assert.throws(() => fromText(text), SyntaxError)
      assert.isUndefined(parseExact(text, "fail"))
    }
  )
})
