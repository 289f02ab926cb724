/** The table of messages in memory, as the statements of `SpoolStore` read, hold and write it. */
import { Clock, Effect, type Order, type Stream } from "effect"
import { MessageNotFound } from "../../SpoolErrors.ts"
import { keyOf, keyText, type State } from "../../SpoolMessage.ts"
import type { Contention, Reason } from "../../StoreError.ts"
import { MemoryDatabase } from "../MemoryDatabase.ts"
import type { Table } from "../Table.ts"
import type { Transaction } from "../Transaction.ts"
import { groupOf, type MessageRow, type Now, type RememberedId } from "./MessageRow.ts"

export interface SpoolTable {
  /** Runs one statement: see `MemoryDatabase.statement`. */
  readonly statement: <A, E = never>(body: (rows: Rows) => Effect.Effect<A, E | Reason>) => Effect.Effect<A, E | Reason>

  /** Whether the caller is in a transaction. */
  readonly inTransaction: Effect.Effect<boolean>

  /** The time, with a later stamp each time. */
  readonly now: Effect.Effect<Now>

  /** A wake-up after each commit that has changed messages. */
  readonly changes: Stream.Stream<void, Reason>
}

type Key = { readonly queue?: string | undefined; readonly id: string }

/** Chooses rows. */
type Filter = (row: MessageRow) => boolean

/** The rows as one statement's transaction sees them, and what it does with them. */
export class Rows {
  private readonly transaction: Transaction
  private readonly table: Table<MessageRow>
  private readonly remembered: Table<RememberedId>

  constructor(transaction: Transaction, table: Table<MessageRow>, remembered: Table<RememberedId>) {
    this.transaction = transaction
    this.table = table
    this.remembered = remembered
  }

  get(key: Key): MessageRow | undefined {
    return this.transaction.get(this.table, keyText(key))
  }

  /** The rows that the filter keeps, in order. */
  select(keep: Filter, order: Order.Order<MessageRow>): Array<MessageRow> {
    return this.transaction
      .entries(this.table)
      .flatMap(({ row }) => (keep(row) ? [row] : []))
      .sort(order)
  }

  /** The rows in a state of a queue, or of those in no queue, in no particular order. */
  inState(state: State, queue: string | undefined): Array<MessageRow> {
    return this.transaction.entries(this.table, groupOf({ state, queue })).map(({ row }) => row)
  }

  /** Holds the row, after waiting for the transaction that holds it; `undefined` if there is none, or no more. */
  holdIfThere(key: Key): Effect.Effect<MessageRow | undefined, Contention> {
    return this.transaction.holdRow(this.table, keyText(key))
  }

  /** Holds the row, after waiting for the transaction that holds it. */
  hold(key: Key): Effect.Effect<MessageRow, MessageNotFound | Contention> {
    return Effect.flatMap(this.holdIfThere(key), (row) =>
      row === undefined ? Effect.fail(new MessageNotFound(keyOf(key))) : Effect.succeed(row)
    )
  }

  /** Holds the row unless another transaction does. */
  tryHold(key: Key): MessageRow | undefined {
    return this.transaction.tryHoldRow(this.table, keyText(key))
  }

  /** Holds the first of the rows that no other transaction holds, up to `limit`, in their order. */
  holdFirst(some: ReadonlyArray<MessageRow>, limit: number): Array<MessageRow> {
    const held: Array<MessageRow> = []
    for (const one of some) {
      if (held.length === limit) break
      const row = this.tryHold(one)
      if (row !== undefined) held.push(row)
    }
    return held
  }

  /** Holds the place of a row that is not there, after waiting for a transaction that writes it; false if there is a row. */
  holdFreePlace(key: Key): Effect.Effect<boolean, Contention> {
    return this.transaction.holdFreePlace(this.table, keyText(key))
  }

  put(row: MessageRow): MessageRow {
    this.transaction.set(this.table, keyText(row), row)
    return row
  }

  delete(key: Key): void {
    this.transaction.set(this.table, keyText(key), undefined)
  }

  /** Deletes a message that this transaction holds. Its id stays taken if it is to be remembered, from a time on. */
  deleteOrRemember(row: MessageRow, from: number): void {
    this.delete(row)
    if (row.remember === undefined) return
    this.transaction.set(this.remembered, keyText(row), { payload: row.payload, until: from + row.remember })
  }

  /** What is remembered of an id whose place this transaction holds, if its time is not over. */
  rememberedAt(key: Key, { clock }: Now): RememberedId | undefined {
    const remembered = this.transaction.get(this.remembered, keyText(key))
    return remembered !== undefined && remembered.until > clock ? remembered : undefined
  }

  /** Forgets ids whose time is over, and returns how many. */
  forget(limit: number, { clock }: Now): number {
    let forgotten = 0
    for (const { key, row } of this.transaction.keyedEntries(this.remembered)) {
      if (forgotten === limit) break
      if (row.until > clock || this.transaction.tryHoldRow(this.remembered, key) === undefined) continue
      this.transaction.set(this.remembered, key, undefined)
      forgotten++
    }
    return forgotten
  }
}

/** Keeps the messages of one queue, or of all queues. */
export const inQueueOrAny =
  (queue: string | undefined): Filter =>
  (row) =>
    queue === undefined || row.queue === queue

const microsecond = 0.001

export const make: Effect.Effect<SpoolTable, never, MemoryDatabase> = Effect.map(
  MemoryDatabase,
  ({ inTransaction, listener, statement, tables: { rememberedIds, spool } }) => {
    let latest = 0
    return {
      inTransaction,
      statement: (body) => statement((transaction) => body(new Rows(transaction, spool, rememberedIds))),
      now: Effect.map(Clock.currentTimeMillis, (clock) => {
        latest = Math.max(clock, latest + microsecond)
        return { clock, stamp: latest }
      }),
      changes: listener.changes(spool)
    }
  }
)
