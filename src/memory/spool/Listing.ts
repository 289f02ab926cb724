/** The operations of `SpoolStore` in memory that are about many messages, by their state: to list, count and purge. */
import { Duration, Effect, Option, Stream } from "effect"
import { byCodePoint } from "../../internal/CodePoints.ts"
import { millisOf } from "../../internal/Fields.ts"
import { type Forget, type Iterate, type List, type Purge, type Selection } from "../../SpoolArguments.ts"
import { type Counts, noMessages, type Page, type QueueOverview, type State } from "../../SpoolMessage.ts"
import { byAge, byId, bySortField, type MessageRow, type Now, toMessage } from "./MessageRow.ts"
import { inQueueOrAny, type SpoolTable } from "./SpoolTable.ts"

export const list = (
  { statement }: SpoolTable,
  { limit, offset, queue, since, sortBy, sortOrder, state, total }: List
) =>
  statement((rows) =>
    Effect.sync((): Page => {
      const earliest = since?.epochMilliseconds ?? Number.NEGATIVE_INFINITY
      const isIn = inQueueOrAny(queue)
      const sorted = rows.select(
        (row) => row.state === state && row.updated >= earliest && isIn(row),
        bySortField[sortBy]
      )
      const all = sortOrder === "asc" ? sorted : sorted.toReversed()
      return {
        messages: all.slice(offset, offset + limit).map((row) => toMessage(row, false)),
        hasMore: all.length > offset + limit,
        total: total ? Option.some(all.length) : Option.none()
      }
    })
  )

export const iterate = ({ statement }: SpoolTable, { batchSize, queue, state }: Iterate) => {
  const isIn = inQueueOrAny(queue)
  return Stream.paginate(undefined, (after: MessageRow | undefined) =>
    statement((rows) =>
      Effect.sync(() => {
        const rest = rows.select(
          (row) => row.state === state && isIn(row) && (after === undefined || byAge(row, after) > 0),
          byAge
        )
        const batch = rest.slice(0, batchSize)
        const last = batch.length < batchSize ? Option.none() : Option.fromUndefinedOr(batch.at(-1))
        return [batch.map((row) => toMessage(row, false)), last] as const
      })
    )
  )
}

export const count = ({ statement }: SpoolTable, { queue }: Selection) =>
  statement((rows) =>
    Effect.sync((): Counts => {
      const counts: Record<State, number> = { ...noMessages }
      for (const row of rows.select(inQueueOrAny(queue), byId)) counts[row.state] += 1
      return counts
    })
  )

const { archived: _, ...noneWaiting } = noMessages

/** What the messages of one queue add up to. */
const overviewOf = (queue: string | undefined, rows: ReadonlyArray<MessageRow>, { clock }: Now): QueueOverview => {
  const counts = { ...noneWaiting }
  let leased = 0
  let since: number | undefined
  for (const { created, leaseUntil, nextRetry, state } of rows) {
    if (state === "archived") continue
    counts[state] += 1
    if (state === "active" && leaseUntil !== undefined && leaseUntil > clock) leased += 1
    const readyAt = state === "incoming" ? created : state === "deferred" && nextRetry <= clock ? nextRetry : undefined
    if (readyAt !== undefined) since = Math.min(readyAt, since ?? readyAt)
  }
  const oldestReady = Option.map(Option.fromUndefinedOr(since), (at) =>
    Duration.millis(Math.max(0, clock - Math.floor(at)))
  )
  return { queue, counts, estimated: [], leased, oldestReady }
}

export const overview = ({ now, statement }: SpoolTable) =>
  statement((rows) =>
    Effect.map(now, (at) => {
      const byQueue = Map.groupBy(
        rows.select(({ state }) => state !== "archived", byAge),
        ({ queue }) => queue
      )
      return [...byQueue.entries()]
        .toSorted(([a = ""], [b = ""]) => byCodePoint(a, b))
        .map(([queue, messages]) => overviewOf(queue, messages, at))
    })
  )

export const purge = ({ now, statement }: SpoolTable, { limit, olderThan, queue, state }: Purge) =>
  statement((rows) =>
    Effect.map(now, ({ stamp }) => {
      const latest = stamp - millisOf(olderThan)
      const isIn = inQueueOrAny(queue)
      const isOld = (row: MessageRow) => row.state === state && isIn(row) && row.updated <= latest
      const old = rows.holdFirst(rows.select(isOld, byAge), limit)
      for (const row of old) rows.deleteOrRemember(row, row.updated)
      return old.length
    })
  )

export const forget = ({ now, statement }: SpoolTable, { limit }: Forget) =>
  statement((rows) => Effect.map(now, (at) => rows.forget(limit, at)))
