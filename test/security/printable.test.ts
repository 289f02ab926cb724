/** Every character there is, on a terminal and in JSON. */
import { assert, describe, it } from "@effect/vitest"
import { printable, printableLines } from "../../src/cli/terminal/Printable.ts"
import { printableJson } from "../../src/internal/PrintableJson.ts"
import { assertHarmless, hostileText } from "./hostile.ts"

/** Each character, with a letter on both sides. */
const everything = Array.from({ length: 0x110000 }, (_, code) => String.fromCodePoint(code)).join("a")

describe("what is not printable", () => {
  it("no character of a text ends the line, and moves or colours what follows", () => {
    const shown = printable(everything)
    assertHarmless(shown, "a character is not printable")
    assert.isFalse(shown.includes("\n"))
  })

  it("JSON means the same", () => {
    const json = JSON.stringify(everything)
    const shown = printableJson(json)
    assertHarmless(shown, "a character is not printable")
    assert.isTrue(JSON.parse(shown) === everything)
  })

  it("words, emoji and accents stay as they are", () => {
    const words = "naïve 東京 می‌خواهم עברית 👩‍👩‍👧 ✓ “…”"
    assert.strictEqual(printable(words), words)
    assert.strictEqual(printable(hostileText.slice(0, 11)), String.raw`id\nstrata: `)
  })

  it("a text of several lines has them indented", () => {
    assert.strictEqual(printableLines("a\nstrata: b\u001b", "  "), "a\n  strata: b\\x1b")
  })
})
