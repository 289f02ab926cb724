/** JSON that comes back as it went in: from Postgres's `jsonb`, and through `JSON.parse`. */
import { Predicate, Schema } from "effect"
import { isText } from "./Fields.ts"

// Postgres parses `jsonb` by recursion, and so do most programs that read it, so the stack must end somewhere. A cycle is
// found by the same limit: it has no end.
const maxLevels = 500

const isSafe = (value: unknown, levelsLeft: number): boolean => {
  switch (typeof value) {
    case "string":
      return isText(value)
    case "number":
      return Number.isFinite(value)
    case "boolean":
      return true
    case "object":
      if (value === null) return true
      if (levelsLeft === 0) return false
      return Array.isArray(value) ? isSafeArray(value, levelsLeft - 1) : isSafeObject(value, levelsLeft - 1)
    default:
      return false
  }
}

// By index, so that a hole is found as the `undefined` that it is read as: `JSON.stringify` makes null of it.
const isSafeArray = (items: ReadonlyArray<unknown>, levelsLeft: number): boolean => {
  for (let index = 0; index < items.length; index++) if (!isSafe(items[index], levelsLeft)) return false
  return true
}

const isSafeObject = (value: object, levelsLeft: number): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return false
  for (const key of Object.keys(value)) if (!isText(key) || !isSafe(Reflect.get(value, key), levelsLeft)) return false
  return true
}

const expected =
  "JSON (no undefined, functions, class instances, cycles, NaN, infinite numbers, bigint, NUL characters, lone surrogates or more than 500 levels)"

/**
 * Whether a value is JSON that neither changes nor fails on the way: no `undefined`, holes, functions, class instances or
 * cycles, which `JSON.stringify` drops, rewrites or refuses; no NUL characters or lone surrogates, which `jsonb` refuses; at
 * most 500 levels. Every finite number is fine: the text that JavaScript prints for it is read as the same number, also
 * beyond 2^53. Other programs read that text, which for 2^60 is 1152921504606847000.
 */
export const isSafeJson = (value: unknown): value is Schema.Json => isSafe(value, maxLevels)

export const SafeJson = Schema.declare(isSafeJson, { expected })

/** Whether a value is a JSON object of that kind. */
export const isSafeJsonObject = (value: unknown): value is Schema.JsonObject =>
  Predicate.isObject(value) && !Array.isArray(value) && isSafe(value, maxLevels)

export const SafeJsonObject = Schema.declare(isSafeJsonObject, { expected: expected.replace("JSON", "a JSON object") })
