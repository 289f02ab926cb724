/** Projections as the API shows them. */
import { Duration, Option } from "effect"
import type * as Projections from "../Projection.ts"
import type { AnyProcess, Failure, Parked, Process, Projection, Shard } from "./api/ProjectionsApi.ts"
import { type Settings, stored } from "./Settings.ts"

/** The states of a shard, the gravest one first. */
const byGravity = ["failed", "idle", "paused", "running"] as const

export const failureOf = (settings: Settings, failure: Projections.Failure): typeof Failure.Type => ({
  version: failure.version,
  shardNumber: failure.shardNumber,
  aggregateId: failure.aggregateId,
  eventType: failure.eventType,
  error: stored(settings, failure.error)
})

export const parkedOf = (settings: Settings, parked: Projections.Parked): typeof Parked.Type => ({
  ...failureOf(settings, parked),
  retryAsked: parked.retryAskedAt !== undefined
})

/** A process, as people look for it. */
const whoIs = ({ host, name, pid }: Projections.RunningProcess): string => `${name} (pid ${pid} on ${host})`

/** A process, and what it runs of a projection. */
export const processOf = (
  projection: string,
  { runs, ...process }: Projections.RunningProcess
): typeof Process.Type => ({
  ...process,
  shards: runs.find(({ projectionName }) => projectionName === projection)?.shards ?? []
})

/** A process, and all that it runs. */
export const anyProcessOf = ({ runs, ...process }: Projections.RunningProcess): typeof AnyProcess.Type => ({
  ...process,
  runs: runs.map(({ projectionName: projection, shards }) => ({ projection, shards }))
})

export const shardOf = (settings: Settings, shard: Projections.ShardStatus): typeof Shard.Type => ({
  shardNumber: shard.shardNumber,
  state: shard.state,
  offset: shard.offset,
  lag: shard.lag,
  behindMillis: Duration.toMillis(shard.behind),
  parked: shard.parked,
  skipped: shard.skipped,
  process: Option.match(shard.process, { onNone: () => null, onSome: whoIs }),
  failure: Option.match(shard.failure, { onNone: () => null, onSome: (failure) => failureOf(settings, failure) })
})

/** A projection in one line. */
export const projectionOf = ({
  projectionName: name,
  shards
}: Projections.ProjectionStatus): typeof Projection.Type => ({
  name,
  shards: shards.length,
  state: byGravity.find((state) => shards.some((shard) => shard.state === state)) ?? "idle",
  offset: shards.reduce((lowest, { offset }) => (offset < lowest ? offset : lowest), shards[0]?.offset ?? 0n),
  lag: shards.reduce((highest, { lag }) => (lag > highest ? lag : highest), 0n),
  behindMillis: Math.max(0, ...shards.map(({ behind }) => Duration.toMillis(behind))),
  parked: shards.reduce((sum, { parked }) => sum + parked, 0),
  skipped: shards.reduce((sum, { skipped }) => sum + skipped, 0)
})
