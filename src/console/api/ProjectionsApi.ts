/** Projections: how far they are, who runs them, and what has failed. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { errors, Whole } from "./Fields.ts"

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

export const Runner = Schema.Struct({
  id: Schema.String,
  /** For how long it has not said that it lives. */
  silentMillis: Schema.Finite,
  isAlive: Schema.Boolean
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
  runners: Schema.Array(Runner),
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
  })
) {}
