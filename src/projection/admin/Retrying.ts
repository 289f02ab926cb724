/**
 * Asking for parked events to be retried. The runner of each shard does it: see `run/ParkedRetry.ts`.
 *
 * **Details**
 *
 * The request is part of the record that says what is parked, and asking changes what runners go by: so each of them looks
 * at that record anew before it handles anything else. An aggregate is only ever let go in answer to a request, in the
 * transaction that handles the last of its events: no runner can go by a record in which it is still parked.
 */
import { Clock, type Duration, Effect, Option, Schema, Stream } from "effect"
import { check } from "../../internal/Arguments.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { Retry } from "../Definition.ts"
import { Parked, records, ShardRecord, shardId } from "../Records.ts"
import { change, parked } from "./Operating.ts"

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
