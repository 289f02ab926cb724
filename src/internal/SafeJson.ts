/** JSON that comes back as it went in: from Postgres's `jsonb`, and through `JSON.parse`. */
import { Effect, Predicate, Schema, SchemaIssue } from "effect"
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

const isPlainObject = (value: unknown): value is object => {
  if (typeof value !== "object" || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const boundOfObject = (value: object, levelsLeft: number, integers: LargeIntegers): number => {
  if (!isPlainObject(value)) return unsafe
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

const isObject = (value: unknown): boolean => Predicate.isObject(value) && !Array.isArray(value)

// What is wrong

/** The first part of a value that is no JSON of that kind: its path, and what was found there. */
interface Fault {
  readonly path: ReadonlyArray<string | number>
  readonly found: string
}

const tooDeep: Fault = { path: [], found: `more than ${maxLevels} levels, or a cycle` }

const textFault = (text: string) => (text.includes("\u0000") ? "a NUL character" : "half of a surrogate pair")

const kindOf = (value: unknown): string => {
  if (value === null) return "null"
  if (Array.isArray(value)) return "an array"
  switch (typeof value) {
    case "undefined":
      return "undefined"
    case "string":
      return isText(value) ? "a string" : `a string with ${textFault(value)}`
    case "number":
      return Number.isFinite(value) ? "a number" : String(value)
    case "object": {
      const prototype: unknown = Object.getPrototypeOf(value)
      const made = Predicate.hasProperty(prototype, "constructor") ? prototype.constructor : undefined
      return typeof made === "function" && made.name !== "" ? `an instance of ${made.name}` : "an instance of a class"
    }
    case "bigint":
      return "a bigint, which the option largeIntegers of the layer allows"
    default:
      return `a ${typeof value}`
  }
}

/** The fault of a part, seen from what it is a part of. */
const within = (key: string | number, fault: Fault | undefined): Fault | undefined =>
  fault === undefined || fault === tooDeep ? fault : { path: [key, ...fault.path], found: fault.found }

const faultOf = (value: unknown, levelsLeft: number, integers: LargeIntegers): Fault | undefined => {
  if (!Array.isArray(value) && !isPlainObject(value)) {
    return boundOf(value, levelsLeft, integers) === unsafe ? { path: [], found: kindOf(value) } : undefined
  }
  if (levelsLeft === 0) return tooDeep
  for (const key of Array.isArray(value) ? value.keys() : Object.keys(value)) {
    if (!isText(String(key))) return { path: [], found: `a key with ${textFault(String(key))}` }
    const fault = within(key, faultOf(Reflect.get(value, key), levelsLeft - 1, integers))
    if (fault !== undefined) return fault
  }
  return undefined
}

// Schemas

interface Wanted {
  readonly integers: LargeIntegers
  readonly maxBytes?: number
}

const expecting = (expected: string, found: string) =>
  new SchemaIssue.InvalidValue({ message: `Expected ${expected}, found ${found}` })

/** What is wrong with a value that is not as wanted. */
const issueOf = (value: unknown, wanted: Wanted): SchemaIssue.Issue => {
  const fault = faultOf(value, maxLevels, wanted.integers)
  if (fault === undefined) return expecting(`JSON${sizeOf(wanted)}`, `${jsonbBytes(toText(value))} bytes`)
  const issue = expecting("JSON", fault.found)
  return fault.path.length === 0 ? issue : new SchemaIssue.Pointer(fault.path, issue)
}

const isUpTo = (value: unknown, { integers, maxBytes }: Wanted): boolean => {
  const bound = boundOf(value, maxLevels, integers)
  return bound !== unsafe && (maxBytes === undefined || bound <= maxBytes || jsonbBytes(toText(value)) <= maxBytes)
}

const sizeOf = ({ maxBytes }: Wanted) => (maxBytes === undefined ? "" : ` of at most ${maxBytes} bytes`)

const json = (wanted: Wanted) => {
  const is = (value: unknown): value is Schema.Json => isUpTo(value, wanted)
  const expected = `JSON${sizeOf(wanted)}`
  return Schema.declareConstructor<Schema.Json>()(
    [],
    () => (value) => (is(value) ? Effect.succeed(value) : Effect.fail(issueOf(value, wanted))),
    { expected }
  )
}

const jsonObject = (wanted: Wanted) => {
  const is = (value: unknown): value is Schema.JsonObject => isObject(value) && isUpTo(value, wanted)
  const expected = `a JSON object${sizeOf(wanted)}`
  return Schema.declareConstructor<Schema.JsonObject>()(
    [],
    () => (value) =>
      is(value)
        ? Effect.succeed(value)
        : Effect.fail(isObject(value) ? issueOf(value, wanted) : expecting("a JSON object", kindOf(value))),
    { expected }
  )
}

/** `SafeJson` for what is not read again, such as a filter: a `bigint` is a number with all of its digits. */
export const SafeJson = json({ integers: "bigint" })

export const SafeJsonObject = jsonObject({ integers: "bigint" })

/** Safe JSON that has at most so many bytes when it is read: as `jsonb` writes it, with spaces and without exponents. */
export const safeJsonUpTo = (maxBytes: number, integers: LargeIntegers = "fail") => json({ maxBytes, integers })

/** A safe JSON object that has at most so many bytes when it is read. */
export const safeJsonObjectUpTo = (maxBytes: number, integers: LargeIntegers = "fail") =>
  jsonObject({ maxBytes, integers })
