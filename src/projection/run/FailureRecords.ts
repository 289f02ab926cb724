/** The records of events that a shard could not handle. */
import { Cause, Clock, Effect, Option } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import { Failure } from "../Definition.ts"
import { HandlerFailed } from "../Errors.ts"
import { failureId, LastFailure, Parked, records, ShardRecord, shardId, skippedId } from "../Records.ts"

/** How many characters of an error are kept. */
const longestText = 4000

/** The handler's own failure, where it was the handler that failed. */
const innermost = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Option.match(Cause.findErrorOption(cause), {
    onNone: () => cause,
    onSome: (error) => (error instanceof HandlerFailed ? error.cause : cause)
  })

/** Text that every database takes. */
const textOf = (cause: Cause.Cause<unknown>): string =>
  Cause.pretty(innermost(cause)).replaceAll("\0", "\uFFFD").toWellFormed().slice(0, longestText).toWellFormed()

export type FailureRecords = Effect.Success<ReturnType<typeof make>>

/** The records of one shard. */
export const make = Effect.fnUntraced(function* (name: string, shard: number) {
  const record = yield* records

  return {
    describe: (
      { aggregateId, eventType, id: eventId, version }: StoredEvent,
      cause: Cause.Cause<unknown>
    ): Effect.Effect<Failure> =>
      Effect.map(
        Clock.currentTimeMillis,
        (at) => new Failure({ shardNumber: shard, version, eventId, aggregateId, eventType, error: textOf(cause), at })
      ),

    /** Keeps the last failure of the shard, for `status`: in any case the newer one replaces the older. */
    report: (failure: Failure) =>
      Effect.andThen(
        record.failure.modify(failureId(name, shard), () => new LastFailure({ failure })),
        Effect.logWarning(
          `projection "${name}" failed at event ${failure.version} ("${failure.eventType}" of "${failure.aggregateId}")`
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
