/** JSON as text whose numbers JavaScript can hold: `JSON.parse` rounds others without a word. */
import { Effect, Schema, SchemaIssue, SchemaTransformation } from "effect"

const isNumeral = (code: number): boolean => (code >= 48 && code <= 57) || code === 46

/** Written as JSON, a double has at most 17 digits, and up to 15 every decimal survives becoming one. */
const long = 16

/**
 * Whether so many digits and dots follow each other. One of them is then at a place that divides by their number, and only
 * those are looked at: a regular expression takes twice as long as `JSON.parse`, and this a tenth.
 */
const hasLongNumber = (json: string): boolean => {
  for (let place = 0; place < json.length; place += long) {
    if (!isNumeral(json.charCodeAt(place))) continue
    let start = place
    while (isNumeral(json.charCodeAt(start - 1))) start--
    let end = place + 1
    while (isNumeral(json.charCodeAt(end))) end++
    if (end - start >= long) return true
  }
  return false
}

/** The significant digits and their magnitude: what is the same in `1.50`, `15e-1` and `0.0015e3`. */
const canonical = (text: string): string => {
  const [mantissa = "", exponent = "0"] = text.toLowerCase().replace(/^-/, "").split("e")
  const [whole = "", fraction = ""] = mantissa.split(".")
  const digits = (whole + fraction).replace(/^0+/, "")
  const significant = digits.replace(/0+$/, "")
  const magnitude = Number(exponent) - fraction.length + digits.length
  return significant === "" ? "0" : `${significant}e${magnitude}`
}

const isExact = (text: string): boolean => {
  const value = Number(text)
  return Number.isInteger(value)
    ? Number.isSafeInteger(value) && canonical(text) === canonical(String(value))
    : Number.isFinite(value) && canonical(text) === canonical(String(value))
}

/** The first number that `JSON.parse` would change: an integer beyond 2^53, or one with more digits than a double has. */
const inexactNumber = (json: string): string | undefined => {
  if (!hasLongNumber(json)) return undefined
  // From string to string, as long digits inside of them are none of our business.
  for (let start = 0; start < json.length;) {
    const quote = json.indexOf('"', start)
    const end = quote === -1 ? json.length : quote
    for (const [number] of json.slice(start, end).matchAll(/-?[\d.]{16,}(?:[eE][+-]?\d+)?/g)) {
      if (!isExact(number)) return number
    }
    if (quote === -1) return undefined
    let closing = quote
    do {
      closing = json.indexOf('"', closing + 1)
    } while (closing !== -1 && isEscaped(json, closing))
    if (closing === -1) return undefined
    start = closing + 1
  }
  return undefined
}

/** Whether an odd number of backslashes is before this place. */
const isEscaped = (text: string, place: number): boolean => {
  let before = place
  while (text[before - 1] === "\\") before--
  return (place - before) % 2 === 1
}

const shorten = (number: string) => (number.length > 40 ? `${number.slice(0, 40)}..` : number)

const parse = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Unknown))

const isJson = (value: unknown): value is Schema.Json => value !== undefined

/** What `JSON.parse` returned: nothing to look through again. */
const Parsed = Schema.declare(isJson, { expected: "JSON" })

/** JSON as text, none of whose numbers would be rounded. */
export const ExactJson = Schema.String.pipe(
  Schema.decodeTo(
    Parsed,
    SchemaTransformation.transformEffect({
      decode: (text: string) => {
        const number = inexactNumber(text)
        return number === undefined
          ? Effect.mapBoth(parse(text), {
              onSuccess: (value) => (isJson(value) ? value : null),
              onFailure: ({ issue }) => issue
            })
          : Effect.fail(
              new SchemaIssue.InvalidValue({ message: `JavaScript cannot hold the number ${shorten(number)}` })
            )
      },
      encode: (value: Schema.Json) => Effect.succeed(JSON.stringify(value))
    })
  )
)

/** The JSON of a column, or nothing if the schema has to say what is wrong with it. */
export const parseExact = (text: string | null): Schema.Json | undefined => {
  if (text === null) return null
  if (inexactNumber(text) !== undefined) return undefined
  try {
    const value: Schema.Json = JSON.parse(text)
    return value
  } catch {
    return undefined
  }
}
