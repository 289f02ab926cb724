/** The latest states of entities. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { errors, JsonText, Limit, Time, Whole } from "./Fields.ts"

export const State = Schema.Struct({
  persistenceId: Schema.String,
  versionNumber: Whole,
  manifest: Schema.String,
  shard: Schema.Int,
  /** Null where the column holds no time. */
  writtenAt: Schema.NullOr(Time),
  size: Schema.Int
})

export const StatePage = Schema.Struct({
  states: Schema.Array(State),
  /**
   * The id at which the next page begins; null if there is none. No index has the manifests and the values of states, so a filter
   * by these is followed through some thousands of states at a time: a page can have few states, or none, although there are more.
   */
  next: Schema.NullOr(Schema.String)
})

/** One state with its value. */
export const StateDetail = Schema.Struct({
  state: State,
  /** Its value, if it is JSON. */
  json: JsonText,
  /** Its bytes, if they are no JSON. */
  base64: JsonText
})

export class StatesApi extends HttpApiGroup.make("states").add(
  HttpApiEndpoint.get("states", "/api/states", {
    query: {
      /** The id at which to begin, or the beginning of one: states come in the order of their ids. */
      from: Schema.optionalKey(Schema.String),
      manifest: Schema.optionalKey(Schema.String),
      /** A text in the value, as its bytes have it. */
      text: Schema.optionalKey(Schema.String),
      limit: Schema.optionalKey(Limit)
    },
    success: StatePage,
    error: errors
  }),
  HttpApiEndpoint.get("state", "/api/state", {
    query: { id: Schema.String },
    success: StateDetail,
    error: errors
  })
) {}
