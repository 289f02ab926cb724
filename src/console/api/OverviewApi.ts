/** What is known at one glance, and how it goes on. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { errors, Time, Whole } from "./Fields.ts"
import { Projection } from "./ProjectionsApi.ts"
import { Queue } from "./SpoolApi.ts"

/** What the console is, and what may be done with it. */
export const About = Schema.Struct({
  server: Schema.String,
  database: Schema.String,
  role: Schema.String,
  schema: Schema.NullOr(Schema.String),
  /** Whether the console was started to change things. */
  allowsWrites: Schema.Boolean,
  /** Whether it shows what the application has stored: data, payloads, states and errors. */
  showsPayloads: Schema.Boolean,
  /** Who looks, if the application says so. */
  who: Schema.NullOr(Schema.String)
})

/** One thing that is not well, and what to do about it. */
export const Problem = Schema.Struct({
  problem: Schema.String,
  message: Schema.String,
  remedy: Schema.String,
  /** The projection that it is about. */
  projection: Schema.NullOr(Schema.String),
  /** The queue that it is about. */
  queue: Schema.NullOr(Schema.String)
})

/** The log at one moment. */
export const LogMoment = Schema.Struct({
  latestVersion: Whole,
  latestAt: Schema.NullOr(Time),
  /** How many versions a second were drawn since the look before: null at the first look. */
  rate: Schema.NullOr(Schema.Finite),
  /** The transactions that still may append below the last version; null if there is none. */
  holders: Schema.NullOr(Schema.String),
  connections: Schema.Int
})

/** What was seen at one moment. Each part says when it was looked at: dear looks are made seldom. */
export const Moment = Schema.Struct({
  /** The number of the look. A page that sees a gap was too slow for the looks between. */
  look: Schema.Int,
  at: Time,
  /** Why nothing could be seen, if so: the rest is then what was seen last. */
  failure: Schema.NullOr(Schema.String),
  log: Schema.NullOr(LogMoment),
  projections: Schema.NullOr(Schema.Struct({ at: Time, all: Schema.Array(Projection) })),
  queues: Schema.NullOr(Schema.Struct({ at: Time, all: Schema.Array(Queue) })),
  problems: Schema.Array(Problem)
})

/** What was seen at a moment of the last hour. */
export const Sample = Schema.Struct({
  at: Time,
  latestVersion: Whole,
  /** How many messages were incoming, deferred or active, in all queues together. */
  waiting: Schema.Int,
  /** How many versions each projection was behind, by its name. */
  lags: Schema.Record(Schema.String, Whole)
})

/** The last hour, as the process of the console has seen it: it keeps no more, and nothing from before it was started. */
export const History = Schema.Struct({
  /** Since when the process looks. */
  since: Time,
  samples: Schema.Array(Sample)
})

export class OverviewApi extends HttpApiGroup.make("overview").add(
  HttpApiEndpoint.get("about", "/api/about", { success: About, error: errors }),
  HttpApiEndpoint.get("history", "/api/history", { success: History, error: errors }),
  HttpApiEndpoint.get("live", "/api/live", { success: HttpApiSchema.StreamSse({ data: Moment }), error: errors })
) {}
