/** What can go wrong with a projection. */
import { type Cause, Option, Schema } from "effect"
import { type LogReplaced, Version } from "../EventStore.ts"
import { ShardNumber } from "../internal/Fields.ts"

const times = (count: number): string => (count === 1 ? "once" : count === 2 ? "twice" : `${count} times`)

/**
 * The projection has stopped before an event that could not be handled.
 *
 * **Remedy**
 *
 * Mend the handler and run the projection again: it goes on before this event. `onFailure` says what else may happen.
 */
export class ProjectionFailed extends Schema.TaggedError<ProjectionFailed>("effect-strata/Projection/ProjectionFailed")(
  "ProjectionFailed",
  {
    projectionName: Schema.String,
    shardNumber: ShardNumber,
    version: Version,
    eventId: Schema.String,
    aggregateId: Schema.String,
    eventType: Schema.String,
    attempts: Schema.Int,
    /** What the handler failed with. */
    cause: Schema.Defect()
  }
) {
  override get message(): string {
    return (
      `Projection "${this.projectionName}" stopped before event ${this.version} ("${this.eventType}" of ` +
      `"${this.aggregateId}", shard ${this.shardNumber}): the handler failed ${times(this.attempts)}; nothing of it is ` +
      "stored: mend the handler and run it again, or let it skip or park such events"
    )
  }
}

/**
 * The projection has run with another number of shards before: with this one its offsets would mean other events.
 *
 * **Remedy**
 *
 * Run it with the number of shards that it had; or `Projection.remove` it, and build the read model anew.
 */
export class ShardCountMismatch extends Schema.TaggedError<ShardCountMismatch>(
  "effect-strata/Projection/ShardCountMismatch"
)("ShardCountMismatch", { projectionName: Schema.String, recorded: Schema.Int, requested: Schema.Int }) {
  override get message(): string {
    return (
      `Projection "${this.projectionName}" has ${this.recorded} shards, not ${this.requested}: run it with ` +
      `${this.recorded}, or let Projection.remove forget its offsets and build the read model anew`
    )
  }
}

/**
 * A projection of the same name runs in this process already.
 *
 * **Remedy**
 *
 * Run each projection once in a process: build its layer once, and share it.
 */
export class DuplicateProjection extends Schema.TaggedError<DuplicateProjection>(
  "effect-strata/Projection/DuplicateProjection"
)("DuplicateProjection", { projectionName: Schema.String }) {
  override get message(): string {
    return `Projection "${this.projectionName}" runs in this process already: give each one a name of its own`
  }
}

/**
 * No projection of the name has run on this database, or it was removed.
 *
 * **Remedy**
 *
 * Look whether the name is right, and whether a process runs it on this database: `strata projections list`.
 */
export class UnknownProjection extends Schema.TaggedError<UnknownProjection>(
  "effect-strata/Projection/UnknownProjection"
)("UnknownProjection", { projectionName: Schema.String }) {
  override get message(): string {
    return `No projection "${this.projectionName}" has run on this database yet`
  }
}

/**
 * The read model was to be built anew, and no process has begun: nothing has changed.
 *
 * **Remedy**
 *
 * Do what the message says, and ask again.
 */
export class RebuildRefused extends Schema.TaggedError<RebuildRefused>("effect-strata/Projection/RebuildRefused")(
  "RebuildRefused",
  { projectionName: Schema.String, reason: Schema.String }
) {
  override get message(): string {
    return `The read model of projection "${this.projectionName}" is not built anew: ${this.reason}`
  }
}

/**
 * The projection has not handled the version within the time that the caller gave it.
 *
 * **Remedy**
 *
 * Answer with what is there, or wait longer. `strata projections status NAME` says why the projection is late.
 */
export class AwaitTimeout extends Schema.TaggedError<AwaitTimeout>("effect-strata/Projection/AwaitTimeout")(
  "AwaitTimeout",
  {
    projectionName: Schema.String,
    version: Version,
    /** The offset of its slowest shard; none where the projection has never run. */
    reached: Schema.Option(Version)
  }
) {
  override get message(): string {
    const reached = Option.match(this.reached, { onNone: () => "has not run yet", onSome: (at) => `is at ${at}` })
    return `Projection "${this.projectionName}" has not handled version ${this.version} in time: it ${reached}`
  }
}

/** The handler has failed. `index` is the place of the event among those that the handler was given, if it is known. */
export class HandlerFailed {
  readonly _tag = "HandlerFailed"
  readonly cause: Cause.Cause<unknown>
  readonly index: number | undefined
  constructor(cause: Cause.Cause<unknown>, index: number | undefined) {
    this.cause = cause
    this.index = index
  }
}

/**
 * The log was set back behind what has been read ahead for the shards: it is to be seen whether their offsets were set back
 * with it. It never leaves this package.
 */
export class LogSetBack {
  readonly _tag = "LogSetBack"
  readonly error: LogReplaced
  constructor(error: LogReplaced) {
    this.error = error
  }
}

/**
 * Another process has moved the offset of a shard, or an order has changed the projection's control record: the runner reads
 * both again. It never leaves this package.
 */
export class Outdated {
  readonly _tag = "Outdated"
}
