/** What the tail keeps of a row: an event, or what can be said of a row that is none. */
import { Predicate } from "effect"
import type { StoredEvent } from "../../Event.ts"
import { type Decoded, jsonLength, textOf } from "./EventRow.ts"

/**
 * A row that another program wrote and that does not fit the model. A subscriber whose filter may describe the row
 * reads it from the table, and fails if the filter does.
 */
export interface CorruptEvent {
  readonly version: bigint
  readonly aggregateId: string
  readonly eventType: string
  readonly corrupt: true
}

export type Item = StoredEvent | CorruptEvent

export const versionOf = (row: unknown): bigint =>
  Predicate.hasProperty(row, "version") && typeof row.version === "bigint" ? row.version : 0n

/** About how many bytes of memory rows take. */
export const sizeOf = (rows: ReadonlyArray<unknown>): number =>
  rows.reduce<number>((sum, row) => sum + 200 + jsonLength(row), 0)

/** The rows as events; in the place of a row that is none stands a `CorruptEvent`. */
export const itemsOf = (
  rows: ReadonlyArray<unknown>,
  decode: (rows: ReadonlyArray<unknown>) => Decoded
): ReadonlyArray<Item> => {
  const { corrupt, events } = decode(rows)
  if (corrupt === undefined) return events
  const row = rows[events.length]
  const item = {
    version: versionOf(row),
    aggregateId: textOf(row, "aggregateId"),
    eventType: textOf(row, "eventType"),
    corrupt: true as const
  }
  return [...events, item, ...itemsOf(rows.slice(events.length + 1), decode)]
}
