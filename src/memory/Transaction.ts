/**
 * One open transaction of the memory backend: a stack of savepoints, each with its writes, its locks, and whether an
 * error has ended it.
 */
import { Effect, Semaphore } from "effect"
import type { Contention } from "../StoreError.ts"
import { type Locks, type Owner } from "./Locks.ts"
import type { Level, Merge, Table } from "./Table.ts"

interface Savepoint extends Level {
  readonly outer: Savepoint | undefined
  readonly locks: Set<string>
  readonly afterCommit: Array<Effect.Effect<void>>
  aborted: boolean
}

const savepoint = (outer: Savepoint | undefined): Savepoint => ({
  outer,
  written: new Set<Merge>(),
  locks: new Set(),
  afterCommit: [],
  aborted: false
})

export class Transaction implements Owner {
  /** Statements of one transaction run one at a time, as on a connection. */
  readonly turn = Semaphore.makeUnsafe(1)
  private level = savepoint(undefined)
  private readonly locks: Locks<Transaction>

  constructor(locks: Locks<Transaction>) {
    this.locks = locks
  }

  // What statements do

  get<Row>(table: Table<Row>, key: string): Row | undefined {
    return table.get(this.level, key)
  }

  rows<Row>(table: Table<Row>): Array<Row> {
    return table.rows(this.level)
  }

  /** Takes the row's lock, after waiting for the transaction that holds it. Read the row after this, not before. */
  lock<Row>(table: Table<Row>, key: string): Effect.Effect<void, Contention> {
    return this.locks.acquire(`${table.name} ${key}`, this)
  }

  /** The same, for a row that an UPDATE or DELETE would find: other transactions' new rows are not waited for. */
  lockVisible<Row>(table: Table<Row>, key: string): Effect.Effect<void, Contention> {
    return Effect.suspend(() => (this.get(table, key) === undefined ? Effect.void : this.lock(table, key)))
  }

  set<Row>(table: Table<Row>, key: string, row: Row | undefined): void {
    table.set(this.level, key, row)
  }

  granted(lock: string): void {
    this.level.locks.add(lock)
  }

  // An error ends the transaction back to the innermost savepoint, as in Postgres

  get aborted(): boolean {
    return this.level.aborted
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

  /** Keeps what the savepoint did; its fate is now the outer level's. */
  releaseSavepoint(): void {
    const { afterCommit, locks, outer, written } = this.level
    if (outer === undefined) return
    for (const table of written) table.merge(this.level)
    for (const lock of locks) outer.locks.add(lock)
    outer.afterCommit.push(...afterCommit)
    this.level = outer
  }

  /** Undoes what the savepoint did, and lets go of the rows that only it had written. The savepoint stays. */
  rollbackSavepoint(): void {
    for (const lock of this.level.locks) this.locks.release(lock)
    this.level = savepoint(this.level.outer)
  }

  /** Makes the writes visible, all at once, and returns what is to run now. */
  commit(): ReadonlyArray<Effect.Effect<void>> {
    const { afterCommit, locks, written } = this.level
    for (const table of written) table.merge(this.level)
    for (const lock of locks) this.locks.release(lock)
    return afterCommit
  }

  rollback(): void {
    for (let level: Savepoint | undefined = this.level; level !== undefined; level = level.outer) {
      for (const lock of level.locks) this.locks.release(lock)
    }
  }
}
