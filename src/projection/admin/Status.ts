/** How far a projection is. */
import { Clock, Duration, Effect, Option, Schema, Stream } from "effect"
import { EventStore, Version } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { ShardNumber } from "../../internal/Fields.ts"
import { type Offset, OffsetStore } from "../../OffsetStore.ts"
import { At, AwaitTimeout, ByName, Failure, Name } from "../Definition.ts"
import { controlId, controlOf, failureId, records, runnersId, shardId } from "../Records.ts"
import { sharedAmong } from "../run/Sharing.ts"

/** How one shard of a projection is. */
export class ShardStatus extends Schema.Class<ShardStatus>("effect-strata/Projection/ShardStatus")({
  shardNumber: ShardNumber,
  /** Everything up to this version has been handled. */
  offset: Version,
  /** The highest version in the log. */
  head: Version,
  /** How many versions it has not passed yet: its own events, and those of other shards. */
  lag: Schema.BigInt,
  /** How old the first event is that it has not passed. */
  behind: Schema.Duration,
  /** `"failed"` where the last failure is of an event that it has not passed, `"idle"` where no process runs it. */
  state: Schema.Literals(["running", "paused", "failed", "idle"]),
  /** The last failure, which may have been overcome. */
  failure: Schema.Option(Failure),
  /** How many of its aggregates are parked. */
  parked: Schema.Int,
  /** How many events it has skipped. */
  skipped: Schema.Int
}) {}

const isName = Schema.is(Name)

/** The names of all projections that have run on this database and have not been removed. */
export const names = Stream.unwrap(
  Effect.gen(function* () {
    const offsets = yield* OffsetStore
    const record = yield* records
    // Not all who keep offsets here are projections of this kind.
    const found = new Set(
      (yield* Stream.runCollect(offsets.listOffsets())).map(({ projectionName }) => projectionName).filter(isName)
    )
    return Stream.fromIterable(found).pipe(
      Stream.filterEffect((name) => Effect.map(record.control.read(controlId(name)), ({ value }) => value.shards > 0))
    )
  })
)

/** Everybody has been silent for so many beats: nobody runs it. */
const silences = 5

/** How each shard of the projection is, in the order of their numbers. */
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
  const alive = runners.runners.filter(({ at, every }) => now - at < silences * every)
  const shared = sharedAmong(alive, control.shards)
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
            : shared.has(shardNumber)
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

/** How far the slowest shard is, if there is one. */
export const lowest = (offsets: ReadonlyArray<Offset>): Option.Option<bigint> =>
  Option.fromUndefinedOr(
    offsets.reduce<bigint | undefined>((low, { value }) => (low === undefined || value < low ? value : low), undefined)
  )

/**
 * Waits until the projection has handled everything up to this version, in whichever process: what is read from its read
 * model then contains it.
 *
 * **Details**
 *
 * Woken when offsets change, in any process; a slow look now and then finds what has woken nobody. A version that is not
 * there yet is waited for, and so is a projection that has not run yet. What was skipped or parked counts as handled.
 */
export const awaitVersion = Effect.fnUntraced(function* (name: string, version: bigint, timeout: Duration.Input) {
  yield* check(At, "Projection", "awaitVersion", { name, version })
  const offsets = yield* OffsetStore
  const reached = Effect.map(Stream.runCollect(offsets.listOffsets(name)), lowest)
  const done = yield* Stream.merge(offsets.changes, Stream.tick("1 second")).pipe(
    Stream.mapEffect(() => reached),
    Stream.filter(Option.exists((at) => at >= version)),
    Stream.take(1),
    Stream.runDrain,
    Effect.timeoutOption(timeout)
  )
  if (Option.isNone(done)) {
    return yield* new AwaitTimeout({ projectionName: name, version, reached: yield* reached })
  }
})
