/** JSON that comes back as it went in: from Postgres's `jsonb`, and through `JSON.parse`. */
import { Predicate, Schema } from "effect"
import { type LargeIntegers, toText } from "./ExactJson.ts"
import { isText } from "./Fields.ts"
import { jsonbBytes, maxLevels, maxNumberLength } from "./JsonText.ts"

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
const boundOf = (value: unknown, levelsLeft: number, integers: LargeIntegers): number => {
  switch (typeof value) {
    case "bigint": {
      if (integers === "fail") return unsafe
      const { length } = String(value)
      return length <= maxNumberLength ? length : unsafe
    }
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
      return Array.isArray(value)
        ? boundOfArray(value, levelsLeft - 1, integers)
        : boundOfObject(value, levelsLeft - 1, integers)
    default:
      return unsafe
  }
}

// It goes by index, so that it reads a hole as `undefined`, and refuses it: `JSON.stringify` would make null of the hole.
const boundOfArray = (items: ReadonlyArray<unknown>, levelsLeft: number, integers: LargeIntegers): number => {
  let bound = 2
  for (let index = 0; index < items.length; index++) {
    const size = boundOf(items[index], levelsLeft, integers)
    if (size === unsafe) return unsafe
    bound += size + 2
  }
  return bound
}

const boundOfObject = (value: object, levelsLeft: number, integers: LargeIntegers): number => {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return unsafe
  let bound = 2
  for (const key of Object.keys(value)) {
    const size = isText(key) ? boundOf(Reflect.get(value, key), levelsLeft, integers) : unsafe
    if (size === unsafe) return unsafe
    bound += size + 6 + key.length * characterBytes
  }
  return bound
}

/**
 * Whether a value is JSON that neither changes nor fails on the way: no `undefined`, holes, functions, class instances or
 * cycles, which `JSON.stringify` drops, rewrites or refuses; no NUL characters or lone surrogates, which `jsonb` refuses; at
 * most 500 levels. Every finite number is fine: the text that JavaScript prints for it is read as the same number, also
 * beyond 2^53. Other programs read that text, which for 2^60 is 1152921504606847000. A `bigint` is fine where reads give
 * large integers as `bigint`.
 */
export const isSafeJson = (value: unknown, integers: LargeIntegers = "fail"): value is Schema.Json =>
  boundOf(value, maxLevels, integers) !== unsafe

/** Whether a value is a JSON object of that kind. */
export const isSafeJsonObject = (value: unknown, integers: LargeIntegers = "fail"): value is Schema.JsonObject =>
  isObject(value) && isSafeJson(value, integers)

const isObject = (value: unknown): boolean => Predicate.isObject(value) && !Array.isArray(value)

const others = `NUL characters, lone surrogates or more than ${maxLevels} levels`
const rules = {
  fail: `(no undefined, functions, class instances, cycles, NaN, infinite numbers, bigint, ${others})`,
  bigint: `(no undefined, functions, class instances, cycles, NaN, infinite numbers, ${others})`
}

/** `SafeJson` for what is not read again, such as a filter: a `bigint` is a number with all of its digits. */
export const SafeJson = Schema.declare((value: unknown): value is Schema.Json => isSafeJson(value, "bigint"), {
  expected: `JSON ${rules.bigint}`
})

export const SafeJsonObject = Schema.declare(
  (value: unknown): value is Schema.JsonObject => isSafeJsonObject(value, "bigint"),
  { expected: `a JSON object ${rules.bigint}` }
)

/** Whether a value is such JSON, and has at most so many bytes as the text of `jsonb`. */
const isUpTo = (value: unknown, maxBytes: number, integers: LargeIntegers): boolean => {
  const bound = boundOf(value, maxLevels, integers)
  return bound !== unsafe && (bound <= maxBytes || jsonbBytes(toText(value)) <= maxBytes)
}

/** Safe JSON that has at most so many bytes when it is read: as `jsonb` writes it, with spaces and without exponents. */
export const safeJsonUpTo = (maxBytes: number, integers: LargeIntegers = "fail") =>
  Schema.declare((value: unknown): value is Schema.Json => isUpTo(value, maxBytes, integers), {
    expected: `JSON of at most ${maxBytes} bytes ${rules[integers]}`
  })

/** A safe JSON object that has at most so many bytes when it is read. */
export const safeJsonObjectUpTo = (maxBytes: number, integers: LargeIntegers = "fail") =>
  Schema.declare((value: unknown): value is Schema.JsonObject => isObject(value) && isUpTo(value, maxBytes, integers), {
    expected: `a JSON object of at most ${maxBytes} bytes ${rules[integers]}`
  })
