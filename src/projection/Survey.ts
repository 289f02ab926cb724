/** What projections are doing, all of them in a few statements: how far each of their shards is, and whether it runs. */
import { Clock, Duration, Effect, Option, Schema, Stream } from "effect"
import { DurableStateStore } from "../DurableStateStore.ts"
import { EventStore, Version } from "../EventStore.ts"
import { ShardNumber } from "../internal/Fields.ts"
import { type Offset, OffsetStore } from "../OffsetStore.ts"
import { Failure, Name } from "./Definition.ts"
import { type Control, controlId, failureId, records, runnersId, shardId } from "./Records.ts"
import { runnersOfShards } from "./Shards.ts"

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

/** A projection that has run, with its shards in the order of their numbers. */
export interface ProjectionStatus {
  readonly projectionName: string
  readonly shards: ReadonlyArray<ShardStatus>
}

const isName = Schema.is(Name)

/** A process that has been silent for so many of its beats does not run the projection. */
export const mostSilentBeats = 5

/** The records of these projections, read in one statement: to read one of them takes none. */
const recordsOf = Effect.fnUntraced(function* (stored: ReadonlyArray<Offset>) {
  const states = yield* DurableStateStore
  const ids = stored.flatMap(({ projectionName: name, shardNumber: shard }) => [
    controlId(name),
    runnersId(name),
    shardId(name, shard),
    failureId(name, shard)
  ])
  const found = new Map((yield* states.getStates([...new Set(ids)])).map((state) => [state.persistenceId, state]))
  const read = DurableStateStore.of({
    ...states,
    getLatestState: (id) => Effect.succeed(Option.fromUndefinedOr(found.get(id)))
  })
  return yield* Effect.provideService(records, DurableStateStore, read)
})

type Records = Effect.Success<ReturnType<typeof recordsOf>>

/**
 * How old the first event is after each of these versions, in milliseconds. At most so many are read: above the others of a log
 * with many slow shards an event is at most as old as the one before it.
 */
const agesAfter = Effect.fnUntraced(function* (versions: ReadonlyArray<bigint>, mostReads: number) {
  const events = yield* EventStore
  const now = yield* Clock.currentTimeMillis
  const lowest = [...new Set(versions)].sort((a, b) => (a < b ? -1 : 1)).slice(0, mostReads)
  const ages = yield* Effect.forEach(
    lowest,
    (after) =>
      Effect.map(Stream.runCollect(events.read({ after, limit: 1 })), ([next]) => ({
        after,
        age: next === undefined ? 0 : Math.max(0, now - next.createdAt.epochMilliseconds)
      })),
    { concurrency: 4 }
  )
  return (version: bigint) => ages.findLast(({ after }) => after <= version)?.age ?? 0
})

/** The processes that run a projection now. */
const runnersNow = Effect.fnUntraced(function* ({ runners }: Records, name: string, shards: number) {
  const { value } = yield* runners.read(runnersId(name))
  const now = yield* Clock.currentTimeMillis
  const alive = value.runners.filter(({ at, every }) => now - at < mostSilentBeats * every)
  return runnersOfShards(alive, shards)
})

interface Around {
  readonly head: bigint
  readonly control: Control
  readonly ageAfter: (version: bigint) => number
}

const shardStatus = Effect.fnUntraced(function* (
  { failure: failures, shard: shards }: Records,
  { projectionName: name, shardNumber, value: offset }: Offset,
  isRunning: boolean,
  { ageAfter, control, head }: Around
) {
  const { value: last } = yield* failures.read(failureId(name, shardNumber))
  const { value: own } = yield* shards.read(shardId(name, shardNumber))
  const failure = Option.fromNullOr(last.failure)
  return new ShardStatus({
    shardNumber,
    offset,
    head,
    lag: head > offset ? head - offset : 0n,
    behind: Duration.millis(offset < head ? ageAfter(offset) : 0),
    state: control.paused
      ? "paused"
      : Option.exists(failure, ({ version }) => version > offset)
        ? "failed"
        : isRunning
          ? "running"
          : "idle",
    failure,
    parked: own.parked.length,
    skipped: own.skipped
  })
})

/**
 * The status of every projection that has run on this database and was not removed, or of the one with this name: in three
 * statements, and one more for each place in the log at which a shard is behind, at most `mostReads`.
 */
export const survey = Effect.fnUntraced(function* (options: { readonly name?: string; readonly mostReads: number }) {
  const events = yield* EventStore
  const offsets = yield* OffsetStore
  // Other programs may keep offsets in the same table.
  const stored = (yield* Stream.runCollect(offsets.listOffsets(options.name))).filter(({ projectionName }) =>
    isName(projectionName)
  )
  if (stored.length === 0) return []
  const head = yield* events.latestVersion
  const record = yield* recordsOf(stored)
  const known = yield* Effect.forEach(
    Map.groupBy(stored, ({ projectionName }) => projectionName),
    ([name, of]) =>
      Effect.map(record.control.read(controlId(name)), ({ value: control }) => ({
        name,
        control,
        offsets: of.filter(({ shardNumber }) => shardNumber < control.shards)
      }))
  )
  const behind = known.flatMap((one) => one.offsets.flatMap(({ value }) => (value < head ? [value] : [])))
  const ageAfter = yield* agesAfter(behind, options.mostReads)
  return yield* Effect.forEach(
    known.filter(({ control }) => control.shards > 0),
    Effect.fnUntraced(function* ({ control, name, offsets }) {
      const runnerOf = yield* runnersNow(record, name, control.shards)
      const shards = yield* Effect.forEach(offsets, (offset) =>
        shardStatus(record, offset, runnerOf.has(offset.shardNumber), { head, control, ageAfter })
      )
      const status: ProjectionStatus = { projectionName: name, shards }
      return status
    })
  )
})
