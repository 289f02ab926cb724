/** The spool: its queues, and their messages. */
import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { Count, errors, JsonText, Limit, Time, Whole } from "./Fields.ts"
import { Event } from "./LogApi.ts"

export const MessageState = Schema.Literals(["incoming", "active", "deferred", "hold", "bounce", "archived"])

/** What waits in one queue. */
export const Queue = Schema.Struct({
  /** Null for the messages that are in no queue. */
  queue: Schema.NullOr(Schema.String),
  incoming: Schema.Int,
  active: Schema.Int,
  deferred: Schema.Int,
  hold: Schema.Int,
  bounce: Schema.Int,
  /** How many of the active ones have a worker whose lease has not run out. */
  leased: Schema.Int,
  /** The states whose number is an estimate, as they have too many messages to be counted. */
  estimated: Schema.Array(MessageState),
  /** For how long the oldest message that could be claimed has waited. */
  oldestReadyMillis: Schema.NullOr(Schema.Finite)
})

export const Message = Schema.Struct({
  id: Schema.String,
  queue: Schema.NullOr(Schema.String),
  state: MessageState,
  attempts: Schema.Int,
  maxAttempts: Schema.Int,
  nextRetry: Time,
  created: Time,
  updated: Time,
  /** Null where the console hides what the application has stored. */
  lastError: Schema.NullOr(Schema.String),
  size: Whole,
  priority: Schema.Int,
  retryPolicyName: Schema.String
})

export const MessagePage = Schema.Struct({
  messages: Schema.Array(Message),
  hasMore: Schema.Boolean
})

/** One message, with its headers and its payload. */
export const MessageDetail = Schema.Struct({
  message: Message,
  headers: JsonText,
  payload: JsonText,
  causationId: Schema.NullOr(Schema.String),
  /** The event that has caused it, if it was one of this log. */
  causedBy: Schema.NullOr(Event),
  correlationId: Schema.NullOr(Schema.String)
})

export class SpoolApi extends HttpApiGroup.make("spool").add(
  HttpApiEndpoint.get("queues", "/api/queues", { success: Schema.Array(Queue), error: errors }),
  HttpApiEndpoint.get("messages", "/api/messages", {
    query: {
      state: MessageState,
      /** The queue of the messages: all queues unless given. */
      queue: Schema.optionalKey(Schema.String),
      offset: Schema.optionalKey(Count),
      limit: Schema.optionalKey(Limit)
    },
    success: MessagePage,
    error: errors
  }),
  HttpApiEndpoint.get("message", "/api/message", {
    query: { id: Schema.String, queue: Schema.optionalKey(Schema.String) },
    success: MessageDetail,
    error: errors
  })
) {}
