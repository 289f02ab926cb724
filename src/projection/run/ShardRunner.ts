/** Runs one shard of a projection: batch after batch, each with its offset in one transaction. */
import { Effect } from "effect"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { Projection, Settings } from "../Definition.ts"
import type { ShardRecord } from "../Records.ts"
import { handleAgain } from "./FailedEvent.ts"
import type { Batch, Feed } from "./Feed.ts"
import { retryParked } from "./ParkedRetry.ts"
import * as ShardRun from "./ShardRun.ts"

/**
 * The least time between two moves of an offset past events that do not concern the shard, in milliseconds: longer where
 * there are so many shards that their moves would be a load.
 */
const leastMillisBetweenPasses = (shards: number): number => Math.max(100, 10 * shards)

const parkedIn = ({ parked }: ShardRecord): ReadonlySet<string> => new Set(parked.map(({ aggregateId }) => aggregateId))

/**
 * The batches to handle one after the other, where the whole batch has failed: the event that has failed by itself, and
 * those before and after it. Where it is not known which event has failed, the two halves.
 */
const split = ({ events, upTo }: Batch, failed: number | undefined): ReadonlyArray<Batch> => {
  const cuts = failed === undefined ? [events.length >> 1] : [failed, failed + 1]
  return [0, ...cuts].flatMap((start, index) => {
    const part = events.slice(start, cuts[index])
    const last = part.at(-1)
    if (last === undefined) return []
    return [{ events: part, upTo: cuts[index] === undefined || cuts[index] === events.length ? upTo : last.version }]
  })
}

/** Runs the shard for ever, from the offset on. */
export const run = Effect.fnUntraced(function* <R>(
  projection: Pick<Projection<R>, "handle" | "retry" | "shardBy">,
  settings: Settings,
  shard: number,
  start: ShardRun.Start,
  feed: Feed
) {
  const { batchSize, shards } = settings
  const run = yield* ShardRun.make(projection, settings, shard, start)
  yield* run.failures.start
  let parked = parkedIn(yield* retryParked(run))

  const handle = Effect.fnUntraced(function* (whole: Batch) {
    const batches = [whole]
    for (let batch = batches.shift(); batch !== undefined; batch = batches.shift()) {
      const { upTo } = batch
      const events = batch.events.filter(({ aggregateId }) => !parked.has(aggregateId))
      const [event] = events
      if (event === undefined) {
        yield* run.transaction(upTo, Effect.void)
        continue
      }
      const failed = yield* run.attempt({ events, upTo })
      if (failed === undefined) continue
      if (events.length > 1) {
        batches.unshift(...split({ events, upTo }, failed.index))
        continue
      }
      const record = yield* handleAgain(run, projection.retry, { events, upTo }, event, failed)
      if (record !== undefined) parked = parkedIn(record)
    }
  })

  while (true) {
    yield* feed.untilBeyond(run.offset())
    const batch = feed.take(batchSize)
    if (batch.events.length > 0) {
      yield* handle(batch)
      continue
    }
    // There is no event for this shard, but its offset follows the log: at once if it has not moved for a while, yet not with
    // every event.
    const wait = run.movedAt() + leastMillisBetweenPasses(shards) - (yield* monotonicMillis)
    if (wait > 0) yield* Effect.timeoutOption(feed.untilEvent, wait)
    if (feed.isEmpty) yield* run.pass(feed.upTo)
  }
})
