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

/** What has become of rows. */
export interface Items {
  /** In the place of a row that is no event stands a `CorruptEvent`. */
  readonly items: ReadonlyArray<Item>
  /** The same, if all of them are events. */
  readonly events: ReadonlyArray<StoredEvent> | undefined
}

const withCorrupt = (
  rows: ReadonlyArray<unknown>,
  { corrupt, events }: Decoded,
  decode: (rows: ReadonlyArray<unknown>) => Decoded
): ReadonlyArray<Item> => {
  if (corrupt === undefined) return events
  const row = rows[events.length]
  const item = {
    version: versionOf(row),
    aggregateId: textOf(row, "aggregateId"),
    eventType: textOf(row, "eventType"),
    corrupt: true as const
  }
  const rest = rows.slice(events.length + 1)
  return [...events, item, ...withCorrupt(rest, decode(rest), decode)]
}

export const itemsOf = (rows: ReadonlyArray<unknown>, decode: (rows: ReadonlyArray<unknown>) => Decoded): Items => {
  const decoded = decode(rows)
  return {
    items: withCorrupt(rows, decoded, decode),
    events: decoded.corrupt === undefined ? decoded.events : undefined
  }
}
