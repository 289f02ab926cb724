/**
 * Parked events, once more: anybody asks for it, and whoever runs the shard does it.
 *
 * **Details**
 *
 * The request is part of the record that says what is parked, and asking changes what runners go by: so each of them looks
 * at that record anew before it handles anything else. An aggregate is only ever let go in answer to a request, in the
 * transaction that handles the last of its events: no runner can go by a record in which it is still parked.
 */
import { Cause, Clock, type Duration, Effect, Exit, Option, Schema, Stream } from "effect"
import { EventStore } from "../EventStore.ts"
import { check, type InvalidInput } from "../Input.ts"
import { OffsetStore } from "../OffsetStore.ts"
import type { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"
import { HandlerFailed, type Outdated, type Projection, Retry, type Settings, type Slot } from "./Definition.ts"
import type * as Failures from "./Failures.ts"
import { change, parked } from "./Operating.ts"
import { Parked, records, ShardRecord, shardId } from "./Records.ts"

/** What has come of an aggregate that was parked. */
export class Retried extends Schema.Class<Retried>("effect-strata/Projection/Retried")({
  aggregateId: Schema.String,
  /**
   * `"handled"`: all of its events, and from now on they are again as they come. `"parked"`: it has failed again, from that
   * event on. `"waiting"`: nobody has got to it yet, and it will be retried as soon as somebody does.
   */
  state: Schema.Literals(["handled", "parked", "waiting"]),
  /** Why it is parked, if it is. */
  error: Schema.Option(Schema.String)
}) {}

/**
 * Has the events of parked aggregates handled again, of all or of some, and says what has come of each: at the latest when
 * the time is over. Each one's are handled in order, exactly once. An aggregate that fails again remains parked from that
 * event on; the others do not wait for it.
 *
 * **Details**
 *
 * It can be asked for from any process: those who run the projection do it, with their handler, at once or as soon as one
 * of them runs. A projection that is paused waits until it is resumed. What is not parked is left out of the result.
 *
 * **Gotchas**
 *
 * Inside a transaction it is asked for with its commit: nothing comes of it as long as it is waited for there.
 */
export const retryParked = Effect.fnUntraced(function* (
  name: string,
  timeout: Duration.Input,
  aggregateIds?: ReadonlyArray<string>
) {
  const wanted = aggregateIds && new Set(aggregateIds)
  yield* check(Retry, "Projection", "retryParked", aggregateIds === undefined ? { name } : { name, aggregateIds })
  const offsets = yield* OffsetStore
  const record = yield* records
  const now = yield* Clock.currentTimeMillis
  const isWanted = ({ aggregateId }: Parked) => wanted?.has(aggregateId) ?? true

  const asked = (yield* Stream.runCollect(parked(name))).filter(isWanted)
  if (asked.length === 0) return []
  yield* change(
    name,
    Effect.fnUntraced(function* (control) {
      for (let shard = 0; shard < control.shards; shard++) {
        const { value } = yield* record.shard.read(shardId(name, shard))
        if (!value.parked.some(isWanted)) continue
        yield* record.shard.modify(
          shardId(name, shard),
          ({ parked, skipped }) =>
            new ShardRecord({
              skipped,
              parked: parked.map((entry) =>
                isWanted(entry) ? new Parked({ ...entry, retryAskedAt: entry.retryAskedAt ?? now }) : entry
              )
            })
        )
      }
      return control
    })
  )

  const look = Effect.map(Stream.runCollect(parked(name)), (all) => {
    const current = new Map(all.map((entry) => [entry.aggregateId, entry]))
    return asked.map(({ aggregateId }) => {
      const entry = current.get(aggregateId)
      const state = entry === undefined ? "handled" : entry.retryAskedAt === undefined ? "parked" : "waiting"
      return new Retried({ aggregateId, state, error: Option.fromUndefinedOr(entry?.error) })
    })
  })
  const isOver = (results: ReadonlyArray<Retried>) => results.every(({ state }) => state !== "waiting")
  const results = yield* Stream.merge(offsets.changes, Stream.tick("1 second")).pipe(
    Stream.mapEffect(() => look),
    Stream.filter(isOver),
    Stream.runHead,
    Effect.timeoutOption(timeout)
  )
  return Option.getOrUndefined(Option.flatten(results)) ?? (yield* look)
})

/** What a shard is run with. */
interface Run<R> {
  readonly settings: Settings
  readonly shard: number
  readonly slot: Slot
  /** Where the shard is. */
  readonly offset: bigint
  readonly handle: Projection<R>["handle"]
  readonly failures: Effect.Success<ReturnType<typeof Failures.make>>
  /** A transaction that holds the shard where it is. */
  readonly held: <A, E, R2>(
    body: Effect.Effect<A, E, R2>
  ) => Effect.Effect<A, E | Outdated | InvalidInput | StoreError, R2>
}

/** Retries what has been asked for, one aggregate after the other, and returns what is parked then. */
export const serve = Effect.fnUntraced(function* <R>({
  failures,
  handle,
  held,
  offset,
  settings,
  shard,
  slot
}: Run<R>) {
  const { batchSize, name } = settings
  const events = yield* EventStore
  const { withTransaction } = yield* Transactor
  const { shard: record } = yield* records
  const id = shardId(name, shard)
  const types = settings.eventTypes && new Set(settings.eventTypes)

  /** What the aggregate becomes: another entry in its place, or none. */
  const replace = (aggregateId: string, entry: Parked | undefined) =>
    record.modify(
      id,
      ({ parked, skipped }) =>
        new ShardRecord({
          skipped,
          parked: parked.flatMap((current) =>
            current.aggregateId !== aggregateId ? [current] : entry === undefined ? [] : [entry]
          )
        })
    )

  /** Some of its events, at most so many: says how many to try next, if there is more to do, or how it has failed. */
  const some = (aggregateId: string, count: number) =>
    held(
      Effect.gen(function* () {
        const { value } = yield* record.read(id)
        const current = value.parked.find((entry) => entry.aggregateId === aggregateId)
        if (current?.retryAskedAt === undefined) return undefined
        // What has been read up to here is what waits: later ones are again as they come.
        const waiting = (yield* events.loadByAggregate(aggregateId, current.version - 1n)).filter(
          ({ eventType, version }) => version <= offset && (types?.has(eventType) ?? true)
        )
        const batch = waiting.slice(0, count)
        const [event] = batch
        const exit = yield* Effect.exit(event === undefined ? Effect.void : withTransaction(handle(batch, slot)))
        if (Exit.isSuccess(exit)) {
          const next = waiting[count]
          yield* replace(
            aggregateId,
            next && new Parked({ ...current, version: next.version, eventId: next.id, eventType: next.eventType })
          )
          return next && count
        }
        const failed = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
        const index = failed instanceof HandlerFailed ? failed.index : undefined
        // Those before the one that fails are handled all the same.
        if (event === undefined || batch.length > 1) return Math.max(1, index ?? batch.length >> 1)
        const failure = yield* failures.describe(event, exit.cause)
        yield* replace(aggregateId, new Parked(failure))
        return failure
      })
    )

  const asked = (yield* record.read(id)).value.parked.filter(({ retryAskedAt }) => retryAskedAt !== undefined)
  for (const { aggregateId } of asked) {
    let next = yield* some(aggregateId, batchSize)
    while (typeof next === "number") next = yield* some(aggregateId, next)
    if (next !== undefined) yield* failures.report(next)
  }
  return (yield* record.read(id)).value
})
