/** How a statement finds events: as its transaction sees them. */
import { Option, Order } from "effect"
import type { EventRow } from "./EventRow.ts"
import type { Table } from "./Table.ts"
import type { Transaction } from "./Transaction.ts"

/** The tables that the events are in. */
export interface EventTables {
  readonly events: Table<EventRow>
  /** The version of each event by its id. */
  readonly eventIds: Table<bigint>
  /** How often events were tagged after they had been appended. */
  readonly epochs: Table<bigint>
}

const byVersion = Order.mapInput(Order.BigInt, (row: EventRow) => row.version)

/** The key of an event in its table. */
export const keyOf = (version: bigint): string => String(version)

/** The events that `keep` chooses, in the order of their versions. */
export const select = (
  { events }: EventTables,
  transaction: Transaction,
  keep: (row: EventRow) => boolean
): Array<EventRow> =>
  transaction
    .entries(events)
    .flatMap(({ row }) => (keep(row) ? [row] : []))
    .sort(byVersion)

/** The epoch that conditions carry. */
export const epochOf = ({ epochs }: EventTables, transaction: Transaction): bigint => transaction.get(epochs, "") ?? 0n

export const raiseEpoch = (tables: EventTables, transaction: Transaction): void =>
  transaction.set(tables.epochs, "", epochOf(tables, transaction) + 1n)

export const find = ({ eventIds, events }: EventTables, transaction: Transaction, id: string): EventRow | undefined => {
  const version = transaction.get(eventIds, id)
  return version === undefined ? undefined : transaction.get(events, keyOf(version))
}

/** The version of the last event of an aggregate. */
export const lastVersion = (
  tables: EventTables,
  transaction: Transaction,
  aggregateId: string
): Option.Option<bigint> =>
  Option.map(
    Option.fromUndefinedOr(select(tables, transaction, (row) => row.aggregateId === aggregateId).at(-1)),
    (row) => row.version
  )
