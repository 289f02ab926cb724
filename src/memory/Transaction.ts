/**
 * One open transaction of the memory backend: a stack of savepoints, each with its writes, its locks, and whether an error
 * has aborted it.
 */
import { Effect, Semaphore } from "effect"
import type { Contention } from "../StoreError.ts"
import type { Locks, Mode, Owner } from "./Locks.ts"
import type { Entry, Level, Merge, Table } from "./Table.ts"

interface Savepoint extends Level {
  readonly outer: Savepoint | undefined
  /** The locks taken at this level, with the mode in which a level around it holds them already. */
  readonly locks: Map<string, Mode | undefined>
  readonly afterCommit: Array<Effect.Effect<void>>
  aborted: boolean
}

const savepoint = (outer: Savepoint | undefined): Savepoint => ({
  outer,
  written: new Set<Merge>(),
  locks: new Map(),
  afterCommit: [],
  aborted: false
})

/** A lock that a transaction takes: of the place of a row (`lockOf`), or of work that has to happen in turn. */
export interface Lock {
  readonly name: string
  readonly mode: Mode
}

/** The name of the lock of the place of a row. */
export const lockOf = <Row>(table: Table<Row>, key: string) => `${table.name} ${key}`

export class Transaction implements Owner {
  private permit: Semaphore.Semaphore | undefined
  private level = savepoint(undefined)
  private ended = false
  /** When it began, in epoch milliseconds. */
  readonly startedAt: number
  private readonly locks: Locks<Transaction>
  private readonly onEnd: (transaction: Transaction) => void

  constructor(locks: Locks<Transaction>, startedAt: number, onEnd: (transaction: Transaction) => void) {
    this.locks = locks
    this.startedAt = startedAt
    this.onEnd = onEnd
  }

  /** A permit for one statement: the statements of a transaction run one at a time, as on a connection. */
  get turn(): Semaphore.Semaphore {
    this.permit ??= Semaphore.makeUnsafe(1)
    return this.permit
  }

  // What statements do

  /** The row as this transaction sees it. */
  get<Row>(table: Table<Row>, key: string): Row | undefined {
    return table.get(this.level, key)?.row
  }

  /** Every row that this transaction sees, or each of a group, in no particular order. */
  entries<Row>(table: Table<Row>, group?: string): Array<Entry<Row>> {
    return table.entries(this.level, group)
  }

  /** The same with their keys. */
  keyedEntries<Row>(table: Table<Row>): ReadonlyArray<{ readonly key: string; readonly row: Row }> {
    return table.keyedEntries(this.level)
  }

  /**
   * Holds the place of a row, after waiting for the transaction that holds it, and returns the row that is in it then, as
   * INSERT .. ON CONFLICT DO UPDATE does.
   */
  holdPlace<Row>(table: Table<Row>, key: string): Effect.Effect<Row | undefined, Contention> {
    return Effect.map(this.locks.acquire(lockOf(table, key), this, "exclusive"), () => this.get(table, key))
  }

  /**
   * Holds a row that is there, after waiting for the transaction that holds it, and returns it as it is then, as UPDATE and
   * DELETE do; `undefined` if there is no such row, or it was deleted meanwhile. It does not wait for a row that another
   * transaction is about to insert. A statement over many rows holds those that it saw when it began (`found`).
   */
  holdRow<Row>(table: Table<Row>, key: string, found?: Entry<Row>): Effect.Effect<Row | undefined, Contention> {
    return Effect.suspend(() => {
      const seen = found ?? table.get(this.level, key)
      if (seen === undefined) return Effect.undefined
      const lock = lockOf(table, key)
      return Effect.map(this.locks.acquire(lock, this, "exclusive"), () => {
        const entry = table.get(this.level, key)
        if (entry?.identity === seen.identity) return entry.row
        // Deleted while this transaction waited: there is nothing left to hold.
        this.level.locks.delete(lock)
        this.locks.release(lock, this)
        return undefined
      })
    })
  }

  /** Holds a row that is there unless another transaction holds it, as FOR UPDATE SKIP LOCKED does. */
  tryHoldRow<Row>(table: Table<Row>, key: string): Row | undefined {
    const row = this.get(table, key)
    return row !== undefined && this.locks.tryAcquire(lockOf(table, key), this, "exclusive") ? row : undefined
  }

