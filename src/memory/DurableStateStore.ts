/** `DurableStateStore` in memory. */
import { Effect, Layer, Option, Order, Stream } from "effect"
import { isSame, type Selection, type Write } from "../DurableState.ts"
import { DurableState, DurableStateStore, fromDriver, StaleState } from "../DurableStateStore.ts"
import { byCodePoint } from "../internal/CodePoints.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import { type Entry } from "./Table.ts"
import type { Transaction } from "./Transaction.ts"

/** A copy with bytes of its own, so that a caller shares none with the store. */
const copyOf = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: DurableState) =>
  new DurableState({ persistenceId, versionNumber, payload: new Uint8Array(payload), manifest, timestamp, shard })

const byId = Order.mapInput(byCodePoint, ({ row }: Entry<DurableState>) => row.persistenceId)

export const make = Effect.gen(function* () {
  const { statement, tables } = yield* MemoryDatabase
  const { states } = tables

  const select = (transaction: Transaction, { manifest, shard }: Selection) =>
    transaction
      .entries(states)
      .filter(
        ({ row }) =>
          (shard === undefined || row.shard === shard) && (manifest === undefined || row.manifest === manifest)
      )
      .sort(byId)

  /** The states of these entities, in this order, each once. */
  const getAll = (transaction: Transaction, persistenceIds: ReadonlyArray<string>) =>
    [...new Set(persistenceIds)].flatMap((id) => {
      const row = transaction.get(states, id)
      return row === undefined ? [] : [copyOf(row)]
    })

  const write = (state: Write) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const { onDuplicate = "ignore", persistenceId, versionNumber } = state
        const current = yield* transaction.holdPlace(states, persistenceId)
        if (current === undefined || current.versionNumber < versionNumber) {
          transaction.set(states, persistenceId, copyOf(state))
        } else if (onDuplicate === "fail" || !isSame(current, state)) {
          return yield* new StaleState({ persistenceId, attempted: versionNumber, current: copyOf(current) })
        }
      })
    )

  return yield* fromDriver("memory", {
    write,
    overwrite: (state) =>
      statement((transaction) =>
        Effect.map(transaction.holdPlace(states, state.persistenceId), () =>
          transaction.set(states, state.persistenceId, copyOf(state))
        )
      ),
    get: ({ persistenceId }) =>
      statement((transaction) =>
        Effect.sync(() => Option.map(Option.fromUndefinedOr(transaction.get(states, persistenceId)), copyOf))
      ),
    getAll: ({ persistenceIds }) => statement((transaction) => Effect.sync(() => getAll(transaction, persistenceIds))),
    overwriteAndGet: (both) =>
      statement((transaction) =>
        Effect.map(transaction.holdPlace(states, both.persistenceId), () => {
          const before = getAll(transaction, both.persistenceIds)
          transaction.set(states, both.persistenceId, copyOf(both))
          return before
        })
      ),
    list: (selection) =>
      Stream.map(
        Stream.fromIterableEffect(statement((transaction) => Effect.sync(() => select(transaction, selection)))),
        ({ row }) => copyOf(row)
      ),
    remove: ({ persistenceId }) =>
      statement((transaction) =>
        Effect.map(transaction.holdRow(states, persistenceId), (held) => {
          if (held !== undefined) transaction.set(states, persistenceId, undefined)
          return held !== undefined
        })
      ),
    ping: statement(() => Effect.void)
  })
})

export const layer: Layer.Layer<DurableStateStore, never, MemoryDatabase> = Layer.effect(DurableStateStore, make)
