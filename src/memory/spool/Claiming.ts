/** How workers get messages from `SpoolStore` in memory: claims, claims that are given up, and when there is something to get. */
import { Duration, Effect, Option } from "effect"
import { type Claim, defaultGrace, type Recover, reservedOf, type Selection } from "../../SpoolMessage.ts"
import { byAge, byId, byPriorityAndAge, byPriorityAndDue, type MessageRow, type Now, toMessage } from "./MessageRow.ts"
import { claimed, dueTime, leaseEnd, recovered } from "./RowChanges.ts"
import { inQueueOrAny, inState, type SpoolTable } from "./SpoolTable.ts"

/** Keeps the deferred messages of a queue, or of those in no queue, that are due. */
const isDue = (queue: string | undefined, { clock }: Now) => {
  const isDeferred = inState("deferred", queue)
  return (row: MessageRow) => isDeferred(row) && dueTime(row) <= clock
}

export const claim = ({ now, statement }: SpoolTable, input: Claim) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const { lease, limit, owner, queue } = input
      const incoming = rows.select(inState("incoming", queue), byPriorityAndAge)
      const reserved = Math.min(reservedOf(input), incoming.length)
      const due = rows.holdFirst(rows.select(isDue(queue, at), byPriorityAndDue), limit - reserved)
      return [...due, ...rows.holdFirst(incoming, limit - due.length)]
        .sort(byPriorityAndAge)
        .map((row) => toMessage(rows.put(claimed(row, owner, lease, at))))
    })
  )

export const recover = ({ now, statement }: SpoolTable, { grace, limit, queue }: Recover) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const isIn = inQueueOrAny(queue)
      const isExpired = (row: MessageRow) => row.state === "active" && isIn(row) && leaseEnd(row, grace) <= at.stamp
      return rows.holdFirst(rows.select(isExpired, byAge), limit).map((row) => toMessage(rows.put(recovered(row, at))))
    })
  )

/** How far the earliest of these times is from `from`, or none where there is no time. */
const untilEarliest = (times: ReadonlyArray<number>, from: number) =>
  times.length === 0 ? Option.none() : Option.some(Duration.millis(Math.max(0, Math.min(...times) - from)))

export const untilReady = ({ now, statement }: SpoolTable, { queue }: Selection) =>
  statement((rows) =>
    Effect.map(now, ({ clock }) =>
      untilEarliest(
        [
          ...rows.select(inState("incoming", queue), byId).map(() => clock),
          ...rows.select(inState("deferred", queue), byId).map(dueTime),
          ...rows.select(inState("active", queue), byId).map((row) => leaseEnd(row, defaultGrace))
        ],
        clock
      )
    )
  )

export const oldestReady = ({ now, statement }: SpoolTable, { queue }: Selection) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const readySince = [
        ...rows.select(inState("incoming", queue), byId).map((row) => row.created),
        ...rows.select(isDue(queue, at), byId).map((row) => row.nextRetry)
      ]
      return readySince.length === 0
        ? Option.none()
        : Option.some(Duration.millis(Math.max(0, at.clock - Math.floor(Math.min(...readySince)))))
    })
  )
