/** What `OffsetStore` takes and gives: models, arguments and errors. */
import { Option, Schema } from "effect"
import { fromClock } from "./internal/FastPath.ts"
import { Identifier, Int64, ShardNumber } from "./internal/Fields.ts"

// Model

export const ProjectionName = Identifier(255)

/** One shard of one projection. */
export class ProjectionId extends Schema.Class<ProjectionId>("effect-strata/OffsetStore/ProjectionId")({
  projectionName: ProjectionName,
  shardNumber: ShardNumber
}) {}

/**
 * The position that a shard has reached.
 *
 * `value` is what the projection counts by: a version of the event store, or in eGo an event's timestamp.
 * `timestamp` is the time of the write in epoch milliseconds, by `Clock` unless it is given.
 */
export class Offset extends Schema.Class<Offset>("effect-strata/OffsetStore/Offset")({
  ...ProjectionId.fields,
  value: Int64,
  timestamp: Int64.pipe(Schema.withConstructorDefault(fromClock((clock) => BigInt(clock.currentTimeMillisUnsafe()))))
}) {}

/** A step of one shard to its next offset: `from` is the offset that the caller last saw, `None` if it saw none. */
export class Step extends Schema.Class<Step>("effect-strata/OffsetStore/Step")({
  ...ProjectionId.fields,
  from: Schema.Option(Int64),
  to: Int64,
  timestamp: Offset.fields.timestamp
}) {}

/** One value for every shard of a projection. */
export class Reset extends Schema.Class<Reset>("effect-strata/OffsetStore/Reset")({
  projectionName: ProjectionName,
  value: Int64,
  timestamp: Offset.fields.timestamp
}) {}

/** Every shard of one projection. */
export class Projection extends Schema.Class<Projection>("effect-strata/OffsetStore/Projection")({
  projectionName: ProjectionName
}) {}

/** One projection, or all of them. */
export class Selection extends Schema.Class<Selection>("effect-strata/OffsetStore/Selection")({
  projectionName: Schema.optionalKey(ProjectionName)
}) {}

// Errors

/**
 * The shard's offset is not what the caller expected: another runner moved, reset or deleted it. Nothing was written.
 *
 * **Remedy**
 *
 * Read the offset and go on from there, or stop: another process runs this shard.
 */
export class OffsetConflict extends Schema.TaggedError<OffsetConflict>("effect-strata/OffsetStore/OffsetConflict")(
  "OffsetConflict",
  {
    ...ProjectionId.fields,
    /** What the caller expected to find. */
    expected: Schema.Option(Int64),
    /** What is stored. */
    actual: Schema.Option(Int64)
  }
) {
  override get message(): string {
    const shown = Option.match({ onNone: () => "no offset", onSome: (offset: bigint) => `offset ${offset}` })
    return (
      `Shard ${this.shardNumber} of projection "${this.projectionName}" has ${shown(this.actual)}, ` +
      `not ${shown(this.expected)}`
    )
  }
}
