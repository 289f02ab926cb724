/** How a statement finds events: as its transaction sees them. */
import { Option, Order } from "effect"
import type { EventLog } from "./EventLog.ts"
import type { EventRow } from "./EventRow.ts"
import type { Table } from "./Table.ts"
import type { Transaction } from "./Transaction.ts"

/** The tables that the events are in. */
export interface EventTables {
  readonly events: Table<EventRow>
  /** The version of each event by its id. */
  readonly eventIds: Table<bigint>
  /** The epoch: it rises where events are tagged after they were appended. */
  readonly epochs: Table<bigint>
}

const byVersion = Order.mapInput(Order.BigInt, (row: EventRow) => row.version)

/** The key of an event in its table. */
export const keyOf = (version: bigint): string => String(version)

/** Where events are looked for. */
export interface Where {
  readonly tables: EventTables
  readonly log: EventLog
}

/** Which events: those above a version, of all aggregates or of some, that `keep` chooses. */
export interface Wanted {
  readonly after?: bigint
  readonly aggregateIds?: ReadonlyArray<string> | undefined
  readonly keep?: (row: EventRow) => boolean
}

/** The events that the transaction itself has appended, and not taken back with a savepoint. */
const own = ({ log, tables }: Where, transaction: Transaction): Array<EventRow> =>
  log.drawnBy(transaction).flatMap((version) => transaction.get(tables.events, keyOf(version)) ?? [])

/** The committed events as the transaction sees them: it may have given some of them tags. */
const seenBy = ({ log, tables }: Where, transaction: Transaction) => {
  const changed = new Set(log.changedBy(transaction))
  return (rows: ReadonlyArray<EventRow>): ReadonlyArray<EventRow> =>
    changed.size === 0
      ? rows
      : rows.map((row) =>
          changed.has(row.version) ? (transaction.get(tables.events, keyOf(row.version)) ?? row) : row
        )
}

/** The wanted events, in the order of their versions. */
export const select = (where: Where, transaction: Transaction, wanted: Wanted): Array<EventRow> => {
  const { after = 0n, aggregateIds, keep = () => true } = wanted
  const ids = aggregateIds === undefined ? undefined : new Set(aggregateIds)
  const seen = seenBy(where, transaction)
  const committed =
    ids === undefined
      ? seen(where.log.committedAfter(after)).filter(keep)
      : [...ids].flatMap((id) => seen(where.log.committedAfter(after, id)).filter(keep))
  const added = own(where, transaction).filter(
    (row) => row.version > after && (ids?.has(row.aggregateId) ?? true) && keep(row)
  )
  const isInOrder = added.length === 0 && (ids === undefined || ids.size < 2)
  return isInOrder ? committed : [...committed, ...added].sort(byVersion)
}

/** The highest version that the transaction sees. */
export const highest = (where: Where, transaction: Transaction): bigint => {
  const last = own(where, transaction).at(-1)?.version ?? 0n
  return last > where.log.latest ? last : where.log.latest
}

/** The epoch that conditions carry. */
export const epochOf = ({ epochs }: EventTables, transaction: Transaction): bigint => transaction.get(epochs, "") ?? 0n

/** `epoch` has to be one that there never was, also in a savepoint that was taken back: conditions may have kept it. */
export const setEpoch = (tables: EventTables, transaction: Transaction, epoch: bigint): void =>
  transaction.set(tables.epochs, "", epoch)

export const find = ({ eventIds, events }: EventTables, transaction: Transaction, id: string): EventRow | undefined => {
  const version = transaction.get(eventIds, id)
  return version === undefined ? undefined : transaction.get(events, keyOf(version))
}

/** The version of the last event of an aggregate. */
export const lastVersion = (where: Where, transaction: Transaction, aggregateId: string): Option.Option<bigint> => {
  const added = own(where, transaction).findLast((row) => row.aggregateId === aggregateId)
  const committed = where.log.lastOf(aggregateId)
  const last = added === undefined || (committed?.version ?? 0n) > added.version ? committed : added
  return Option.map(Option.fromUndefinedOr(last), ({ version }) => version)
}
