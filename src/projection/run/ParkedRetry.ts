/** How the run of a shard retries its parked events, at the request of `admin/Retrying.ts`. */
import { Cause, Effect, Exit, Option, Stream } from "effect"
import { EventStore, type StoredEvent } from "../../EventStore.ts"
import type { StoreError } from "../../StoreError.ts"
import { Transactor } from "../../Transactor.ts"
import { filterOf } from "../Definition.ts"
import { HandlerFailed } from "../Errors.ts"
import { Parked, records, ShardRecord, shardId } from "../Records.ts"
import { isTimeout, type ShardRun } from "./ShardRun.ts"

/** Replaces what is recorded of a parked aggregate, or removes it: then the aggregate is not parked any more. */
const replace = Effect.fnUntraced(function* (id: string, aggregateId: string, entry: Parked | undefined) {
  const record = yield* records
  const others = entry === undefined ? [] : [entry]
  yield* record.shard.modify(
    id,
    ({ parked, skipped }) =>
      new ShardRecord({
        skipped,
        parked: parked.flatMap((current) => (current.aggregateId === aggregateId ? others : [current]))
      })
  )
})

/** The events of a parked aggregate that wait: the run has passed them. Later events come with its next batches. */
const waitingEvents = Effect.fnUntraced(function* <R>(
  { isOwn, offset, settings }: ShardRun<R>,
  { aggregateId, version }: Parked
) {
  const events = yield* EventStore
  const after = version - 1n
  const atLeast = offset()
  // Events do not bring their tags along, so the store has to choose them. Backward it waits for no hole: all are below the offset.
  const chosen = events.read({
    ...filterOf(settings),
    aggregateIds: [aggregateId],
    after,
    atLeast,
    direction: "backward"
  })
  const stored =
    settings.tags === undefined && settings.items === undefined
      ? yield* events.loadByAggregate(aggregateId, after, { atLeast })
      : (yield* Stream.runCollect(chosen)).toReversed()
  return stored.filter((event) => event.version <= atLeast && isOwn(event))
})

/**
 * Retries the first events of a parked aggregate, at most so many, in one transaction. Returns how many to retry next, if
 * there is more to do, or the failure with which the aggregate remains parked. `timedOut` is what has ended the transaction
 * before this one: then nothing is handled.
 */
const retrySome = Effect.fnUntraced(function* <R>(
  run: ShardRun<R>,
  aggregateId: string,
  count: number,
  timedOut?: StoreError
) {
  const { withTransaction } = yield* Transactor
  const record = yield* records
  const id = shardId(run.settings.name, run.shard)
  const { value } = yield* record.shard.read(id)
  const parked = value.parked.find((entry) => entry.aggregateId === aggregateId)
  if (parked?.retryAskedAt === undefined) return undefined
  const waiting = yield* waitingEvents(run, parked)
  const events: ReadonlyArray<StoredEvent> = waiting.slice(0, count)
  const [event] = events
  const handled = event === undefined ? Effect.void : withTransaction(run.handle(events))
  const exit = yield* Effect.exit(timedOut === undefined ? handled : Effect.fail(timedOut))
  if (Exit.isSuccess(exit)) {
    const next = waiting[count]
    yield* replace(
      id,
      aggregateId,
      next && new Parked({ ...parked, version: next.version, eventId: next.id, eventType: next.eventType })
    )
    return next && count
  }
  const failed = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  const index = failed instanceof HandlerFailed ? failed.index : undefined
  // The events before the failed one are handled all the same.
  if (event === undefined || events.length > 1) return Math.max(1, index ?? events.length >> 1)
  const failure = yield* run.failures.describe(event, exit.cause)
  yield* replace(id, aggregateId, new Parked(failure))
  return failure
})

/** Retries the aggregates for which a retry was asked, one after the other. Returns the shard's record as it is then. */
export const retryParked = Effect.fnUntraced(function* <R>(run: ShardRun<R>) {
  const { batchSize, name } = run.settings
  const record = yield* records
  const id = shardId(name, run.shard)
  /** The offset stays where it is: the transaction only holds it. */
  const retry = (aggregateId: string, count: number) =>
    Effect.catchIf(run.transaction(run.offset(), retrySome(run, aggregateId, count)), isTimeout, (error) =>
      run.transaction(run.offset(), retrySome(run, aggregateId, count, error))
    )

  const asked = (yield* record.shard.read(id)).value.parked.filter(({ retryAskedAt }) => retryAskedAt !== undefined)
  for (const { aggregateId } of asked) {
    let next = yield* retry(aggregateId, batchSize)
    while (typeof next === "number") next = yield* retry(aggregateId, next)
    if (next === undefined) continue
    yield* run.failures.keep(next)
    yield* run.failures.tell(next, "retried as asked for", "its aggregate stays parked")
  }
  return (yield* record.shard.read(id)).value
})
