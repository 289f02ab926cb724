/** Parked events, once more. */
import { Cause, Effect, Option, Schema, Stream } from "effect"
import { EventStore } from "../EventStore.ts"
import { check } from "../Input.ts"
import { Transactor } from "../Transactor.ts"
import { type HandlerFailed, type Projection, Settings } from "./Definition.ts"
import { Control, controlId, controlOf, hold, Parked, records, ShardRecord, shardId } from "./Records.ts"
import { parked } from "./Operating.ts"

/** What has come of an aggregate that was parked. */
export class Retried extends Schema.Class<Retried>("effect-strata/Projection/Retried")({
  aggregateId: Schema.String,
  /** How many of its events have been handled now. */
  handled: Schema.Int,
  /** Why it remains parked. None if all of its events have been handled: from now on they are again as they come. */
  error: Schema.Option(Schema.String)
}) {}

/**
 * Handles the events of all parked aggregates, each one's in order, exactly once, and says what has come of each. An
 * aggregate that fails again remains parked from that event on; the others do not wait for it.
 */
export const retryParked = Effect.fnUntraced(function* <R>(projection: Projection<R>) {
  const settings = yield* check(Settings, "Projection", "retryParked", projection.settings)
  const { batchSize, name } = settings
  const events = yield* EventStore
  const { withTransaction } = yield* Transactor
  const record = yield* records
  const types = settings.eventTypes && new Set(settings.eventTypes)

  /** Some events of an aggregate, and whether there are more. Nothing if it is not parked any more. */
  const some = ({ aggregateId, shardNumber }: Parked, count: number) =>
    withTransaction(
      Effect.gen(function* () {
        // What has been read up to here is what is parked; no batch gets on meanwhile.
        const offset = yield* hold({ projectionName: name, shardNumber, value: 0n })
        const { value } = yield* record.shard.read(shardId(name, shardNumber))
        const current = value.parked.find((entry) => entry.aggregateId === aggregateId)
        if (offset === undefined || current === undefined) return { handled: 0, more: false }
        const { value: control } = yield* controlOf(name)
        const waiting = (yield* events.loadByAggregate(aggregateId, current.version - 1n)).filter(
          ({ eventType, version }) => version <= offset.value && (types?.has(eventType) ?? true)
        )
        const batch = waiting.slice(0, count)
        const next = waiting[count]
        if (batch.length > 0) yield* projection.handle(batch, control.slot)
        yield* record.shard.modify(
          shardId(name, shardNumber),
          ({ parked: before, skipped }) =>
            new ShardRecord({
              skipped,
              parked: before.flatMap((entry) =>
                entry.aggregateId !== aggregateId
                  ? [entry]
                  : next === undefined
                    ? []
                    : [new Parked({ ...entry, version: next.version, eventId: next.id, eventType: next.eventType })]
              )
            })
        )
        // Who runs the shard must not pass its next events any more.
        if (next === undefined) yield* record.control.modify(controlId(name), (now) => new Control(now))
        return { handled: batch.length, more: next !== undefined }
      })
    )

  const retry = Effect.fnUntraced(function* (entry: Parked) {
    const { aggregateId } = entry
    let handled = 0
    let count = batchSize
    while (true) {
      const result = yield* Effect.catchTag(some(entry, count), "HandlerFailed", (failed: HandlerFailed) =>
        Effect.succeed(failed)
      )
      if ("more" in result) {
        handled += result.handled
        if (!result.more) return new Retried({ aggregateId, handled, error: Option.none() })
      } else if (count === 1) {
        return new Retried({ aggregateId, handled, error: Option.some(Cause.pretty(result.cause)) })
      } else {
        // Those before the one that fails are handled all the same.
        count = Math.max(1, result.index ?? count >> 1)
      }
    }
  })

  return yield* Effect.forEach(yield* Stream.runCollect(parked(name)), retry)
})
