/** JSON that comes back as it went in: from Postgres's `jsonb`, and through `JSON.parse`. */
import { Predicate, Schema } from "effect"
import { isText } from "./Fields.ts"
import { jsonbBytes, maxLevels } from "./JsonText.ts"

/** What a value has for a size if it is no JSON that comes back as it went in. */
const unsafe = -1

/** The longest number that is written without an exponent, and the longest of the others once `jsonb` writes its digits. */
const plainNumberBytes = 26
const longestNumberBytes = 340

/** The longest escape of a character, `\u0001`. */
const characterBytes = 6

/**
 * How long a value can be as the text of `jsonb`, at most, or `unsafe`. This is cheap, and far too much for most values: it
 * takes each character for one that has to be escaped.
 */
const boundOf = (value: unknown, levelsLeft: number): number => {
  switch (typeof value) {
    case "string":
      return isText(value) ? 2 + value.length * characterBytes : unsafe
    case "number": {
      if (!Number.isFinite(value)) return unsafe
      const magnitude = Math.abs(value)
      return magnitude === 0 || (magnitude >= 1e-6 && magnitude < 1e21) ? plainNumberBytes : longestNumberBytes
    }
    case "boolean":
      return 5
    case "object":
      if (value === null) return 4
      // A cycle is found by the same limit: it has no end.
      if (levelsLeft === 0) return unsafe
      return Array.isArray(value) ? boundOfArray(value, levelsLeft - 1) : boundOfObject(value, levelsLeft - 1)
    default:
      return unsafe
  }
}

// It goes by index, so that it reads a hole as `undefined`, and refuses it: `JSON.stringify` would make null of the hole.
const boundOfArray = (items: ReadonlyArray<unknown>, levelsLeft: number): number => {
  let bound = 2
  for (let index = 0; index < items.length; index++) {
    const size = boundOf(items[index], levelsLeft)
    if (size === unsafe) return unsafe
    bound += size + 2
  }
  return bound
}

const boundOfObject = (value: object, levelsLeft: number): number => {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return unsafe
  let bound = 2
  for (const key of Object.keys(value)) {
    const size = isText(key) ? boundOf(Reflect.get(value, key), levelsLeft) : unsafe
    if (size === unsafe) return unsafe
    bound += size + 6 + key.length * characterBytes
  }
  return bound
}

/**
 * Whether a value is JSON that neither changes nor fails on the way: no `undefined`, holes, functions, class instances or
 * cycles, which `JSON.stringify` drops, rewrites or refuses; no NUL characters or lone surrogates, which `jsonb` refuses; at
 * most 500 levels. Every finite number is fine: the text that JavaScript prints for it is read as the same number, also
 * beyond 2^53. Other programs read that text, which for 2^60 is 1152921504606847000.
 */
export const isSafeJson = (value: unknown): value is Schema.Json => boundOf(value, maxLevels) !== unsafe

/** Whether a value is a JSON object of that kind. */
export const isSafeJsonObject = (value: unknown): value is Schema.JsonObject => isObject(value) && isSafeJson(value)

const isObject = (value: unknown): boolean => Predicate.isObject(value) && !Array.isArray(value)

const rules = `(no undefined, functions, class instances, cycles, NaN, infinite numbers, bigint, NUL characters, lone surrogates or more than ${maxLevels} levels)`

export const SafeJson = Schema.declare(isSafeJson, { expected: `JSON ${rules}` })

export const SafeJsonObject = Schema.declare(isSafeJsonObject, { expected: `a JSON object ${rules}` })

/** Whether a value is such JSON, and has at most so many bytes as the text of `jsonb`. */
const isUpTo = (value: unknown, maxBytes: number): boolean => {
  const bound = boundOf(value, maxLevels)
  return bound !== unsafe && (bound <= maxBytes || jsonbBytes(JSON.stringify(value)) <= maxBytes)
}

/** `SafeJson` that has at most so many bytes when it is read: as `jsonb` writes it, with spaces and without exponents. */
export const safeJsonUpTo = (maxBytes: number) =>
  Schema.declare((value: unknown): value is Schema.Json => isUpTo(value, maxBytes), {
    expected: `JSON of at most ${maxBytes} bytes ${rules}`
  })

/** `SafeJsonObject` that has at most so many bytes when it is read. */
export const safeJsonObjectUpTo = (maxBytes: number) =>
  Schema.declare((value: unknown): value is Schema.JsonObject => isObject(value) && isUpTo(value, maxBytes), {
    expected: `a JSON object of at most ${maxBytes} bytes ${rules}`
  })
