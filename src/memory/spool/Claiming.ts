/** How workers get messages from `SpoolStore` in memory: claims, claims that are given up, and when there is something to get. */
import { Duration, Effect, Option } from "effect"
import { type Claim, defaultGrace, type Recover, reservedOf, type Selection } from "../../SpoolArguments.ts"
import { byAge, byPriorityAndAge, byPriorityAndDue, type MessageRow, type Now, toMessage } from "./MessageRow.ts"
import { claimed, dueTime, leaseEnd, recovered } from "./RowChanges.ts"
import { inQueueOrAny, type Rows, type SpoolTable } from "./SpoolTable.ts"

/** The deferred messages of a queue, or of those in no queue, that are due. */
const dueOf = (rows: Rows, queue: string | undefined, { clock }: Now) =>
  rows.inState("deferred", queue).filter((row) => dueTime(row) <= clock)

export const claim = ({ now, statement }: SpoolTable, input: Claim) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const { lease, limit, owner, queue } = input
      const incoming = rows.inState("incoming", queue).sort(byPriorityAndAge)
      const reserved = Math.min(reservedOf(input), incoming.length)
      const due = rows.holdFirst(dueOf(rows, queue, at).sort(byPriorityAndDue), limit - reserved)
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
  Option.map(earliest(times), (time) => Duration.millis(Math.max(0, time - from)))

const earliest = (times: ReadonlyArray<number>): Option.Option<number> =>
  times.length === 0 ? Option.none() : Option.some(times.reduce((a, b) => Math.min(a, b)))

export const untilReady = ({ now, statement }: SpoolTable, { queue }: Selection) =>
  statement((rows) =>
    Effect.map(now, ({ clock }) =>
      untilEarliest(
        [
          ...rows.inState("incoming", queue).map(() => clock),
          ...rows.inState("deferred", queue).map(dueTime),
          ...rows.inState("active", queue).map((row) => leaseEnd(row, defaultGrace))
        ],
        clock
      )
    )
  )

export const oldestReady = ({ now, statement }: SpoolTable, { queue }: Selection) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const readySince = [
        ...rows.inState("incoming", queue).map((row) => row.created),
        ...dueOf(rows, queue, at).map((row) => row.nextRetry)
      ]
      return Option.map(earliest(readySince), (since) => Duration.millis(Math.max(0, at.clock - Math.floor(since))))
    })
  )
