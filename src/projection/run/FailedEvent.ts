/**
 * An event whose handler fails: it is tried again by the projection's schedule. When that has ended, the projection stops
 * before the event, skips it, or parks its aggregate.
 */
import { Cause, Clock, Effect, Exit, Schedule } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import { Transactor } from "../../Transactor.ts"
import type { Projection } from "../Definition.ts"
import { type HandlerFailed, ProjectionFailed } from "../Errors.ts"
import type { Batch } from "./Feed.ts"
import { isTimeout, type ShardRun } from "./ShardRun.ts"

/**
 * Makes the last attempt in the transaction that records its failure. So a failure that only comes of a lost connection is
 * never recorded as a failure of the event: with the connection the record is lost, too. A time limit that has ended the
 * transaction is the handler's failure: another transaction records it.
 */
const passEvent = <R>(run: ShardRun<R>, upTo: bigint, event: StoredEvent, policy: "skip" | "park") => {
  const record = (cause: Cause.Cause<unknown>) =>
    Effect.flatMap(run.failures.describe(event, cause), (failure) => run.failures.pass(failure, policy))

  const attempt = Effect.gen(function* () {
    const { withTransaction } = yield* Transactor
    const exit = yield* Effect.exit(withTransaction(run.handle([event])))
    return Exit.isSuccess(exit) ? undefined : yield* record(exit.cause)
  })
  return Effect.catchIf(run.transaction(upTo, attempt), isTimeout, (error) =>
    run.transaction(upTo, record(Cause.fail(error)))
  )
}

/**
 * Handles an event that has failed once, by itself: `batch` has no other. Returns the shard's record if the event was
 * skipped or its aggregate parked, or fails with `ProjectionFailed` where the projection is to stop.
 */
export const handleAgain = Effect.fnUntraced(function* <R>(
  run: ShardRun<R>,
  retry: Projection["retry"],
  batch: Batch,
  event: StoredEvent,
  first: HandlerFailed
) {
  const { failures, settings, shard } = run
  const nextDelay = yield* Schedule.toStep(retry)
  let failed = first
  let attempts = 1
  while (true) {
    yield* failures.report(yield* failures.describe(event, failed.cause))
    const step = yield* Effect.exit(nextDelay(yield* Clock.currentTimeMillis, failed.cause))
    if (Exit.isFailure(step)) break
    yield* Effect.sleep(step.value[1])
    const again = yield* run.attempt(batch)
    if (again === undefined) return undefined
    failed = again
    attempts++
  }
  if (settings.onFailure !== "stop") return yield* passEvent(run, batch.upTo, event, settings.onFailure)
  const { aggregateId, eventType, id: eventId, version } = event
  return yield* new ProjectionFailed({
    projectionName: settings.name,
    shardNumber: shard,
    version,
    eventId,
    aggregateId,
    eventType,
    attempts,
    cause: Cause.squash(failed.cause)
  })
})
