/** What is kept of events that could not be handled. */
import { Cause, Clock, Effect, Option } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import { Failure, HandlerFailed } from "../Definition.ts"
import { failureId, LastFailure, Parked, records, ShardRecord, shardId, skippedId } from "../Records.ts"

/** As much of an error as is kept. */
const longest = 4000

/** What the handler itself failed with, where it was that. */
const innermost = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Option.match(Cause.findErrorOption(cause), {
    onNone: () => cause,
    onSome: (error) => (error instanceof HandlerFailed ? error.cause : cause)
  })

/** Text that every database takes. */
const textOf = (cause: Cause.Cause<unknown>): string =>
  Cause.pretty(innermost(cause)).replaceAll("\0", "\uFFFD").toWellFormed().slice(0, longest).toWellFormed()

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

    /** The last failure, for `status`. Whatever happens, the newer one stays. */
    report: (failure: Failure) =>
      Effect.andThen(
        record.failure.modify(failureId(name, shard), () => new LastFailure({ failure })),
        Effect.logWarning(
          `projection "${name}" failed at event ${failure.version} ("${failure.eventType}" of "${failure.aggregateId}")`
        )
      ),

    /** Inside the transaction that passes the event. Returns the shard's record as it is then. */
    record: Effect.fnUntraced(function* (failure: Failure, policy: "skip" | "park") {
      const written = yield* record.shard.modify(shardId(name, shard), ({ parked, skipped }) =>
        policy === "skip"
          ? new ShardRecord({ parked, skipped: skipped + 1 })
          : new ShardRecord({ parked: [...parked, new Parked(failure)], skipped })
      )
      if (policy === "park") return written.value
      const place = skippedId(name, shard, written.value.skipped - 1)
      yield* record.failure.modify(place, () => new LastFailure({ failure }))
      return written.value
    })
  }
})
