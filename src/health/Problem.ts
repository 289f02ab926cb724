/** What can be wrong, each with what to do about it. */
import { Duration, Schema } from "effect"

/** What every problem says. */
const says = {
  /** One sentence, without payloads and errors of handlers: it may be shown to anybody. */
  message: Schema.String,
  /** What to do about it. */
  remedy: Schema.String
}

/** The database does not answer, or not in time. */
export class DatabaseUnreachable extends Schema.TaggedClass<DatabaseUnreachable>(
  "effect-strata/Health/DatabaseUnreachable"
)("DatabaseUnreachable", says) {}

/** Tables are missing, or are those of another version. */
export class SchemaMissing extends Schema.TaggedClass<SchemaMissing>("effect-strata/Health/SchemaMissing")(
  "SchemaMissing",
  says
) {}

/** Something could not be looked at. */
export class LookFailed extends Schema.TaggedClass<LookFailed>("effect-strata/Health/LookFailed")("LookFailed", says) {}

/** The handler of a projection has failed with the event that is next. */
export class ProjectionFailing extends Schema.TaggedClass<ProjectionFailing>("effect-strata/Health/ProjectionFailing")(
  "ProjectionFailing",
  {
    ...says,
    projectionName: Schema.String,
    shardNumber: Schema.Int,
    version: Schema.BigInt,
    /** What the handler has failed with, with its stack. */
    error: Schema.String
  }
) {}

/** A projection is further behind than its limits allow. */
export class ProjectionBehind extends Schema.TaggedClass<ProjectionBehind>("effect-strata/Health/ProjectionBehind")(
  "ProjectionBehind",
  {
    ...says,
    projectionName: Schema.String,
    /** The shard that is the furthest behind. */
    shardNumber: Schema.Int,
    behind: Schema.Duration,
    lag: Schema.BigInt
  }
) {}

/** A projection has parked more aggregates than the limit allows. */
export class AggregatesParked extends Schema.TaggedClass<AggregatesParked>("effect-strata/Health/AggregatesParked")(
  "AggregatesParked",
  { ...says, projectionName: Schema.String, parked: Schema.Int }
) {}

/** A projection has skipped more events than the limit allows. */
export class EventsSkipped extends Schema.TaggedClass<EventsSkipped>("effect-strata/Health/EventsSkipped")(
  "EventsSkipped",
  { ...says, projectionName: Schema.String, skipped: Schema.Int }
) {}

/** More messages of a queue could not be delivered than the limit allows. */
export class MessagesBounced extends Schema.TaggedClass<MessagesBounced>("effect-strata/Health/MessagesBounced")(
  "MessagesBounced",
  { ...says, queue: Schema.UndefinedOr(Schema.String), bounced: Schema.Int }
) {}

/** A message has waited for longer than the limit allows, although it could be handled. */
export class MessagesWaiting extends Schema.TaggedClass<MessagesWaiting>("effect-strata/Health/MessagesWaiting")(
  "MessagesWaiting",
  { ...says, queue: Schema.UndefinedOr(Schema.String), oldestReady: Schema.Duration }
) {}

/** Work has ended that the `Supervisor` of this process watches over. */
export class WorkEnded extends Schema.TaggedClass<WorkEnded>("effect-strata/Health/WorkEnded")("WorkEnded", {
  ...says,
  work: Schema.String
}) {}

export type Problem =
  | DatabaseUnreachable
  | SchemaMissing
  | LookFailed
  | ProjectionFailing
  | ProjectionBehind
  | AggregatesParked
  | EventsSkipped
  | MessagesBounced
  | MessagesWaiting
  | WorkEnded

/** How long, as people say it: seconds at the finest. */
export const inWords = (duration: Duration.Duration): string => {
  const seconds = Math.floor(Duration.toSeconds(duration))
  return seconds < 1 ? Duration.format(duration) : Duration.format(Duration.seconds(seconds))
}
