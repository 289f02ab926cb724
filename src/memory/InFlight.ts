/**
 * Which numbers of a log are drawn, and not yet decided: until its transaction ends, nobody knows whether there will be a
 * row under such a number or a hole for ever.
 */
import { Effect } from "effect"
import type { Transaction } from "./Transaction.ts"

export class InFlight {
  private readonly drawn = new Map<Transaction, Array<bigint>>()
  private readonly waiting = new Set<() => void>()

  draw(transaction: Transaction, version: bigint): void {
    const versions = this.drawn.get(transaction)
    if (versions === undefined) this.drawn.set(transaction, [version])
    else versions.push(version)
  }

  /** The first number above `after` that a transaction other than the reader's own has drawn. */
  first(after: bigint, reader: Transaction): bigint | undefined {
    let first: bigint | undefined
    for (const [transaction, versions] of this.drawn) {
      if (transaction === reader) continue
      const next = versions.find((version) => version > after)
      if (next !== undefined && (first === undefined || next < first)) first = next
    }
    return first
  }

  /** Forgets what an ended transaction has drawn. */
  end(transaction: Transaction): void {
    if (!this.drawn.delete(transaction)) return
    for (const wake of this.waiting) wake()
    this.waiting.clear()
  }

  /** Waits until the next transaction that has drawn a number ends. */
  readonly nextEnd: Effect.Effect<void> = Effect.callback((resume) => {
    const wake = () => resume(Effect.void)
    this.waiting.add(wake)
    return Effect.sync(() => this.waiting.delete(wake))
  })
}
