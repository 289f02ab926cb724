/** Which ids, times and JSON of an event from elsewhere Postgres can store. */
import { Schema } from "effect"
import { Key } from "../../EventStore.ts"
import { jsonbBytes, maxLevels, maxNumberLength, measure } from "../../internal/JsonText.ts"

/** Whether a value can be an id, an aggregate id or an event type. */
export const isKey = Schema.is(Key)

const isStorableText = (text: string): boolean => !text.includes("\0") && text.isWellFormed()

const isStorableValue = (value: unknown): boolean =>
  typeof value === "string"
    ? isStorableText(value)
    : typeof value !== "object" || value === null
      ? true
      : Object.entries(value).every(([key, part]) => isStorableText(key) && isStorableValue(part))

/** What the JSON of an event from elsewhere may be. */
export interface Limits {
  /** How many bytes its data and metadata can have together, as `jsonb` writes them, so that they are read again. */
  readonly maxBytes: number
}

/**
 * Why JSON from elsewhere cannot be an event that is read again: its levels and its numbers have the limits of an append, and
 * `jsonb` cannot hold each character. The value is only looked through if the text has an escape that may stand for one of
 * those. `besides` is what of the JSON is neither data nor metadata.
 */
export const faultOf = (
  json: string,
  value: () => unknown,
  { maxBytes }: Limits,
  besides: object = {}
): string | undefined => {
  const { bytes, levels, longestNumber } = measure(json)
  if (levels > maxLevels + 1) return `its JSON has more than ${maxLevels} levels`
  if (longestNumber > maxNumberLength) return `its JSON has a number of more than ${maxNumberLength} digits`
  if (bytes > maxBytes) {
    const stored = bytes - jsonbBytes(JSON.stringify(besides))
    if (stored > maxBytes) return `it would have ${stored} bytes once it is stored, more than ${maxBytes}`
  }
  const isStorable =
    json.isWellFormed() && !json.includes("\0") && (!/\\u(?:0000|d[89a-f])/i.test(json) || isStorableValue(value()))
  return isStorable ? undefined : "it has NUL characters or lone surrogates, which jsonb cannot hold"
}

const time =
  /^(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}(?::\d{2})?)(?:[.,](\d{1,9}))?)? ?(Z|UTC|[+-]\d{2}:?\d{2}(?: UTC| [+-]\d{4})?)?$/

/** A whole number above this one is a time in milliseconds. As seconds it would lie 31,000 years ahead. */
const highestSeconds = 1e12

/**
 * The text of a time that Postgres can read in only one way, to the microsecond; nothing if the value is no time.
 *
 * **Details**
 *
 * A text without a zone is UTC, as in SQLite. An export has Postgres's `infinity` as it is. A whole number is Unix time, in
 * seconds or milliseconds, as Go's SQLite driver reads it.
 */
export const timestampOf = (value: unknown): string | undefined => {
  if (typeof value === "bigint" || typeof value === "number") {
    const units = Number(value)
    const date = new Date(Math.abs(units) > highestSeconds ? units : units * 1000)
    return Number.isNaN(date.getTime()) ? undefined : date.toISOString()
  }
  if (typeof value !== "string") return undefined
  if (value === "infinity" || value === "-infinity") return value
  const [, day, clock = "00:00", fraction = "0", zone = "Z"] = time.exec(value) ?? []
  if (day === undefined) return undefined
  const offset = /^[+-]\d{2}:?\d{2}/.exec(zone)?.[0] ?? "Z"
  const seconds = clock.length === 5 ? `${clock}:00` : clock
  const text = `${day}T${seconds}.${fraction.padEnd(6, "0").slice(0, 6)}`
  const utcOffset = offset === "Z" ? "Z" : `${offset.slice(0, 3)}:${offset.slice(-2)}`
  return Number.isNaN(Date.parse(`${day}T${seconds}${utcOffset}`)) ? undefined : `${text}${utcOffset}`
}
