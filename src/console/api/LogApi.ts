/** The log: its pages by filters, one event, and what it has to do with others. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { errors, JsonText, Limit, Time, Whole } from "./Fields.ts"

/** An event of the log. */
export const Event = Schema.Struct({
  version: Whole,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  createdAt: Time,
  data: JsonText,
  metadata: JsonText
})

/** Which events: those that match everything that is given. */
export const EventFilter = {
  aggregate: Schema.optionalKey(Schema.String),
  type: Schema.optionalKey(Schema.String),
  tag: Schema.optionalKey(Schema.String),
  /** JSON that the data contains. */
  data: Schema.optionalKey(Schema.String),
  /** JSON that the metadata contains. */
  metadata: Schema.optionalKey(Schema.String),
  createdAfter: Schema.optionalKey(Schema.String)
}

/** Events from the newest on. */
export const EventPage = Schema.Struct({
  events: Schema.Array(Event),
  /** The page after this one has versions below this one. Null: the log was looked through to its start. */
  before: Schema.NullOr(Whole),
  /**
   * Down to which version the log was looked through. A filter that no index serves is followed through a part of the log at a
   * time, so a page can have few events, or none, although there are more.
   */
  lookedDownTo: Whole,
  /** The highest version of the log. */
  latestVersion: Whole
})

/** One event, and what it has to do with others. */
export const EventDetail = Schema.Struct({
  event: Event,
  tags: Schema.Array(Schema.String),
  /** What has caused it, if its metadata says so: an event, or a message whose id is known. */
  causationId: Schema.NullOr(Schema.String),
  correlationId: Schema.NullOr(Schema.String),
  causedBy: Schema.NullOr(Event),
  /** The message that has caused it, if that is still there. */
  causedByMessage: Schema.NullOr(Schema.Struct({ queue: Schema.NullOr(Schema.String), id: Schema.String })),
  /** What it has caused, among the events that came soon after. */
  caused: Schema.Array(Event),
  /** Up to which version events were looked at that it may have caused. */
  causedUpTo: Whole,
  /** The events of its aggregate before and after it. */
  previous: Schema.NullOr(Whole),
  next: Schema.NullOr(Whole)
})

/** An aggregate's newest events, each with the states after it. */
export const AggregateHistory = Schema.Struct({
  /** The newest event comes first. */
  steps: Schema.Array(
    Schema.Struct({
      event: Event,
      /** The state after the event, as each entity makes it that knows the aggregate. */
      states: Schema.Array(Schema.Struct({ entity: Schema.String, json: JsonText }))
    })
  ),
  /** There are older events below this version. */
  before: Schema.NullOr(Whole),
  /** The entities that the application has given to the console. */
  given: Schema.Array(Schema.String),
  /** Those that know this aggregate, and why a state is missing. */
  known: Schema.Array(Schema.Struct({ name: Schema.String, failure: JsonText }))
})

/** How many events have the same type, or the same aggregate. */
export const Group = Schema.Struct({ name: Schema.String, events: Schema.Int, isEstimate: Schema.Boolean })

/** How many events there are, and of what: what `strata events stats` says. */
export const Stats = Schema.Struct({
  /** Whether a part of the log stands for the whole: a large log is not counted. */
  isEstimate: Schema.Boolean,
  events: Schema.Int,
  /** Null where an estimate cannot say it. */
  aggregates: Schema.NullOr(Schema.Int),
  types: Schema.Int,
  latestVersion: Whole,
  first: Schema.NullOr(Time),
  last: Schema.NullOr(Time),
  /** The groups with the most events come first. */
  byType: Schema.Array(Group),
  byAggregate: Schema.Array(Group),
  /** The time from the first event to the last one, in parts of the same length. */
  spans: Schema.Array(Schema.Struct({ from: Time, events: Schema.Int }))
})

export class LogApi extends HttpApiGroup.make("log").add(
  HttpApiEndpoint.get("events", "/api/events", {
    query: { ...EventFilter, before: Schema.optionalKey(Whole), limit: Schema.optionalKey(Limit) },
    success: EventPage,
    error: errors
  }),
  HttpApiEndpoint.get("event", "/api/event", {
    query: { version: Schema.optionalKey(Whole), id: Schema.optionalKey(Schema.String) },
    success: EventDetail,
    error: errors
  }),
  HttpApiEndpoint.get("aggregate", "/api/aggregate", {
    query: { id: Schema.String },
    success: AggregateHistory,
    error: errors
  }),
  HttpApiEndpoint.get("stats", "/api/stats", {
    query: {
      createdAfter: Schema.optionalKey(Schema.String),
      /** How many types and aggregates are named: 10 unless given. */
      top: Schema.optionalKey(Limit)
    },
    success: Stats,
    error: errors
  }),
  HttpApiEndpoint.get("export", "/api/export", {
    query: { after: Schema.optionalKey(Whole) },
    /** What `strata events export` writes. Without the checksum at its end it is not complete. */
    success: HttpApiSchema.StreamUint8Array({ contentType: "application/jsonl" }),
    error: errors
  })
) {}
