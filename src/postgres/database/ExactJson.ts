/**
 * JSON as text whose numbers JavaScript can hold: those that it prints back as the same number, however large they are.
 * `JSON.parse` rounds the others and says nothing.
 */
import { Effect, Schema, SchemaIssue, SchemaTransformation } from "effect"
import { isTooDeep, maxLevels, maxNumberLength } from "../../internal/JsonText.ts"

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

/** The first number of a valid JSON text that `JSON.parse` would change. */
const inexactNumber = (json: string): string | undefined => {
  if (!mayBeInexact(json)) return undefined
  let inexact: string | undefined
  JSON.parse(json, (_key, value: unknown, origin?: Origin) => {
    if (typeof value === "number" && origin?.source !== undefined && !isExact(value, origin.source)) {
      inexact ??= origin.source
    }
    return value
  })
  return inexact
}

/** Why a valid JSON text cannot be used as it is. The reviver goes through a value by recursion. */
const faultOf = (json: string): string | undefined => {
  if (isTooDeep(json)) return `JSON of more than ${maxLevels} levels`
  const number = inexactNumber(json)
  return number === undefined ? undefined : `JavaScript cannot hold the number ${shorten(number)}`
}

const parse = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Unknown))

const isJson = (value: unknown): value is Schema.Json => value !== undefined

/** What `JSON.parse` has returned is JSON: it need not be looked through again. */
const Parsed = Schema.declare(isJson, { expected: "JSON" })

/** JSON as text of at most 500 levels, if JavaScript can hold all of its numbers. */
export const ExactJson = Schema.String.pipe(
  Schema.decodeTo(
    Parsed,
    SchemaTransformation.transformEffect({
      decode: (text: string) =>
        Effect.matchEffect(parse(text), {
          onFailure: ({ issue }) => Effect.fail(issue),
          onSuccess: (value) => {
            const message = faultOf(text)
            return message === undefined
              ? Effect.succeed(isJson(value) ? value : null)
              : Effect.fail(new SchemaIssue.InvalidValue({ message }))
          }
        }),
      encode: (value: Schema.Json) => Effect.succeed(JSON.stringify(value))
    })
  )
)

/** The JSON of a column, or nothing if the schema has to say what is wrong with it. */
export const parseExact = (text: string | null): Schema.Json | undefined => {
  if (text === null) return null
  try {
    const value: Schema.Json = JSON.parse(text)
    return isTooDeep(text) || inexactNumber(text) !== undefined ? undefined : value
  } catch {
    return undefined
  }
}