  /**
   * Holds the place of a row if no row is in it, after waiting for the transaction that holds it, and returns whether it
   * holds it, as INSERT .. ON CONFLICT DO NOTHING does.
   */
  holdFreePlace<Row>(table: Table<Row>, key: string): Effect.Effect<boolean, Contention> {
    return Effect.suspend(() => {
      const lock = lockOf(table, key)
      // It does not wait for a transaction that has only locked the row, and not changed it.
      const changing = this.locks.holdersOf(lock).some((holder) => table.isWritten(holder.level, key))
      if (!changing && this.get(table, key) !== undefined) return Effect.succeed(false)
      const held = this.holds(lock)
      return Effect.map(this.holdPlace(table, key), (row) => {
        if (row !== undefined && !held) {
          this.level.locks.delete(lock)
          this.locks.release(lock, this)
        }
        return row === undefined
      })
    })
  }

  /** Takes locks in their order, without an effect for each of those that are free. */
  lockAll(locks: ReadonlyArray<Lock>, from = 0): Effect.Effect<void, Contention> {
    return Effect.suspend(() => {
      for (let index = from; index < locks.length; index++) {
        const lock = locks[index]
        if (lock === undefined || this.locks.tryAcquire(lock.name, this, lock.mode)) continue
        return Effect.andThen(this.locks.acquire(lock.name, this, lock.mode), this.lockAll(locks, index + 1))
      }
      return Effect.void
    })
  }

  set<Row>(table: Table<Row>, key: string, row: Row | undefined): void {
    table.set(this.level, key, row)
  }

  granted(lock: string, before: Mode | undefined): void {
    if (!this.level.locks.has(lock)) this.level.locks.set(lock, before)
  }

  // An error aborts the transaction back to the innermost savepoint, as in Postgres. A fiber may also outlive its transaction.

  get aborted(): boolean {
    return this.ended || this.level.aborted
  }

  abort(): void {
    this.level.aborted = true
  }

  // Transaction control

  /** Runs the effect after the commit, unless the innermost savepoint is rolled back before. */
  onCommit(effect: Effect.Effect<void>): void {
    this.level.afterCommit.push(effect)
  }

  save(): void {
    this.level = savepoint(this.level)
  }

  /** Hands what the savepoint did to the level around it. */
  releaseSavepoint(): void {
    const { afterCommit, locks, outer, written } = this.level
    if (outer === undefined) return
    for (const table of written) table.merge(this.level)
    for (const [lock, before] of locks) {
      if (!outer.locks.has(lock)) outer.locks.set(lock, before)
    }
    outer.afterCommit.push(...afterCommit)
    this.level = outer
  }

  // A lock that is let go wakes the transaction that waits for it, which goes on at once: so that is the last step of each of
  // these, when everybody else sees what has become of this transaction.

  /** Undoes what the savepoint did, and releases the locks that it has taken. The savepoint stays. */
  rollbackSavepoint(): void {
    const undone = this.level
    this.drop(undone)
    this.level = savepoint(undone.outer)
    this.letGo(undone.locks)
  }

  /** Makes the writes visible, all at once, and returns the effects that run after the commit. */
  commit(): ReadonlyArray<Effect.Effect<void>> {
    const { afterCommit, locks, written } = this.level
    this.ended = true
    for (const table of written) table.merge(this.level)
    this.onEnd(this)
    this.letGo(locks)
    return afterCommit
  }

  get hasWritten(): boolean {
    return this.level.written.size > 0
  }

  rollback(): void {
    this.ended = true
    const levels = this.levels()
    for (const level of levels) this.drop(level)
    this.onEnd(this)
    for (const { locks } of levels) this.letGo(locks)
  }

  private holds(lock: string): boolean {
    return this.levels().some(({ locks }) => locks.has(lock))
  }

  /** The savepoints from the innermost one on, and the transaction itself. */
  private levels(): ReadonlyArray<Savepoint> {
    const levels: Array<Savepoint> = []
    for (let level: Savepoint | undefined = this.level; level !== undefined; level = level.outer) levels.push(level)
    return levels
  }

  private drop(level: Savepoint): void {
    for (const table of level.written) table.drop(level)
  }

  private letGo(locks: ReadonlyMap<string, Mode | undefined>): void {
    for (const [lock, before] of locks) this.locks.release(lock, this, before)
  }
}
