/** JSON that comes back as it went in: from Postgres's `jsonb`, and through `JSON.parse`. */
import { Predicate, Schema } from "effect"

const isText = (text: string): boolean => !text.includes("\0") && text.isWellFormed()

// `within` holds the objects around the value: one that is among them closes a cycle.
const isSafe = (value: unknown, within: ReadonlyArray<unknown>): boolean => {
  switch (typeof value) {
    case "string":
      return isText(value)
    case "number":
      return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value))
    case "boolean":
      return true
    case "object": {
      if (value === null) return true
      if (within.includes(value)) return false
      const inside = [...within, value]
      if (Array.isArray(value)) return value.every((item) => isSafe(item, inside))
      const prototype: unknown = Object.getPrototypeOf(value)
      if (prototype !== Object.prototype && prototype !== null) return false
      return Object.entries(value).every(([key, item]) => isText(key) && isSafe(item, inside))
    }
    default:
      return false
  }
}

const expected =
  "JSON (no undefined, functions, class instances, cycles, NaN, bigint, integers beyond 2^53, NUL characters or lone surrogates)"

/**
 * A JSON value without what would change or fail on the way: no `undefined`, functions, class instances or cycles, which
 * `JSON.stringify` drops, rewrites or refuses; no integers beyond 2^53, which `JSON.parse` rounds; no NUL characters or lone
 * surrogates, which `jsonb` refuses.
 */
export const SafeJson = Schema.declare((value): value is Schema.Json => isSafe(value, []), { expected })

/** A JSON object of the same kind. */
export const SafeJsonObject = Schema.declare(
  (value): value is Schema.JsonObject => Predicate.isObject(value) && !Array.isArray(value) && isSafe(value, []),
  { expected: expected.replace("JSON", "a JSON object") }
)
