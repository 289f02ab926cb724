/**
 * How rows of the table of events become events.
 *
 * **Details**
 *
 * Whoever catches up reads every event there is, so a row is looked at by hand: 0.8 us, after 1.2 us for the server and the
 * driver, where the schema takes 4.4 us. The schema decides about a row that is not as nearly all are, and says what is
 * wrong with it.
 */
import { Data, DateTime, Effect, Predicate, Result, Schema, SchemaIssue, SchemaTransformation } from "effect"
import { StoredEvent, Version } from "../EventStore.ts"
import type { CorruptRow } from "../StoreError.ts"
import { decodeRow } from "./PostgresDatabase.ts"

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

const isMetadata = (value: Schema.Json): value is Schema.JsonObject | null =>
  value === null || (typeof value === "object" && !Array.isArray(value))

/** SQL's NULL and JSON's are the same: no data, or no metadata. */
const Json = Schema.NullOr(ExactJson)

/** A row of the table, as `columns` names its parts. */
export const Row = Schema.Struct({
  version: Version,
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

/**
 * The event of a row. Without the constructor, which goes through `data` again even without its checks: 0.9 us, and more
 * for more data, where this takes 0.15 us.
 */
export const toStoredEvent = (row: typeof Row.Type): StoredEvent => Reflect.construct(Data.Class, [row], StoredEvent)

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

const isVersion = Schema.is(Version)

const isText = (value: unknown): value is string | null => typeof value === "string" || value === null

/** The event of a row, if there is nothing unusual about it. */
const plainEvent = (row: unknown): StoredEvent | undefined => {
  if (!Predicate.isObject(row)) return undefined
  const { aggregateId, createdAt, eventType, id, streamName, version } = row
  if (
    !isVersion(version) ||
    typeof id !== "string" ||
    typeof aggregateId !== "string" ||
    typeof eventType !== "string" ||
    typeof streamName !== "string" ||
    !(createdAt instanceof Date) ||
    Number.isNaN(createdAt.getTime()) ||
    !isText(row.data) ||
    !isText(row.metadata)
  ) {
    return undefined
  }
  const data = parseExact(row.data)
  const metadata = parseExact(row.metadata)
  if (data === undefined || metadata === undefined || !isMetadata(metadata)) return undefined
  return toStoredEvent({
    version,
    id,
    aggregateId,
    eventType,
    data,
    metadata,
    createdAt: DateTime.fromDateUnsafe(createdAt),
    streamName
  })
}

/** What rows have become: the events before the first row that does not fit the model, and what is wrong with that one. */
export interface Decoded {
  readonly events: Array<StoredEvent>
  readonly corrupt: CorruptRow | undefined
}

/** Decodes rows of the table with this name. */
export const eventDecoder = (table: string): ((rows: ReadonlyArray<unknown>) => Decoded) => {
  const decode = decodeRow(Row, table, ["version"])
  return (rows) => {
    const events: Array<StoredEvent> = []
    for (const row of rows) {
      const plain = plainEvent(row)
      if (plain !== undefined) {
        events.push(plain)
        continue
      }
      const result = decode(row)
      if (Result.isFailure(result)) return { events, corrupt: result.failure }
      events.push(toStoredEvent(result.success))
    }
    return { events, corrupt: undefined }
  }
}
