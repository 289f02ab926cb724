/** What can be changed, where the console was started for that. Each change is logged with who has made it. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { errors, Time, Whole } from "./Fields.ts"

/** What has become of it, in a sentence. */
export const Done = Schema.Struct({ message: Schema.String })

export const MessageAction = Schema.Literals(["requeue", "hold", "release", "bounce", "delete"])

export const ProjectionAction = Schema.Literals(["pause", "resume", "retry", "rebuild", "reset", "accept", "remove"])

export class ActionsApi extends HttpApiGroup.make("actions").add(
  HttpApiEndpoint.post("changeMessage", "/api/actions/message", {
    payload: Schema.Struct({
      action: MessageAction,
      id: Schema.String,
      /** Null for a message that is in no queue. */
      queue: Schema.NullOr(Schema.String)
    }),
    success: Done,
    error: errors
  }),
  HttpApiEndpoint.post("editPayload", "/api/actions/payload", {
    payload: Schema.Struct({
      id: Schema.String,
      queue: Schema.NullOr(Schema.String),
      /** The payload as JSON, with which the message is delivered again. */
      json: Schema.String,
      /** When the message had changed last, as it was read: a message that has changed since stays as it is. */
      updated: Time
    }),
    success: Done,
    error: errors
  }),
  HttpApiEndpoint.post("requeue", "/api/actions/requeue", {
    payload: Schema.Struct({
      state: Schema.Literals(["deferred", "hold", "bounce", "archived"]),
      /** The queue of the messages: all queues unless given. */
      queue: Schema.optionalKey(Schema.String),
      /** Of these only messages whose last error has this text. */
      error: Schema.optionalKey(Schema.String),
      /** Of these only messages that are younger than this. */
      createdAfter: Schema.optionalKey(Time)
    }),
    success: Done,
    error: errors
  }),
  HttpApiEndpoint.post("prove", "/api/actions/prove", {
    payload: Schema.Struct({
      /** For how long the writers of the proof run. */
      seconds: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 600 }))
    }),
    success: Done,
    error: errors
  }),
  HttpApiEndpoint.post("changeProjection", "/api/actions/projection", {
    payload: Schema.Struct({
      action: ProjectionAction,
      name: Schema.String,
      /** For a reset the version after which it goes on; 0 unless given. */
      to: Schema.optionalKey(Whole),
      /** For a retry the aggregates; all that are parked unless given. */
      aggregates: Schema.optionalKey(Schema.Array(Schema.String))
    }),
    success: Done,
    error: errors
  })
) {}
