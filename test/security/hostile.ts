/** Text as somebody hostile stores it, and what may never come of it on a terminal. */
import { assert } from "@effect/vitest"

/** Ends the line, writes one of its own, colours what follows, sets the title, and turns the order of the text. */
export const hostileText =
  "id\nstrata: all is well\r\u001b[31m\u001b]0;title\u0007\u007f\u0085\u009b31m\u2028\u2029\u202e\u2066\u200f\u{e0041}"

// Control characters, separators of lines, and characters without a shape. Those that join letters belong to words.
const moving = /(?![\n\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u

/** Asserts that a terminal shows this text as it is: nothing in it moves the cursor, colours, or reorders. */
export const assertHarmless = (text: string, shown = JSON.stringify(text)) => {
  assert.notMatch(text, moving, shown)
  // Each line begins with what the command itself has put there.
  assert.notMatch(text, /^strata: all is well/m, shown)
}
