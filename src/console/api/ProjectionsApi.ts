/** Projections: how far they are, who runs them, and what has failed. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { errors, Time, Whole } from "./Fields.ts"

/** What an event has failed with. `error` is null where the console hides what the application has stored. */
export const Failure = Schema.Struct({
  version: Whole,
  shardNumber: Schema.Int,
  aggregateId: Schema.String,
  eventType: Schema.String,
  error: Schema.NullOr(Schema.String)
})

export const ShardState = Schema.Literals(["running", "paused", "failed", "idle"])

export const Shard = Schema.Struct({
  shardNumber: Schema.Int,
  state: ShardState,
  offset: Whole,
  lag: Whole,
  behindMillis: Schema.Finite,
  parked: Schema.Int,
  skipped: Schema.Int,
  /** The process that runs it, in words; null where nobody knows. */
  process: Schema.NullOr(Schema.String),
  failure: Schema.NullOr(Failure)
})

/** A projection in one line: its slowest shard, and the gravest state of one. */
export const Projection = Schema.Struct({
  name: Schema.String,
  state: ShardState,
  shards: Schema.Int,
  offset: Whole,
  lag: Whole,
  behindMillis: Schema.Finite,
  parked: Schema.Int,
  skipped: Schema.Int
})

/** An aggregate that is parked: its events wait from this one on. */
export const Parked = Schema.Struct({ ...Failure.fields, retryAsked: Schema.Boolean })

/** A process that runs projections. */
const process = {
  id: Schema.String,
  name: Schema.String,
  host: Schema.String,
  pid: Schema.Int,
  since: Time,
  heardAt: Time,
  /** Whether it has been silent for so long that it must have died. */
  isSilent: Schema.Boolean
}

/** A process, and what it runs of one projection. */
export const Process = Schema.Struct({ ...process, shards: Schema.Array(Schema.Int) })

/** A process, and all that it runs. */
export const AnyProcess = Schema.Struct({
  ...process,
  runs: Schema.Array(Schema.Struct({ projection: Schema.String, shards: Schema.Array(Schema.Int) }))
})

/** How far a shard has read, as the table has it: of projections, and of other programs that keep offsets there. */
export const Offset = Schema.Struct({
  projectionName: Schema.String,
  shardNumber: Schema.Int,
  value: Whole,
  /** Null where the column holds no time. */
  writtenAt: Schema.NullOr(Time)
})

export const ProjectionDetail = Schema.Struct({
  name: Schema.String,
  /** The highest version of the log. */
  head: Whole,
  paused: Schema.Boolean,
  /** The copy of the read model that is served. */
  slot: Schema.String,
  rebuildAsked: Schema.Boolean,
  rebuildFailure: Schema.NullOr(Schema.String),
  shards: Schema.Array(Shard),
  processes: Schema.Array(Process),
  parked: Schema.Array(Parked),
  /** The first of the events that were skipped. */
  skipped: Schema.Array(Failure),
  skippedTotal: Schema.Int
})

export class ProjectionsApi extends HttpApiGroup.make("projections").add(
  HttpApiEndpoint.get("projections", "/api/projections", { success: Schema.Array(Projection), error: errors }),
  HttpApiEndpoint.get("projection", "/api/projection", {
    query: { name: Schema.String },
    success: ProjectionDetail,
    error: errors
  }),
  HttpApiEndpoint.get("processes", "/api/processes", { success: Schema.Array(AnyProcess), error: errors }),
  HttpApiEndpoint.get("offsets", "/api/offsets", {
    query: { projection: Schema.optionalKey(Schema.String) },
    success: Schema.Array(Offset),
    error: errors
  })
) {}
