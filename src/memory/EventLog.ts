/**
 * The committed events in order, and the versions that are in flight: drawn by a transaction that is still open, which may
 * still commit an event under such a version, or leave a dead hole.
 */
import { Effect } from "effect"
import type { EventRow } from "./EventRow.ts"
import type { Transaction } from "./Transaction.ts"

export class EventLog {
  private readonly committed: Array<EventRow> = []
  private readonly drawn = new Map<Transaction, Array<bigint>>()
  private readonly changed = new Map<Transaction, Array<bigint>>()
  private readonly waiting = new Set<() => void>()

  /** Notes that the transaction has drawn the version. */
  draw(transaction: Transaction, version: bigint): void {
    const versions = this.drawn.get(transaction)
    if (versions === undefined) this.drawn.set(transaction, [version])
    else versions.push(version)
  }

  /** Notes that the transaction gives an event that is in the log tags. */
  change(transaction: Transaction, version: bigint): void {
    const versions = this.changed.get(transaction)
    if (versions === undefined) this.changed.set(transaction, [version])
    else versions.push(version)
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
      if (row !== undefined) this.committed.splice(this.indexAfter(version), 0, row)
    }
    for (const version of changed) {
      const row = committed(version)
      if (row !== undefined) this.committed[this.indexAfter(version) - 1] = row
    }
    if (versions === undefined) return
    for (const wake of this.waiting) wake()
    this.waiting.clear()
  }

  /** The settled events above the version, at most `limit` of them. */
  settledAfter(version: bigint, limit: number): ReadonlyArray<EventRow> {
    const start = this.indexAfter(version)
    const hole = this.firstInFlight(version)
    const end = hole === undefined ? this.committed.length : this.indexAfter(hole)
    return this.committed.slice(start, Math.min(end, start + limit))
  }

  /** The committed event that has the version. */
  at(version: bigint): EventRow | undefined {
    const row = this.committed[this.indexAfter(version) - 1]
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

  // Most transactions end in the order in which they drew versions, so the place is near the end: the search begins there.
  private indexAfter(version: bigint): number {
    let low = 0
    let high = this.committed.length
    for (let step = 1; high - step >= 0; step *= 2) {
      const row = this.committed[high - step]
      if (row === undefined || row.version <= version) {
        low = high - step + 1
        break
      }
      high -= step
    }
    while (low < high) {
      const middle = (low + high) >> 1
      const row = this.committed[middle]
      if (row !== undefined && row.version <= version) low = middle + 1
      else high = middle
    }
    return low
  }
}
