/**
 * JSON as text whose numbers JavaScript can hold: those that it prints back as the same number, however large they are.
 * `JSON.parse` rounds the others and says nothing, and it takes some keys for others: see `EscapedKeys`.
 */
import { Effect, Predicate, Schema, SchemaIssue, SchemaTransformation } from "effect"
import { hasEscapedKey, renameEscapedKeys } from "./EscapedKeys.ts"
import { isTooDeep, maxLevels, maxNumberLength } from "./JsonText.ts"

const isDigitOrDot = (code: number): boolean => (code >= 48 && code <= 57) || code === 46

/** A number with fewer digits and dots is exact: every decimal of up to 15 digits survives becoming a double. */
const suspiciousLength = 16

/**
 * Whether there may be a number with so many digits and dots. One of them is then at a place that is a multiple of
 * `suspiciousLength`, and only these places are looked at: a regular expression takes twice as long as `JSON.parse`, and
 * this a tenth. Digits beside a quote belong to a string, as those of most long ids do; `JSON.parse` decides about the rest.
 */
const mayBeInexact = (json: string): boolean => {
  for (let place = 0; place < json.length; place += suspiciousLength) {
    if (!isDigitOrDot(json.charCodeAt(place))) continue
    let start = place
    while (isDigitOrDot(json.charCodeAt(start - 1))) start--
    let end = place + 1
    while (isDigitOrDot(json.charCodeAt(end))) end++
    if (end - start >= suspiciousLength && json[start - 1] !== '"' && json[end] !== '"') return true
    // Each digit is looked at once, however many there are.
    place = end - (end % suspiciousLength)
  }
  return false
}

/** The significant digits and their magnitude: what is the same in `1.50`, `15e-1` and `0.0015e3`. */
const canonical = (text: string): string => {
  const [mantissa = "", exponent = "0"] = text.toLowerCase().replace(/^-/, "").split("e")
  const [whole = "", fraction = ""] = mantissa.split(".")
  const digits = whole + fraction
  let start = 0
  while (digits[start] === "0") start++
  let end = digits.length
  while (end > start && digits[end - 1] === "0") end--
  const magnitude = Number(exponent) + whole.length - start
  return start === end ? "0" : `${digits.slice(start, end)}e${magnitude}`
}

const isExact = (value: number, source: string): boolean => {
  if (source.length > maxNumberLength) return false
  const text = String(value)
  return Number.isFinite(value) && (text === source || canonical(text) === canonical(source))
}

const shorten = (number: string) => (number.length > 40 ? `${number.slice(0, 40)}..` : number)

/** What a reviver is told of a value beside its key. TypeScript does not know it yet. */
interface Origin {
  /** The text of the value, unless it is an array or an object. */
  readonly source?: string
}

/** What becomes of integers that are no JavaScript number: reading them fails, or they are `bigint`. */
export type LargeIntegers = "fail" | "bigint"

const isInteger = (source: string): boolean => source.length <= maxNumberLength && /^-?\d+$/.test(source)

/** A JSON value, and the first number of its text that cannot be held. */
interface WithCare {
  readonly value: Schema.Json
  readonly inexact: string | undefined
}

/** Whether `JSON.parse` may change a valid text: a number, or a key. */
const needsCare = (json: string): boolean => mayBeInexact(json) || hasEscapedKey(json)

/** Parses a valid text that may have numbers or keys which `JSON.parse` would change. */
const parseWithCare = (json: string, integers: LargeIntegers): WithCare => {
  const renamed = hasEscapedKey(json) ? renameEscapedKeys(json) : undefined
  let inexact: string | undefined
  const value: Schema.Json = JSON.parse(renamed?.text ?? json, (_key, value: unknown, origin?: Origin) => {
    if (renamed !== undefined && Predicate.isObject(value)) return renamed.restore(value)
    const source = origin?.source
    if (typeof value !== "number" || source === undefined || isExact(value, source)) return value
    if (integers === "bigint" && isInteger(source)) return BigInt(source)
    inexact ??= source
    return value
  })
  return { value, inexact }
}

