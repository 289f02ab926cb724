/** Remembers of which transactions a warning has said that they keep messages locked. */

/** There is one warning about a transaction in this time, in milliseconds. */
const millisBetweenWarnings = 60_000

/** When there was a warning about each transaction, by its id. */
export class LockWarnings {
  private readonly warnedAt = new Map<string, number>()

  /** Whether it is time for a warning about the transaction: if so, the next one is due after a minute. */
  isDue(transaction: string, now: number): boolean {
    for (const [earlier, at] of this.warnedAt) if (now - at >= millisBetweenWarnings) this.warnedAt.delete(earlier)
    if (this.warnedAt.has(transaction)) return false
    this.warnedAt.set(transaction, now)
    return true
  }
}
