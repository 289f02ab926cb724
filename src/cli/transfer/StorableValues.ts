/** What the parts of an event that comes from elsewhere may be. */
import { Schema } from "effect"
import { Key } from "../../EventStore.ts"

/** An id, aggregate id or event type. */
export const isKey = Schema.is(Key)

const isStorableText = (text: string): boolean => !text.includes("\0") && text.isWellFormed()

const isStorableValue = (value: unknown): boolean =>
  typeof value === "string"
    ? isStorableText(value)
    : typeof value !== "object" || value === null
      ? true
      : Object.entries(value).every(([key, part]) => isStorableText(key) && isStorableValue(part))

/** Whether `jsonb` can hold the value, which this is the text of. Only escapes make it necessary to look. */
export const isStorable = (text: string, value: unknown): boolean =>
  text.isWellFormed() && !text.includes("\0") && (!/\\u(?:0000|d[89a-f])/i.test(text) || isStorableValue(value))

const time =
  /^(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}(?::\d{2})?)(?:[.,](\d{1,9}))?)? ?(Z|UTC|[+-]\d{2}:?\d{2}(?: UTC| [+-]\d{4})?)?$/

/**
 * A time as Postgres reads it without doubt, to the microsecond. Without a zone it is UTC, as SQLite has it; a whole number
 * is Unix time in seconds, or in milliseconds where it would be too late for seconds, as Go's SQLite driver reads it.
 */
export const timestampOf = (value: unknown): string | undefined => {
  if (typeof value === "bigint" || typeof value === "number") {
    const units = Number(value)
    const date = new Date(Math.abs(units) > 1e12 ? units : units * 1000)
    return Number.isNaN(date.getTime()) ? undefined : date.toISOString()
  }
  if (typeof value !== "string") return undefined
  const [, day, clock = "00:00", fraction = "0", zone = "Z"] = time.exec(value) ?? []
  if (day === undefined) return undefined
  const offset = /^[+-]\d{2}:?\d{2}/.exec(zone)?.[0] ?? "Z"
  const seconds = clock.length === 5 ? `${clock}:00` : clock
  const text = `${day}T${seconds}.${fraction.padEnd(6, "0").slice(0, 6)}`
  const utcOffset = offset === "Z" ? "Z" : `${offset.slice(0, 3)}:${offset.slice(-2)}`
  return Number.isNaN(Date.parse(`${day}T${seconds}${utcOffset}`)) ? undefined : `${text}${utcOffset}`
}