const parse = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Unknown))

const isJson = (value: unknown): value is Schema.Json => value !== undefined

/** What `JSON.parse` has returned is JSON: it need not be looked through again. */
const Parsed = Schema.declare(isJson, { expected: "JSON" })

const decode = (text: string, integers: LargeIntegers) =>
  Effect.matchEffect(parse(text), {
    onFailure: ({ issue }) => Effect.fail(issue),
    onSuccess: (plain) => {
      // What parses with care goes through the value by recursion.
      if (isTooDeep(text)) {
        return Effect.fail(new SchemaIssue.InvalidValue({ message: `JSON of more than ${maxLevels} levels` }))
      }
      if (!needsCare(text)) return Effect.succeed(isJson(plain) ? plain : null)
      const { inexact, value } = parseWithCare(text, integers)
      return inexact === undefined
        ? Effect.succeed(value)
        : Effect.fail(new SchemaIssue.InvalidValue({ message: cannotHold(inexact) }))
    }
  })

const cannotHold = (number: string): string => {
  const message = `JavaScript cannot hold the number ${shorten(number)}`
  return isInteger(number) ? `${message}; the option largeIntegers of the layer gives it as bigint` : message
}

const schemaOf = (integers: LargeIntegers) =>
  Schema.String.pipe(
    Schema.decodeTo(
      Parsed,
      SchemaTransformation.transformEffect({
        decode: (text: string) => decode(text, integers),
        encode: (value: Schema.Json) => Effect.succeed(toText(value))
      })
    )
  )

const schemas = { fail: schemaOf("fail"), bigint: schemaOf("bigint") }

/** JSON as text of at most 500 levels, if JavaScript can hold all of its numbers; with `"bigint"` it can hold every integer. */
export const exactJson = (integers: LargeIntegers) => schemas[integers]

/** The JSON of a column, or nothing if the schema has to say what is wrong with it. */
export const parseExact = (text: string | null, integers: LargeIntegers): Schema.Json | undefined => {
  if (text === null) return null
  try {
    const plain: Schema.Json = JSON.parse(text)
    if (isTooDeep(text)) return undefined
    if (!needsCare(text)) return plain
    const { inexact, value } = parseWithCare(text, integers)
    return inexact === undefined ? value : undefined
  } catch {
    return undefined
  }
}

/** Parses text that `toText` has made. */
export const fromText = (text: string): Schema.Json =>
  needsCare(text) ? parseWithCare(text, "bigint").value : JSON.parse(text)

/** Writes what `JSON.stringify` refuses to write: a `bigint`, as a number. */
const write = (value: unknown): string => {
  if (typeof value === "bigint") return String(value)
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`
  if (typeof value !== "object" || value === null) return JSON.stringify(value)
  return `{${Object.entries(value)
    .map(([key, part]) => `${JSON.stringify(key)}:${write(part)}`)
    .join(",")}}`
}

/** The text of JSON in which integers may be `bigint`: they become numbers, with all of their digits. */
export const toText = (value: unknown): string => {
  // Some programs teach JSON to write a bigint, as a text.
  if ("toJSON" in BigInt.prototype) return write(value)
  try {
    return JSON.stringify(value)
  } catch {
    return write(value)
  }
}

/** Makes a number of these digits for `JSON.stringify`. TypeScript does not know it yet. */
const rawNumber: (digits: string) => unknown = Reflect.get(JSON, "rawJSON")

/** The value for `JSON.stringify`: a `bigint` becomes a number with all of its digits. */
export const withDigits = (value: unknown): unknown => {
  if (typeof value === "bigint") return rawNumber(String(value))
  if (Array.isArray(value)) return value.map(withDigits)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, withDigits(part)]))
}

/** The integer as reads give it: a number where that is exact, as in the text of `JSON.stringify`. */
export const normalInteger = (integer: bigint): number | bigint =>
  isExact(Number(integer), String(integer)) ? Number(integer) : integer
