/** What workers do with the leases they hold on messages in memory: settle them or renew them. */
import { Effect, Order } from "effect"
import { type Heartbeat, type Lease, lostAmong, type Settle } from "../../SpoolMessage.ts"
import { byCodePoint } from "../Table.ts"
import type { MessageRow } from "./MessageRow.ts"
import { renewed, settled } from "./RowChanges.ts"
import type { SpoolTable } from "./SpoolTable.ts"

const byId = Order.mapInput(byCodePoint, ({ id }: Lease) => id)

const isHeld = (row: MessageRow | undefined, { attempt, owner }: Lease): row is MessageRow =>
  row?.state === "active" && row.owner === owner && row.attempts === attempt

/**
 * Settles the messages whose leases are held, after waiting for transactions that hold the messages. It holds the messages
 * in the order of their ids: two settlements of the same messages cannot block each other in a circle.
 */
export const settle = ({ now, statement }: SpoolTable, { outcomes }: Settle) =>
  statement(
    Effect.fnUntraced(function* (rows) {
      const at = yield* now
      const held = new Set<string>()
      for (const outcome of outcomes.toSorted(byId)) {
        const { id } = outcome
        if (!isHeld(rows.get(id), outcome)) continue
        const row = yield* rows.holdIfThere(id)
        if (!isHeld(row, outcome)) continue
        const next = settled(row, outcome, at)
        if (next === undefined) rows.delete(id)
        else rows.put(next)
        held.add(id)
      }
      return lostAmong(outcomes, held)
    })
  )

/** Renews the leases that are held, but for those of messages that another transaction holds. */
export const renew = ({ now, statement }: SpoolTable, { lease: duration, leases }: Heartbeat) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const held = leases.filter((lease) => isHeld(rows.get(lease.id), lease))
      for (const { id } of held) {
        const row = rows.tryHold(id)
        if (row !== undefined) rows.put(renewed(row, duration, at))
      }
      return lostAmong(leases, new Set(held.map(({ id }) => id)))
    })
  )
