/** `OffsetStore` in memory. */
import { Effect, Equal, Layer, Option, Order, Stream } from "effect"
import * as Operation from "../internal/Operation.ts"
import {
  Offset,
  OffsetConflict,
  OffsetStore,
  Projection,
  ProjectionId,
  Reset,
  Selection,
  Step
} from "../OffsetStore.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import { byCodePoint, type Entry } from "./Table.ts"
import type { Transaction } from "./Transaction.ts"

const keyOf = ({ projectionName, shardNumber }: ProjectionId) => `${projectionName}/${shardNumber}`

const byNameAndShard = Order.combine(
  Order.mapInput(byCodePoint, ({ row }: Entry<Offset>) => row.projectionName),
  Order.mapInput(Order.Number, ({ row }: Entry<Offset>) => row.shardNumber)
)

export const make = Effect.gen(function* () {
  const { listener, statement, tables } = yield* MemoryDatabase
  const { offsets } = tables
  const operation = yield* Operation.make("OffsetStore", "memory")

  const select = (transaction: Transaction, { projectionName }: Selection) =>
    transaction
      .entries(offsets)
      .filter(({ row }) => projectionName === undefined || row.projectionName === projectionName)
      .sort(byNameAndShard)

  /** Like an UPDATE or DELETE of many rows: holds each in turn, and skips those deleted meanwhile. */
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

  const writeOffset = operation.fn("writeOffset", Offset, (offset) =>
    statement((transaction) =>
      Effect.map(transaction.holdPlace(offsets, keyOf(offset)), () => transaction.set(offsets, keyOf(offset), offset))
    )
  )

  const advance = operation.fn("advanceOffset", Step, ({ from, projectionName, shardNumber, timestamp, to }) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const offset = new Offset({ projectionName, shardNumber, value: to, timestamp })
        const key = keyOf(offset)
        const held = Option.isNone(from) ? transaction.holdPlace(offsets, key) : transaction.holdRow(offsets, key)
        const current = yield* Effect.repeat(held, {
          // A row that stands in for the one that was waited for is looked at again.
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
  )

  const getCurrentOffset = operation.fn("getCurrentOffset", ProjectionId, (id) =>
    statement((transaction) => Effect.sync(() => Option.fromUndefinedOr(transaction.get(offsets, keyOf(id)))))
  )

  const list = operation.stream("listOffsets", Selection, (selection) =>
    Stream.fromIterableEffect(
      statement((transaction) => Effect.sync(() => select(transaction, selection).map(({ row }) => row)))
    )
  )

  const reset = operation.fn("resetOffset", Reset, ({ timestamp, value, ...selection }) =>
    changeAll(
      selection,
      ({ projectionName, shardNumber }) => new Offset({ projectionName, shardNumber, value, timestamp })
    )
  )

  const remove = operation.fn("deleteOffsets", Projection, (selection) => changeAll(selection, () => undefined))

  const ping = operation.effect(
    "ping",
    statement(() => Effect.void)
  )

  return OffsetStore.of({
    writeOffset,
    advanceOffset: (id, { from, to }) => advance({ ...id, from, to }),
    getCurrentOffset,
    listOffsets: (projectionName) => list(projectionName === undefined ? {} : { projectionName }),
    resetOffset: (projectionName, value) => reset({ projectionName, value }),
    deleteOffsets: (projectionName) => remove({ projectionName }),
    changes: operation.endless("changes", listener.changes(offsets)),
    ping
  })
})

export const layer: Layer.Layer<OffsetStore, never, MemoryDatabase> = Layer.effect(OffsetStore, make)
