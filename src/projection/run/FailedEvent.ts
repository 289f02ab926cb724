/**
 * An event whose handler fails: it is tried again by the projection's schedule. When that has ended, the projection stops
 * before the event, skips it, or parks its aggregate.
 */
import { Cause, Effect, Exit, Schedule } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import { retryTime } from "../../internal/FailureLog.ts"
import { steadyMillis } from "../../internal/Monotonic.ts"
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
  const record = Effect.fnUntraced(function* (cause: Cause.Cause<unknown>) {
    const failure = yield* run.failures.describe(event, cause)
    return { failure, record: yield* run.failures.pass(failure, policy) }
  })

  const attempt = Effect.gen(function* () {
    const { withTransaction } = yield* Transactor
    const exit = yield* Effect.exit(withTransaction(run.handle([event])))
    return Exit.isSuccess(exit) ? undefined : yield* record(exit.cause)
  })
  return Effect.catchIf(run.transaction(upTo, attempt), isTimeout, (error) =>
    run.transaction(upTo, record(Cause.fail(error)))
  )
}

/** What comes after the last attempt that the schedule allows. */
const lastFate = {
  stop: "the projection stops before it",
  skip: "it is tried a last time at once",
  park: "it is tried a last time at once"
} as const

/** What becomes of an event that is passed. */
const fate = {
  skip: "it is skipped",
  park: "its aggregate is parked, and its later events wait until Projection.retryParked asks for them"
} as const

const stopped = <R>(
  { settings, shard }: ShardRun<R>,
  event: StoredEvent,
  attempts: number,
  { cause }: HandlerFailed
) => {
  const { aggregateId, eventType, id: eventId, version } = event
  return Effect.fail(
    new ProjectionFailed({
      projectionName: settings.name,
      shardNumber: shard,
      version,
      eventId,
      aggregateId,
      eventType,
      attempts,
      cause: Cause.squash(cause)
    })
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
  const { failures, settings } = run
  const nextDelay = yield* Schedule.toStep(retry)
  const now = yield* steadyMillis
  let failed = first
  let attempts = 1
  while (true) {
    const failure = yield* failures.describe(event, failed.cause)
    yield* failures.keep(failure)
    const step = yield* Effect.exit(nextDelay(yield* now, failed.cause))
    if (Exit.isFailure(step)) {
      yield* failures.tell(failure, `attempt ${attempts}`, lastFate[settings.onFailure])
      if (settings.onFailure === "stop") {
        yield* failures.stop(failure, attempts)
        return yield* stopped(run, event, attempts, failed)
      }
      const passed = yield* passEvent(run, batch.upTo, event, settings.onFailure)
      if (passed === undefined) return undefined
      yield* failures.tell(passed.failure, `attempt ${attempts + 1}`, fate[settings.onFailure])
      return passed.record
    }
    const [, delay] = step.value
    yield* failures.tell(failure, `attempt ${attempts}`, `it is tried again ${retryTime(delay)}`)
    yield* Effect.sleep(delay)
    const again = yield* run.attempt(batch)
    if (again === undefined) return undefined
    failed = again
    attempts++
  }
})
