/** How a row of the table of events becomes an event. */
import { Effect, Schema, SchemaIssue, SchemaTransformation } from "effect"
import { StoredEvent } from "../EventStore.ts"

/** Written as JSON, a double has at most 17 digits, and up to 15 every decimal survives becoming one. */
const longNumber = /[\d.]{16,}/

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
  if (!longNumber.test(json)) return undefined
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

const isMetadata = (value: Schema.Json): value is Schema.JsonObject | null =>
  value === null || (typeof value === "object" && !Array.isArray(value))

/** SQL's NULL and JSON's are the same: no data, or no metadata. */
const Json = Schema.NullOr(ExactJson)

/** A row of the table, as `columns` names its parts. */
export const Row = Schema.Struct({
  version: StoredEvent.fields.version,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  data: Json,
  metadata: Json.pipe(Schema.refine(isMetadata, { expected: "a JSON object or null" })),
  createdAt: Schema.DateTimeUtcFromDate,
  streamName: Schema.String
})

/** The parts of a row: JSON as text, as the driver's own parser rounds numbers. */
export const columns = `version, id, aggregate_id AS "aggregateId", event_type AS "eventType", data::text AS data,
  metadata::text AS metadata, created_at AS "createdAt", stream_name AS "streamName"`

// Its parts have been checked as those of a row.
export const toStoredEvent = (row: typeof Row.Type): StoredEvent => new StoredEvent(row, { disableChecks: true })
