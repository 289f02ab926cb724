/** What workers do with the leases they hold on messages in memory: settle them or renew them. */
import { Effect, Order } from "effect"
import { byCodePoint } from "../../internal/CodePoints.ts"
import { type Heartbeat, type Settle } from "../../SpoolArguments.ts"
import { inOrderOf, lostAmong, unsettledAmong } from "../../SpoolErrors.ts"
import { keyText, type Lease, type Outcome } from "../../SpoolMessage.ts"
import type { MessageRow, Now } from "./MessageRow.ts"
import { renewed, settled } from "./RowChanges.ts"
import type { Rows, SpoolTable } from "./SpoolTable.ts"

const byKey = Order.mapInput(byCodePoint, (lease: Lease) => keyText(lease))

const isHeld = (row: MessageRow | undefined, { attempt, owner }: Lease): row is MessageRow =>
  row?.state === "active" && row.owner === owner && row.attempts === attempt

/** Stores the outcome of a message that this transaction holds. */
const store = (rows: Rows, row: MessageRow, outcome: Outcome, at: Now) => {
  const next = settled(row, outcome, at)
  if (next === undefined) rows.deleteOrRemember(row, at.clock)
  else rows.put(next)
}

/**
 * Settles the messages whose leases are held, after waiting for transactions that hold the messages. It holds the messages
 * in the order of their keys: two settlements of the same messages cannot block each other in a circle.
 */
const settleWaiting = ({ now, statement }: SpoolTable, outcomes: ReadonlyArray<Outcome>) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const at = yield* now
      const held = new Set<string>()
      for (const outcome of outcomes.toSorted(byKey)) {
        if (!isHeld(rows.get(outcome), outcome)) continue
        const row = yield* rows.holdIfThere(outcome)
        if (!isHeld(row, outcome)) continue
        store(rows, row, outcome, at)
        held.add(keyText(outcome))
      }
      return lostAmong(outcomes, held)
    })
  )

/** Settles the messages whose leases are held, but for those that another transaction holds. */
export const trySettle = ({ now, statement }: SpoolTable, { outcomes }: Settle) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const stored = new Set<string>()
      const locked = new Set<string>()
      for (const outcome of outcomes) {
        if (!isHeld(rows.get(outcome), outcome)) continue
        const row = rows.tryHold(outcome)
        if (row === undefined) {
          locked.add(keyText(outcome))
          continue
        }
        store(rows, row, outcome, at)
        stored.add(keyText(outcome))
      }
      return unsettledAmong(outcomes, stored, locked)
    })
  )

/** Outside a transaction, first what nobody else holds. In one, that could make a circle: it keeps what it has locked. */
export const settle = Effect.fnUntraced(function* (table: SpoolTable, { outcomes }: Settle) {
  if (yield* table.inTransaction) return yield* settleWaiting(table, outcomes)
  const { locked, lost } = yield* trySettle(table, { outcomes })
  if (locked.length === 0) return lost
  const keys = new Set(locked.map(keyText))
  const rest = yield* settleWaiting(
    table,
    outcomes.filter((outcome) => keys.has(keyText(outcome)))
  )
  return inOrderOf(outcomes, [...lost, ...rest])
})

/** Renews the leases that are held, but for those of messages that another transaction holds. */
export const renew = ({ now, statement }: SpoolTable, { lease: duration, leases }: Heartbeat) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const held = leases.filter((lease) => isHeld(rows.get(lease), lease))
      for (const lease of held) {
        const row = rows.tryHold(lease)
        if (row !== undefined) rows.put(renewed(row, duration, at))
      }
      return lostAmong(leases, new Set(held.map(keyText)))
    })
  )
