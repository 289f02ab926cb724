/**
 * Asks for parked events to be retried. The run of each shard retries them: see `run/ParkedRetry.ts`.
 *
 * **Details**
 *
 * The request is part of the record of what a shard has parked, and it comes with a new control record: so every run reads
 * the shard's record anew before it handles anything else. An aggregate stops being parked only in answer to a request, in
 * the transaction that handles the last of its events: no run can obey a record in which the aggregate is still parked.
 */
import { Clock, type Duration, Effect, Option, Schema, Stream } from "effect"
import { check } from "../../internal/Arguments.ts"
import { named } from "../../internal/Named.ts"
import { Retry } from "../Definition.ts"
import { Parked, records, ShardRecord, shardId } from "../Records.ts"
import { change } from "./Operating.ts"
import { offsetsMoved } from "./Progress.ts"
import { parked } from "./Unhandled.ts"

/** The result of a retry, for one aggregate that was parked. */
export class Retried extends Schema.Class<Retried>("effect-strata/Projection/Retried")({
  aggregateId: Schema.String,
  /**
   * `"handled"`: all of its events were handled, and later ones are handled as they come. `"parked"`: an event has failed
   * again, and the events from it on wait. `"waiting"`: no process has retried it yet; the next process that can will do so.
   */
  state: Schema.Literals(["handled", "parked", "waiting"]),
  /** Why the aggregate is parked, if it is. */
  error: Schema.Option(Schema.String)
}) {}

/** Adds the request to the records of the shards. The control record changes with it, though only its version does. */
const ask = Effect.fnUntraced(function* (name: string, isWanted: (entry: Parked) => boolean) {
  const record = yield* records
  const now = yield* Clock.currentTimeMillis
  const asked = (entry: Parked) =>
    isWanted(entry) ? new Parked({ ...entry, retryAskedAt: entry.retryAskedAt ?? now }) : entry
  yield* change(
    name,
    Effect.fnUntraced(function* (control) {
      for (let shard = 0; shard < control.shards; shard++) {
        const id = shardId(name, shard)
        const { value } = yield* record.shard.read(id)
        if (!value.parked.some(isWanted)) continue
        yield* record.shard.modify(id, ({ parked, skipped }) => new ShardRecord({ skipped, parked: parked.map(asked) }))
      }
      return control
    })
  )
})

/** What the records say now of aggregates that were parked. */
const resultsOf = (name: string, asked: ReadonlyArray<Parked>) =>
  Effect.map(Stream.runCollect(parked(name)), (all) => {
    const current = new Map(all.map((entry) => [entry.aggregateId, entry]))
    return asked.map(({ aggregateId }) => {
      const entry = current.get(aggregateId)
      const state = entry === undefined ? "handled" : entry.retryAskedAt === undefined ? "parked" : "waiting"
      return new Retried({ aggregateId, state, error: Option.fromUndefinedOr(entry?.error) })
    })
  })

/**
 * Has the events of parked aggregates handled again, of all or of some, and returns the result for each of them: at the
 * latest when the time is over. The events of an aggregate are handled in order, exactly once. An aggregate that fails again
 * remains parked from the failed event on; the others do not wait for it.
 *
 * **Details**
 *
 * Any process may ask. The processes that run the projection retry the events with their handler, at once or as soon as one
 * of them runs. A projection that is paused retries nothing until it is resumed. Aggregates that are not parked have no
 * result.
 *
 * **Gotchas**
 *
 * Inside a transaction the request is made by the commit: waiting for the result there brings nothing.
 */
export const retryParked = Effect.fnUntraced(
  function* (name: string, timeout: Duration.Input, aggregateIds?: ReadonlyArray<string>) {
    yield* check(Retry, "Projection", "retryParked", aggregateIds === undefined ? { name } : { name, aggregateIds })
    const wanted = aggregateIds && new Set(aggregateIds)
    const isWanted = ({ aggregateId }: Parked) => wanted?.has(aggregateId) ?? true
    const asked = (yield* Stream.runCollect(parked(name))).filter(isWanted)
    if (asked.length === 0) return []
    yield* ask(name, isWanted)

    const look = resultsOf(name, asked)
    const results = yield* offsetsMoved.pipe(
      Stream.mapEffect(() => look),
      Stream.filter((results) => results.every(({ state }) => state !== "waiting")),
      Stream.runHead,
      Effect.timeoutOption(timeout)
    )
    return Option.getOrUndefined(Option.flatten(results)) ?? (yield* look)
  },
  Effect.mapError(named("Projection", "retryParked"))
)
