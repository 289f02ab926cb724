/** What projections are doing, all of them in a few statements: how far each of their shards is, and whether it runs. */
import { Clock, DateTime, Duration, Effect, Option, Schema, Stream } from "effect"
import { EventStore, Version } from "../EventStore.ts"
import { ShardNumber } from "../internal/Fields.ts"
import { type Offset, OffsetStore } from "../OffsetStore.ts"
import { Failure, Name } from "./Definition.ts"
import { hearAll } from "./Heard.ts"
import {
  type Control,
  controlId,
  divisionId,
  failureId,
  recordsAt,
  type RecordsAt,
  runnersId,
  shardId
} from "./Records.ts"

/** A process that runs projections. */
export class RunningProcess extends Schema.Class<RunningProcess>("effect-strata/Projection/RunningProcess")({
  id: Schema.String,
  /** The `ProcessName`. */
  name: Schema.String,
  host: Schema.String,
  /** Its number on its host. */
  pid: Schema.Int,
  /** Since when it has run projections, by its own clock. */
  since: Schema.DateTimeUtc,
  /** When it has last said that it lives, by its own clock. */
  heardAt: Schema.DateTimeUtc,
  /** Whether it has been silent for so long that it must have died. */
  isSilent: Schema.Boolean,
  /** The shards that it runs, in the order of the names of their projections. */
  runs: Schema.Array(Schema.Struct({ projectionName: Schema.String, shards: Schema.Array(ShardNumber) }))
}) {}

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
  /** The process that runs it, or that has run it and is silent. None where the process is of an earlier version, too. */
  process: Schema.Option(RunningProcess),
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

/** A process of an earlier version that has been silent for so many of its beats does not run the projection. */
const mostSilentBeats = 5

/** The records of these projections, and the division. */
const recordsOf = (stored: ReadonlyArray<Offset>) =>
  recordsAt([
    divisionId,
    ...stored.flatMap(({ projectionName: name, shardNumber: shard }) => [
      controlId(name),
      runnersId(name),
      shardId(name, shard),
      failureId(name, shard)
    ])
  ])

/**
 * The first event after a version. A standby that has no mark of its primary there does not know it: then it is the last event, and
 * the first one is at least as old.
 */
const firstAfter = (events: EventStore["Service"], after: bigint) =>
  Effect.catchIf(
    Stream.runCollect(events.read({ after, limit: 1 })),
    (error) => error._tag === "StoreError" && error.reason._tag === "Denied" && error.reason.mayPass === true,
    () => Stream.runCollect(events.read({ after, limit: 1, direction: "backward" }))
  )

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
      Effect.map(firstAfter(events, after), ([next]) => ({
        after,
        age: next === undefined ? 0 : Math.max(0, now - next.createdAt.epochMilliseconds)
      })),
    { concurrency: 4 }
  )
  return (version: bigint) => ages.findLast(({ after }) => after <= version)?.age ?? 0
})

const isSilent = (now: number, { at, every }: { readonly at: number; readonly every: number }) =>
  now - at >= mostSilentBeats * every

const byName = (a: { readonly name: string }, b: { readonly name: string }) => (a.name < b.name ? -1 : 1)

/** The processes that take part in the division, in one statement where their clocks leave no doubt that they live. */
const processesOf = Effect.fnUntraced(function* ({ division }: RecordsAt, mayWait: boolean) {
  const { members } = (yield* division.read(divisionId)).value
  if (members.length === 0) return []
  const all = yield* hearAll(
    members.map(({ id }) => id),
    mayWait
  )
  return all.map(
    ({ beat: { at, host, name, pid, runs, since }, id, isSilent }) =>
      new RunningProcess({
        id,
        name,
        host,
        pid,
        since: DateTime.makeUnsafe(since),
        heardAt: DateTime.makeUnsafe(at),
        isSilent,
        runs: runs.toSorted(byName).map(({ name, shards }) => ({ projectionName: name, shards }))
      })
  )
})

/** The processes that run projections on this database. */
export const processes = Effect.flatMap(recordsAt([divisionId]), (record) => processesOf(record, true))

interface Running {
  readonly process: Option.Option<RunningProcess>
  readonly isRunning: boolean
}

/** Who runs each shard of a projection. */
const runnersNow = Effect.fnUntraced(function* (
  { runners }: RecordsAt,
  all: ReadonlyArray<RunningProcess>,
  name: string
) {
  const now = yield* Clock.currentTimeMillis
  const former = (yield* runners.read(runnersId(name))).value.runners.some((runner) => !isSilent(now, runner))
  // Where two say so for a moment, one of them has died, or the one that was heard last has taken over.
  const byTime = all.toSorted(
    (a, b) => Number(b.isSilent) - Number(a.isSilent) || a.heardAt.epochMilliseconds - b.heardAt.epochMilliseconds
  )
  const byShard = new Map(
    byTime.flatMap((process) =>
      process.runs.flatMap(({ projectionName, shards }) =>
        projectionName === name ? shards.map((shard) => [shard, process] as const) : []
      )
    )
  )
  return (shard: number): Running => {
    const process = byShard.get(shard)
    return { process: Option.fromUndefinedOr(process), isRunning: former || process?.isSilent === false }
  }
})

interface Around {
  readonly head: bigint
  readonly control: Control
  readonly ageAfter: (version: bigint) => number
}

const shardStatus = Effect.fnUntraced(function* (
  { failure: failures, shard: shards }: RecordsAt,
  { projectionName: name, shardNumber, value: offset }: Offset,
  { isRunning, process }: Running,
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
    process,
    failure,
    parked: own.parked.length,
    skipped: own.skipped
  })
})

/**
 * The status of every projection that has run on this database and was not removed, or of the one with this name: in four
 * statements, and one more for each place in the log at which a shard is behind, at most `mostReads`. Without processes it is
 * one statement less, and no shard seems to run. Where it may wait, it reads what processes say again, if need be.
 */
export const survey = Effect.fnUntraced(function* (options: {
  readonly name?: string
  readonly mostReads: number
  readonly withProcesses?: boolean
  /** Whether to listen for up to three heartbeats where clocks leave a doubt whether a process lives: not unless told so. */
  readonly mayWait?: boolean
}) {
  const events = yield* EventStore
  const offsets = yield* OffsetStore
  // Other programs may keep offsets in the same table.
  const stored = (yield* Stream.runCollect(offsets.listOffsets(options.name))).filter(({ projectionName }) =>
    isName(projectionName)
  )
  if (stored.length === 0) return []
  const head = yield* events.latestVersion
  const record = yield* recordsOf(stored)
  const processes = options.withProcesses === false ? [] : yield* processesOf(record, options.mayWait === true)
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
      const runnerOf = yield* runnersNow(record, processes, name)
      const shards = yield* Effect.forEach(offsets, (offset) =>
        shardStatus(record, offset, runnerOf(offset.shardNumber), { head, control, ageAfter })
      )
      const status: ProjectionStatus = { projectionName: name, shards }
      return status
    })
  )
})
