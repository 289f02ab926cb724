/**
 * The committed events in order, and the versions that are in flight: drawn by a transaction that is still open, which may
 * still commit an event under such a version, or leave a dead hole.
 */
import { Effect } from "effect"
import type { EventRow } from "./EventRow.ts"
import type { Transaction } from "./Transaction.ts"

const none: ReadonlyArray<never> = []

/**
 * The place after the last row up to the version. Most transactions end in the order in which they drew versions, so the
 * place is near the end: the search begins there.
 */
const indexAfter = (rows: ReadonlyArray<EventRow>, version: bigint): number => {
  let low = 0
  let high = rows.length
  for (let step = 1; high - step >= 0; step *= 2) {
    const row = rows[high - step]
    if (row === undefined || row.version <= version) {
      low = high - step + 1
      break
    }
    high -= step
  }
  while (low < high) {
    const middle = (low + high) >> 1
    const row = rows[middle]
    if (row !== undefined && row.version <= version) low = middle + 1
    else high = middle
  }
  return low
}

/** Places a row among rows in the order of their versions. */
const insert = (rows: Array<EventRow>, row: EventRow) => rows.splice(indexAfter(rows, row.version), 0, row)

export class EventLog {
  private readonly committed: Array<EventRow> = []
  private readonly committedOf = new Map<string, Array<EventRow>>()
  private readonly drawn = new Map<Transaction, Array<bigint>>()
  private readonly changed = new Map<Transaction, Array<bigint>>()
  private readonly waiting = new Set<() => void>()

  /** Notes that the transaction has drawn the version. */
  draw(transaction: Transaction, version: bigint): void {
    const versions = this.drawn.get(transaction)
    if (versions === undefined) this.drawn.set(transaction, [version])
    else versions.push(version)
  }

  /** The versions that the transaction has drawn, in order. */
  drawnBy(transaction: Transaction): ReadonlyArray<bigint> {
    return this.drawn.get(transaction) ?? none
  }

  /** Notes that the transaction gives an event that is in the log tags. */
  change(transaction: Transaction, version: bigint): void {
    const versions = this.changed.get(transaction)
    if (versions === undefined) this.changed.set(transaction, [version])
    else versions.push(version)
  }

  /** The versions of events that the transaction has given tags. */
  changedBy(transaction: Transaction): ReadonlyArray<bigint> {
    return this.changed.get(transaction) ?? none
  }

  /** The first hole above `after` that is in flight: a version that a transaction other than the reader's own has drawn. */
  firstInFlight(after: bigint, reader?: Transaction): bigint | undefined {
    let first: bigint | undefined
    for (const [transaction, versions] of this.drawn) {
      if (transaction === reader) continue
      const next = versions.find((version) => version > after)
      if (next !== undefined && (first === undefined || next < first)) first = next
    }
    return first
  }

  /**
   * Called when a transaction has ended: adds the events that it has committed, and the tags that it has given others. `committed`
   * gives the event of a version, and none for a version that has become a dead hole.
   */
  end(transaction: Transaction, committed: (version: bigint) => EventRow | undefined): void {
    const changed = this.changed.get(transaction) ?? []
    this.changed.delete(transaction)
    const versions = this.drawn.get(transaction)
    this.drawn.delete(transaction)
    for (const version of versions ?? []) {
      const row = committed(version)
      if (row !== undefined) this.add(row)
    }
    for (const version of changed) {
      const row = committed(version)
      if (row !== undefined) this.replace(row)
    }
    if (versions === undefined) return
    for (const wake of this.waiting) wake()
    this.waiting.clear()
  }

  /** The committed events above the version, of all aggregates or of one. */
  committedAfter(version: bigint, aggregateId?: string): ReadonlyArray<EventRow> {
    const rows = aggregateId === undefined ? this.committed : (this.committedOf.get(aggregateId) ?? none)
    return version === 0n ? rows : rows.slice(indexAfter(rows, version))
  }

  /** The last committed event of an aggregate. */
  lastOf(aggregateId: string): EventRow | undefined {
    return this.committedOf.get(aggregateId)?.at(-1)
  }

  /** The settled events above the version, at most `limit` of them. */
  settledAfter(version: bigint, limit: number): ReadonlyArray<EventRow> {
    const start = indexAfter(this.committed, version)
    const hole = this.firstInFlight(version)
    const end = hole === undefined ? this.committed.length : indexAfter(this.committed, hole)
    return this.committed.slice(start, Math.min(end, start + limit))
  }

  /** The committed event that has the version. */
  at(version: bigint): EventRow | undefined {
    const row = this.committed[indexAfter(this.committed, version) - 1]
    return row?.version === version ? row : undefined
  }

  /** The highest version that is committed. */
  get latest(): bigint {
    return this.committed.at(-1)?.version ?? 0n
  }

  /** Waits until the next transaction that has drawn a version ends. */
  readonly nextEnd: Effect.Effect<void> = Effect.callback((resume) => {
    const wake = () => resume(Effect.void)
    this.waiting.add(wake)
    return Effect.sync(() => this.waiting.delete(wake))
  })

  private replace(row: EventRow): void {
    for (const rows of [this.committed, this.committedOf.get(row.aggregateId) ?? []]) {
      rows[indexAfter(rows, row.version) - 1] = row
    }
  }

  private add(row: EventRow): void {
    insert(this.committed, row)
    const rows = this.committedOf.get(row.aggregateId)
    if (rows === undefined) this.committedOf.set(row.aggregateId, [row])
    else insert(rows, row)
  }
}
