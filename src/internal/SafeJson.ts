/** JSON that comes back as it went in: from Postgres's `jsonb`, and through `JSON.parse`. */
import { Predicate, Schema } from "effect"
import { isText } from "./Fields.ts"

// Postgres parses `jsonb` by recursion, and so do most who read it: nobody needs more, and the stack ends somewhere.
const deepest = 500

// `within` holds the objects around the value: one that is among them closes a cycle.
const isSafe = (value: unknown, within: Set<object>): boolean => {
  switch (typeof value) {
    case "string":
      return isText(value)
    case "number":
      return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value))
    case "boolean":
      return true
    case "object": {
      if (value === null) return true
      if (within.has(value) || within.size === deepest) return false
      within.add(value)
      const safe = Array.isArray(value) ? value.every((item) => isSafe(item, within)) : isSafeObject(value, within)
      within.delete(value)
      return safe
    }
    default:
      return false
  }
}

const isSafeObject = (value: object, within: Set<object>): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return false
  for (const [key, item] of Object.entries(value)) if (!isText(key) || !isSafe(item, within)) return false
  return true
}

const expected =
  "JSON (no undefined, functions, class instances, cycles, NaN, bigint, integers beyond 2^53, NUL characters, lone surrogates or more than 500 levels)"

/**
 * A JSON value without what would change or fail on the way: no `undefined`, functions, class instances or cycles, which
 * `JSON.stringify` drops, rewrites or refuses; no integers beyond 2^53, which `JSON.parse` rounds; no NUL characters or lone
 * surrogates, which `jsonb` refuses; at most 500 levels.
 */
export const isSafeJson = (value: unknown): value is Schema.Json => isSafe(value, new Set())

export const SafeJson = Schema.declare(isSafeJson, { expected })

/** A JSON object of the same kind. */
export const isSafeJsonObject = (value: unknown): value is Schema.JsonObject =>
  Predicate.isObject(value) && !Array.isArray(value) && isSafe(value, new Set())

export const SafeJsonObject = Schema.declare(isSafeJsonObject, { expected: expected.replace("JSON", "a JSON object") })
