/** What a projection is doing: how far each of its shards is, and whether it runs. */
import { Clock, Duration, Effect, Option, Schema, Stream } from "effect"
import { EventStore, Version } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { ShardNumber } from "../../internal/Fields.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { ByName, Failure, Name } from "../Definition.ts"
import { controlId, controlOf, failureId, records, runnersId, shardId } from "../Records.ts"
import { runnersOfShards } from "../Shards.ts"

/** What one shard of a projection is doing. */
export class ShardStatus extends Schema.Class<ShardStatus>("effect-strata/Projection/ShardStatus")({
  shardNumber: ShardNumber,
  /** Every event up to this version was handled. */
  offset: Version,
  /** The highest version in the log. */
  head: Version,
  /** How many versions the shard has not passed yet: its own events, and those of other shards. */
  lag: Schema.BigInt,
  /** How old the first event is that the shard has not passed. */
  behind: Schema.Duration,
  /** `"failed"` where the last failure is of an event that the shard has not passed, `"idle"` where no process runs it. */
  state: Schema.Literals(["running", "paused", "failed", "idle"]),
  /** The last failure. The shard may have overcome it. */
  failure: Schema.Option(Failure),
  /** How many aggregates of the shard are parked. */
  parked: Schema.Int,
  /** How many events the shard has skipped. */
  skipped: Schema.Int
}) {}

const isName = Schema.is(Name)

/** The names of all projections that have run on this database and were not removed. */
export const names = Stream.unwrap(
  Effect.gen(function* () {
    const offsets = yield* OffsetStore
    const record = yield* records
    // Other programs may keep offsets in the same table.
    const found = new Set(
      (yield* Stream.runCollect(offsets.listOffsets())).map(({ projectionName }) => projectionName).filter(isName)
    )
    return Stream.fromIterable(found).pipe(
      Stream.filterEffect((name) => Effect.map(record.control.read(controlId(name)), ({ value }) => value.shards > 0))
    )
  })
)

/** A process that has been silent for so many of its beats does not run the projection. */
const mostSilentBeats = 5

/** The status of each shard, in the order of their numbers. */
export const status = Effect.fnUntraced(function* (name: string) {
  yield* check(ByName, "Projection", "status", { name })
  const events = yield* EventStore
  const offsets = yield* OffsetStore
  const record = yield* records
  const { value: control } = yield* controlOf(name)
  const { value: runners } = yield* record.runners.read(runnersId(name))
  const stored = yield* Stream.runCollect(offsets.listOffsets(name))
  const head = yield* events.latestVersion
  const now = yield* Clock.currentTimeMillis
  const alive = runners.runners.filter(({ at, every }) => now - at < mostSilentBeats * every)
  const runnerOf = runnersOfShards(alive, control.shards)
  return yield* Effect.forEach(
    stored.filter(({ shardNumber }) => shardNumber < control.shards),
    Effect.fnUntraced(function* ({ shardNumber, value: offset }) {
      const { value: last } = yield* record.failure.read(failureId(name, shardNumber))
      const { value: own } = yield* record.shard.read(shardId(name, shardNumber))
      const [next] = offset < head ? yield* Stream.runCollect(events.read({ after: offset, limit: 1 })) : []
      const failure = Option.fromNullOr(last.failure)
      return new ShardStatus({
        shardNumber,
        offset,
        head,
        lag: head > offset ? head - offset : 0n,
        behind: Duration.millis(next === undefined ? 0 : Math.max(0, now - next.createdAt.epochMilliseconds)),
        state: control.paused
          ? "paused"
          : Option.exists(failure, ({ version }) => version > offset)
            ? "failed"
            : runnerOf.has(shardNumber)
              ? "running"
              : "idle",
        failure,
        parked: own.parked.length,
        skipped: own.skipped
      })
    }),
    { concurrency: 4 }
  )
})
