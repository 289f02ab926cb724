/** The table of messages in memory, as the statements of `SpoolStore` read, hold and write it. */
import { Clock, Effect, type Order, type Stream } from "effect"
import { MessageNotFound, type State } from "../../SpoolMessage.ts"
import type { Contention, Reason } from "../../StoreError.ts"
import { MemoryDatabase } from "../MemoryDatabase.ts"
import type { Table } from "../Table.ts"
import type { Transaction } from "../Transaction.ts"
import type { MessageRow, Now } from "./MessageRow.ts"

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

/** Chooses rows. */
type Filter = (row: MessageRow) => boolean

/** The rows as one statement's transaction sees them, and what it does with them. */
export class Rows {
  private readonly transaction: Transaction
  private readonly table: Table<MessageRow>

  constructor(transaction: Transaction, table: Table<MessageRow>) {
    this.transaction = transaction
    this.table = table
  }

  get(id: string): MessageRow | undefined {
    return this.transaction.get(this.table, id)
  }

  /** The rows that the filter keeps, in order. */
  select(keep: Filter, order: Order.Order<MessageRow>): Array<MessageRow> {
    return this.transaction
      .entries(this.table)
      .flatMap(({ row }) => (keep(row) ? [row] : []))
      .sort(order)
  }

  /** Holds the row, after waiting for the transaction that holds it; `undefined` if there is none, or no more. */
  holdIfThere(id: string): Effect.Effect<MessageRow | undefined, Contention> {
    return this.transaction.holdRow(this.table, id)
  }

  /** Holds the row, after waiting for the transaction that holds it. */
  hold(id: string): Effect.Effect<MessageRow, MessageNotFound | Contention> {
    return Effect.flatMap(this.holdIfThere(id), (row) =>
      row === undefined ? Effect.fail(new MessageNotFound({ id })) : Effect.succeed(row)
    )
  }

  /** Holds the row unless another transaction does. */
  tryHold(id: string): MessageRow | undefined {
    return this.transaction.tryHoldRow(this.table, id)
  }

  /** Holds the first of the rows that no other transaction holds, up to `limit`, in their order. */
  holdFirst(some: ReadonlyArray<MessageRow>, limit: number): Array<MessageRow> {
    const held: Array<MessageRow> = []
    for (const { id } of some) {
      if (held.length === limit) break
      const row = this.tryHold(id)
      if (row !== undefined) held.push(row)
    }
    return held
  }

  /** Holds the place of a row that is not there, after waiting for a transaction that writes it; false if there is a row. */
  holdFreePlace(id: string): Effect.Effect<boolean, Contention> {
    return this.transaction.holdFreePlace(this.table, id)
  }

  put(row: MessageRow): MessageRow {
    this.transaction.set(this.table, row.id, row)
    return row
  }

  delete(id: string): void {
    this.transaction.set(this.table, id, undefined)
  }
}

/** Keeps the messages of one queue, or of all queues. */
export const inQueueOrAny =
  (queue: string | undefined): Filter =>
  (row) =>
    queue === undefined || row.queue === queue

/** Keeps the messages in a state of one queue, or of those in no queue. */
export const inState =
  (state: State, queue: string | undefined): Filter =>
  (row) =>
    row.state === state && row.queue === queue

const microsecond = 0.001

export const make: Effect.Effect<SpoolTable, never, MemoryDatabase> = Effect.map(
  MemoryDatabase,
  ({ inTransaction, listener, statement, tables: { spool } }) => {
    let latest = 0
    return {
      inTransaction,
      statement: (body) => statement((transaction) => body(new Rows(transaction, spool))),
      now: Effect.map(Clock.currentTimeMillis, (clock) => {
        latest = Math.max(clock, latest + microsecond)
        return { clock, stamp: latest }
      }),
      changes: listener.changes(spool)
    }
  }
)
