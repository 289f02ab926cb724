/**
 * Locks with Postgres's rules: a lock is held to the end of a transaction, by one owner, or shared by several; other owners
 * queue in order, and a wait that would close a circle fails.
 */
import { Effect } from "effect"
import { Contention } from "../StoreError.ts"

export type Mode = "exclusive" | "shared"

/** An owner of locks. `granted` tells it of each lock that becomes its own, and in which mode it held the lock before. */
export interface Owner {
  readonly granted: (lock: string, before: Mode | undefined) => void
}

interface Waiter<O> {
  readonly owner: O
  readonly mode: Mode
  readonly wake: () => void
}

interface Lock<O> {
  readonly holders: Map<O, Mode>
  readonly queue: Array<Waiter<O>>
}

export class Locks<O extends Owner> {
  private readonly locks = new Map<string, Lock<O>>()
  private readonly waitingFor = new Map<O, string>()

  /** Takes the lock if no other owner holds it or waits for it, and returns whether the owner holds it now. */
  tryAcquire(name: string, owner: O, mode: Mode): boolean {
    const lock = this.lockOf(name)
    const held = lock.holders.get(owner)
    if (held === "exclusive" || held === mode) return true
    // An owner does not overtake the queue, unless it holds a share already: then it would wait for itself.
    if (!allows(lock, owner, mode) || (lock.queue.length > 0 && held === undefined)) return false
    this.grant(name, lock, owner, mode)
    return true
  }

  /** Succeeds once the owner holds the lock; fails with `Contention` where waiting would be a deadlock. */
  acquire(name: string, owner: O, mode: Mode): Effect.Effect<void, Contention> {
    return Effect.suspend(() => {
      if (this.tryAcquire(name, owner, mode)) return Effect.void
      return this.closesCircle(name, owner, mode)
        ? Effect.fail(
            new Contention({
              message: `deadlock on ${name}: another transaction waits for this one; run the transaction again`
            })
          )
        : this.wait(name, this.lockOf(name), owner, mode)
    })
  }

  /** Gives the lock up, or goes back to the mode before, and lets in the owners at the head of the queue. */
  release(name: string, owner: O, before?: Mode): void {
    const lock = this.locks.get(name)
    if (lock === undefined) return
    if (before === undefined) lock.holders.delete(owner)
    else lock.holders.set(owner, before)
    this.admit(name, lock)
  }

  /** The owners that hold the lock. */
  holdersOf(name: string): ReadonlyArray<O> {
    return [...(this.locks.get(name)?.holders.keys() ?? [])]
  }

  /** How many transactions wait for a lock right now. */
  get waiting(): number {
    return this.waitingFor.size
  }

  private lockOf(name: string): Lock<O> {
    let lock = this.locks.get(name)
    if (lock === undefined) {
      lock = { holders: new Map(), queue: [] }
      this.locks.set(name, lock)
    }
    return lock
  }

  private admit(name: string, lock: Lock<O>): void {
    for (let next = lock.queue[0]; next !== undefined && allows(lock, next.owner, next.mode); next = lock.queue[0]) {
      lock.queue.shift()
      this.waitingFor.delete(next.owner)
      this.grant(name, lock, next.owner, next.mode)
      next.wake()
    }
    if (lock.holders.size === 0 && lock.queue.length === 0) this.locks.delete(name)
  }

  // The lock passes on before its new owner runs, so that no other owner can take it in between. The owner is told at once,
  // so that it gives the lock back even if it is interrupted before it wakes.
  private grant(name: string, lock: Lock<O>, owner: O, mode: Mode): void {
    const before = lock.holders.get(owner)
    lock.holders.set(owner, mode)
    owner.granted(name, before)
  }

  private wait(name: string, lock: Lock<O>, owner: O, mode: Mode): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const waiter: Waiter<O> = { owner, mode, wake: () => resume(Effect.void) }
      lock.queue.push(waiter)
      this.waitingFor.set(owner, name)
      return Effect.sync(() => {
        const place = lock.queue.indexOf(waiter)
        if (place === -1) return
        lock.queue.splice(place, 1)
        this.waitingFor.delete(owner)
        this.admit(name, lock)
      })
    })
  }

  /** Whether an owner that this one would wait for waits, directly or through others, for this one. */
  private closesCircle(name: string, owner: O, mode: Mode): boolean {
    const seen = new Set<O>()
    const reaches = (other: O): boolean => {
      if (other === owner) return true
      if (seen.has(other)) return false
      seen.add(other)
      const awaited = this.waitingFor.get(other)
      if (awaited === undefined) return false
      const { queue } = this.lockOf(awaited)
      const place = queue.findIndex((waiter) => waiter.owner === other)
      return this.blockers(awaited, other, queue[place]?.mode ?? "exclusive", queue.slice(0, place)).some(reaches)
    }
    return this.blockers(name, owner, mode, this.lockOf(name).queue).some(reaches)
  }

  /** The owners that hold the lock in a mode that excludes this one, and those ahead in its queue. */
  private blockers(name: string, owner: O, mode: Mode, ahead: ReadonlyArray<Waiter<O>>): Array<O> {
    const holders = [...this.lockOf(name).holders].flatMap(([holder, held]) =>
      holder !== owner && (mode === "exclusive" || held === "exclusive") ? [holder] : []
    )
    return [...holders, ...ahead.map((waiter) => waiter.owner)]
  }
}

const allows = <O>(lock: Lock<O>, owner: O, mode: Mode): boolean =>
  [...lock.holders].every(([holder, held]) => holder === owner || (mode === "shared" && held === "shared"))
