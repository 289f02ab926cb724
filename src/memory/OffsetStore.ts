/** `OffsetStore` in memory. */
import { Effect, Equal, Layer, Option, Order, Stream } from "effect"
import { byCodePoint } from "../internal/CodePoints.ts"
import { type Selection, type Step } from "../Offset.ts"
import { fromDriver, Offset, OffsetConflict, OffsetStore, type ProjectionId } from "../OffsetStore.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import { type Entry } from "./Table.ts"
import type { Transaction } from "./Transaction.ts"

const keyOf = ({ projectionName, shardNumber }: ProjectionId) => `${projectionName}/${shardNumber}`

const byNameAndShard = Order.combine(
  Order.mapInput(byCodePoint, ({ row }: Entry<Offset>) => row.projectionName),
  Order.mapInput(Order.Number, ({ row }: Entry<Offset>) => row.shardNumber)
)

export const make = Effect.gen(function* () {
  const { listener, statement, tables } = yield* MemoryDatabase
  const { offsets } = tables

  const select = (transaction: Transaction, { projectionName }: Selection) =>
    transaction
      .entries(offsets)
      .filter(({ row }) => projectionName === undefined || row.projectionName === projectionName)
      .sort(byNameAndShard)

  /** Like an UPDATE or DELETE of many rows: holds each row in turn, and skips a row that was deleted meanwhile. */
  const changeAll = (selection: Selection, change: (offset: Offset) => Offset | undefined) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        let changed = 0
        for (const seen of select(transaction, selection)) {
          const key = keyOf(seen.row)
          const offset = yield* transaction.holdRow(offsets, key, seen)
          if (offset === undefined) continue
          transaction.set(offsets, key, change(offset))
          changed += 1
        }
        return changed
      })
    )

  const advance = ({ from, projectionName, shardNumber, timestamp, to }: Step) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const offset = new Offset({ projectionName, shardNumber, value: to, timestamp })
        const key = keyOf(offset)
        const held = Option.isNone(from) ? transaction.holdPlace(offsets, key) : transaction.holdRow(offsets, key)
        const current = yield* Effect.repeat(held, {
          // `holdRow` finds nothing where another transaction has replaced the row: then it holds the new one.
          until: (row) => row !== undefined || transaction.get(offsets, key) === undefined
        })
        const actual = Option.fromUndefinedOr(current?.value)
        if (!Equal.equals(from, actual)) {
          return yield* new OffsetConflict({ projectionName, shardNumber, expected: from, actual })
        }
        transaction.set(offsets, key, offset)
        return offset
      })
    )

  return yield* fromDriver("memory", {
    write: (offset) =>
      statement((transaction) =>
        Effect.map(transaction.holdPlace(offsets, keyOf(offset)), () => transaction.set(offsets, keyOf(offset), offset))
      ),
    advance,
    get: (id) =>
      statement((transaction) => Effect.sync(() => Option.fromUndefinedOr(transaction.get(offsets, keyOf(id))))),
    list: (selection) =>
      Stream.fromIterableEffect(
        statement((transaction) => Effect.sync(() => select(transaction, selection).map(({ row }) => row)))
      ),
    reset: ({ timestamp, value, ...selection }) =>
      changeAll(
        selection,
        ({ projectionName, shardNumber }) => new Offset({ projectionName, shardNumber, value, timestamp })
      ),
    remove: (selection) => changeAll(selection, () => undefined),
    changes: listener.changes(offsets),
    ping: statement(() => Effect.void)
  })
})

export const layer: Layer.Layer<OffsetStore, never, MemoryDatabase> = Layer.effect(OffsetStore, make)
