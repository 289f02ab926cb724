/** The records of events that a shard could not handle. */
import { Cause, Clock, Effect, Option } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import { makeTelling, prettyOf } from "../../internal/FailureLog.ts"
import { Failure } from "../Definition.ts"
import { HandlerFailed } from "../Errors.ts"
import { failureId, LastFailure, Parked, records, ShardRecord, shardId, skippedId } from "../Records.ts"

/** The handler's own failure, where it was the handler that failed. */
const innermost = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Option.match(Cause.findErrorOption(cause), {
    onNone: () => cause,
    onSome: (error) => (error instanceof HandlerFailed ? error.cause : cause)
  })

export type FailureRecords = Effect.Success<ReturnType<typeof make>>

/** The records of one shard. */
export const make = Effect.fnUntraced(function* (name: string, shard: number) {
  const record = yield* records
  const tell = makeTelling()

  return {
    describe: (
      { aggregateId, eventType, id: eventId, version }: StoredEvent,
      cause: Cause.Cause<unknown>
    ): Effect.Effect<Failure> =>
      Effect.map(
        Clock.currentTimeMillis,
        (at) =>
          new Failure({
            shardNumber: shard,
            version,
            eventId,
            aggregateId,
            eventType,
            error: prettyOf(innermost(cause)),
            at
          })
      ),

    /** Keeps the last failure of the shard, for `status`: in any case the newer one replaces the older. */
    keep: (failure: Failure) => record.failure.modify(failureId(name, shard), () => new LastFailure({ failure })),

    /** Keeps that the projection has stopped before the event, for those who wait for it. */
    stop: (failure: Failure, stoppedAfter: number) =>
      record.failure.modify(failureId(name, shard), () => new LastFailure({ failure, stoppedAfter })),

    /** The shard runs again. */
    start: Effect.flatMap(record.failure.read(failureId(name, shard)), ({ value: { failure, stoppedAfter } }) =>
      stoppedAfter === undefined
        ? Effect.void
        : record.failure.modify(failureId(name, shard), () => new LastFailure({ failure }))
    ),

    /** Says in the log which event has failed, at which attempt, what happens next, and why the event has failed. */
    tell: ({ aggregateId, error, eventType, version }: Failure, attempt: string, next: string) =>
      Effect.flatMap(tell(error), (text) =>
        Effect.logWarning(
          `projection "${name}" failed at event ${version} ("${eventType}" of "${aggregateId}", shard ${shard}), ` +
            `${attempt}; ${next}: ${text}`
        )
      ),

    /** Records that the event is skipped or parked, in the transaction that passes it. Returns the shard's record. */
    pass: Effect.fnUntraced(function* (failure: Failure, policy: "skip" | "park") {
      const { value } = yield* record.shard.modify(shardId(name, shard), ({ parked, skipped }) =>
        policy === "skip"
          ? new ShardRecord({ parked, skipped: skipped + 1 })
          : new ShardRecord({ parked: [...parked, new Parked(failure)], skipped })
      )
      if (policy === "skip") {
        yield* record.failure.modify(skippedId(name, shard, value.skipped - 1), () => new LastFailure({ failure }))
      }
      return value
    })
  }
})
