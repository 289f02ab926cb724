/** Which texts from elsewhere are times and JSON that Postgres can store. */
import { assert, describe, it } from "@effect/vitest"
import { faultOf, timestampOf } from "../../src/cli/transfer/StorableValues.ts"

describe("a time", () => {
  it.each([
    // SQLite writes the first of these, in UTC, and Go's drivers the others.
    ["2025-08-16 22:00:00", "2025-08-16T22:00:00.000000Z"],
    ["2025-08-16 22:00:00.1", "2025-08-16T22:00:00.100000Z"],
    ["2025-08-16 22:00:00.123456789+10:00", "2025-08-16T22:00:00.123456+10:00"],
    ["2025-08-16 22:00:00.123456789 +0000 UTC", "2025-08-16T22:00:00.123456Z"],
    ["2025-08-16 22:00:00 -0330 -0330", "2025-08-16T22:00:00.000000-03:30"],
    ["2025-08-16T22:00:00.123Z", "2025-08-16T22:00:00.123000Z"],
    ["2025-08-16", "2025-08-16T00:00:00.000000Z"],
    [1755381600n, "2025-08-16T22:00:00.000Z"],
    [1755381600123n, "2025-08-16T22:00:00.123Z"]
  ])("%s is %s", (text, expected) => {
    const time = timestampOf(text)
    assert.isDefined(time)
    assert.strictEqual(time?.replace("+00:00", "Z"), expected)
  })

  it.each(["infinity", "-infinity"])("%s is a time of Postgres's, as it is", (value) => {
    assert.strictEqual(timestampOf(value), value)
  })

  it.each(["", "now", "22:00:00", "2025-13-01", "2025-08-16 25:00:00", "16.08.2025", null, true, 1e300])(
    "%s is no time",
    (value) => {
      assert.isUndefined(timestampOf(value))
    }
  )
})

describe("JSON", () => {
  it.each([
    [String.raw`{"a":["\u0000"]}`, false],
    [String.raw`{"\u0000":1}`, false],
    [String.raw`["\ud800"]`, false],
    [`["\ud800"]`, false],
    [String.raw`["\ud83d\ude00"]`, true],
    [String.raw`["\\u0000"]`, true],
    [`["\u0001 😀"]`.replace("\u0001", String.raw`\u0001`), true]
  ])("%s can be stored: %s", (text, expected) => {
    assert.strictEqual(faultOf(text, () => JSON.parse(text), { maxBytes: 1000 }) === undefined, expected)
  })
})
