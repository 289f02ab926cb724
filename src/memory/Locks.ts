/**
 * Row locks with Postgres's rules: a row that a transaction has written is held to its end, others queue for it in
 * order, and a wait that would close a circle is refused.
 */
import { Effect } from "effect"
import { Contention } from "../StoreError.ts"

/** Who holds locks: it is told of each lock that becomes its own. */
export interface Owner {
  readonly granted: (lock: string) => void
}

interface Waiter<O> {
  readonly owner: O
  readonly wake: () => void
}

export class Locks<O extends Owner> {
  private readonly holders = new Map<string, O>()
  private readonly queues = new Map<string, Array<Waiter<O>>>()
  private readonly waitingFor = new Map<O, string>()

  /** Succeeds once the owner holds the lock; fails with `Contention` where waiting would be a deadlock. */
  acquire(lock: string, owner: O): Effect.Effect<void, Contention> {
    return Effect.suspend(() => {
      const holder = this.holders.get(lock)
      if (holder === owner) return Effect.void
      if (holder === undefined) {
        this.grant(lock, owner)
        return Effect.void
      }
      return this.closesCircle(holder, owner)
        ? Effect.fail(new Contention({ message: `deadlock on ${lock}: another transaction waits for this one` }))
        : this.wait(lock, owner)
    })
  }

  /** Gives the lock up to whoever waits first. */
  release(lock: string): void {
    this.holders.delete(lock)
    const queue = this.queues.get(lock)
    const next = queue?.shift()
    if (queue?.length === 0) this.queues.delete(lock)
    if (next === undefined) return
    this.waitingFor.delete(next.owner)
    this.grant(lock, next.owner)
    next.wake()
  }

  /** How many transactions wait for a lock right now. */
  get waiting(): number {
    return this.waitingFor.size
  }

  // The lock passes on before its new owner runs, so that nobody can take it in between; the owner is told at once, so
  // that it gives the lock back even if it is interrupted before it wakes.
  private grant(lock: string, owner: O): void {
    this.holders.set(lock, owner)
    owner.granted(lock)
  }

  private wait(lock: string, owner: O): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const waiter: Waiter<O> = { owner, wake: () => resume(Effect.void) }
      const queue = this.queues.get(lock) ?? []
      queue.push(waiter)
      this.queues.set(lock, queue)
      this.waitingFor.set(owner, lock)
      return Effect.sync(() => {
        const place = queue.indexOf(waiter)
        if (place === -1) return
        queue.splice(place, 1)
        if (queue.length === 0) this.queues.delete(lock)
        this.waitingFor.delete(owner)
      })
    })
  }

  private closesCircle(holder: O, owner: O): boolean {
    for (let next: O | undefined = holder; next !== undefined;) {
      if (next === owner) return true
      const lock = this.waitingFor.get(next)
      next = lock === undefined ? undefined : this.holders.get(lock)
    }
    return false
  }
}
