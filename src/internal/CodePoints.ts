/** Text in the order of its code points. */
import type { Order } from "effect"

// By UTF-16 units, surrogates sort below U+E000, but they stand for code points above all others: their rank is raised.
const rank = (unit: number) => (unit >= 0xe000 ? unit - 0x800 : unit >= 0xd800 ? unit + 0x2000 : unit)

/** The order of text by code point: Postgres's `COLLATE "C"`. */
export const byCodePoint: Order.Order<string> = (a, b) => {
  const length = Math.min(a.length, b.length)
  for (let index = 0; index < length; index++) {
    const difference = rank(a.charCodeAt(index)) - rank(b.charCodeAt(index))
    if (difference !== 0) return difference < 0 ? -1 : 1
  }
  return a.length === b.length ? 0 : a.length < b.length ? -1 : 1
}
