/** What can be changed, where the console was started for that. Each change is logged with who has made it. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { errors, Whole } from "./Fields.ts"

/** What has become of it, in a sentence. */
export const Done = Schema.Struct({ message: Schema.String })

export const MessageAction = Schema.Literals(["requeue", "hold", "release", "bounce", "delete"])

export const ProjectionAction = Schema.Literals(["pause", "resume", "retry", "rebuild", "reset"])

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
  HttpApiEndpoint.post("requeue", "/api/actions/requeue", {
    payload: Schema.Struct({
      state: Schema.Literals(["deferred", "hold", "bounce", "archived"]),
      /** The queue of the messages: all queues unless given. */
      queue: Schema.optionalKey(Schema.String),
      /** Of these only messages whose last error has this text. */
      error: Schema.optionalKey(Schema.String)
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
