/** What `SpoolStore` keeps, and what can be wrong with it. */
import { DateTime, Effect, Schema } from "effect"
import { Identifier, Int64, Text, Time, TimeSpan } from "./internal/Fields.ts"
import { SafeJson } from "./internal/SafeJson.ts"

// Model

export const MessageId = Identifier(255)

/** Several queues share a table. The messages of RetrySpool are in none. */
export const QueueName = Identifier(255)

/** Whoever claims. Each claim should have a name of its own: it tells one claim of a message from another. */
export const Owner = Identifier(255)

/**
 * `incoming` and `deferred` messages wait, these for their time; an `active` one is being delivered; `hold` is an
 * administrator's; `bounce` and `archived` are the ends, of those that could not be delivered and of those that were.
 */
export const State = Schema.Literals(["incoming", "active", "deferred", "hold", "bounce", "archived"])
export type State = typeof State.Type

/** From 1, which goes first, to 10. */
export const Priority = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10 }))

export const Headers = Schema.Record(Text, Text)

/** What an `INTEGER` column counts. */
export const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 }))
const Size = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/** What can be changed of a message whatever its state is. What is not given stays. */
const changes = {
  attempts: Schema.optionalKey(Count),
  maxAttempts: Schema.optionalKey(Count),
  /** When it is due, if it is deferred. */
  nextRetry: Schema.optionalKey(Time),
  lastError: Schema.optionalKey(Text),
  size: Schema.optionalKey(Size),
  priority: Schema.optionalKey(Priority),
  /** All of them: what is stored is replaced. */
  headers: Schema.optionalKey(Headers),
  retryPolicyName: Schema.optionalKey(Text)
}

export const Changes = Schema.Struct(changes)
export type Changes = typeof Changes.Type

/** A message to store. Without a time it is due at once. */
export const NewMessage = Schema.Struct({
  ...changes,
  id: MessageId,
  queue: Schema.optionalKey(QueueName),
  /** `incoming`, or `deferred` if `nextRetry` or `delay` is given. */
  state: Schema.optionalKey(State),
  /** 10 unless given. */
  maxAttempts: Count.pipe(Schema.withConstructorDefault(Effect.succeed(10))),
  /** 5 unless given. */
  priority: Priority.pipe(Schema.withConstructorDefault(Effect.succeed(5))),
  /** The same as `nextRetry`, from now on, by the store's clock. */
  delay: Schema.optionalKey(TimeSpan),
  /** Now, by the store's clock, unless given. */
  created: Schema.optionalKey(Time),
  payload: Schema.optionalKey(SafeJson)
}).check(
  Schema.makeFilter(({ delay, nextRetry }) =>
    delay === undefined || nextRetry === undefined ? undefined : "Expected nextRetry or delay, not both"
  )
)
export type NewMessage = typeof NewMessage.Type

/** The state in which a new message is stored. */
export const stateOf = ({ delay, nextRetry, state }: NewMessage): State =>
  state ?? (delay === undefined && nextRetry === undefined ? "incoming" : "deferred")

/** A stored message. Times are the store's own, in milliseconds. */
export class SpoolMessage extends Schema.Class<SpoolMessage>("effect-strata/SpoolStore/SpoolMessage")({
  id: Schema.String,
  queue: Schema.optionalKey(Schema.String),
  state: State,
  /** How often it has been claimed. */
  attempts: Schema.Int,
  maxAttempts: Schema.Int,
  nextRetry: Schema.DateTimeUtc,
  created: Schema.DateTimeUtc,
  /** Later at every change, but for a lease that is renewed. */
  updated: Schema.DateTimeUtc,
  lastError: Schema.String,
  /** That of the payload as JSON, in bytes, unless it was given. */
  size: Schema.BigInt,
  priority: Schema.Int,
  headers: Schema.Record(Schema.String, Schema.String),
  retryPolicyName: Schema.String,
  payload: Schema.optionalKey(Schema.Json)
}) {}

/** The `lastError` of a message whose claim was given up. */
export const leaseExpired = "the lease ran out: whoever held it has stopped, or was too slow"

/** One claim of one message: it is held while the message is active, and its owner and attempt are these. */
const lease = {
  id: MessageId,
  owner: Owner,
  /** `attempts` of the message as it was claimed. */
  attempt: Count
}

export const Lease = Schema.Struct(lease)

const outcome = <Name extends string, Fields extends Schema.Struct.Fields>(name: Name, fields: Fields) =>
  Schema.Struct({
    outcome: Schema.Literal(name),
    ...lease,
    ...fields,
    /** Added to those of the message. */
    headers: Schema.optionalKey(Headers)
  })

/** What becomes of a claimed message. */
export const Outcome = Schema.Union([
  /** It is deleted. */
  outcome("done", {}),
  outcome("archived", { error: Schema.optionalKey(Text) }),
  /** It is due again after the delay. */
  outcome("deferred", { delay: TimeSpan, error: Text }),
  outcome("bounced", { error: Text }),
  outcome("held", { error: Text }),
  /** It is incoming again, and the attempt does not count. */
  outcome("released", {})
])
export type Outcome = typeof Outcome.Type

// Errors

/** No message has this id. */
export class MessageNotFound extends Schema.TaggedError<MessageNotFound>("effect-strata/SpoolStore/MessageNotFound")(
  "MessageNotFound",
  { id: Schema.String }
) {
  override get message(): string {
    return `No message has the id "${this.id}"`
  }
}

/** A message with this id is stored already. It is left as it is. */
export class MessageExists extends Schema.TaggedError<MessageExists>("effect-strata/SpoolStore/MessageExists")(
  "MessageExists",
  { id: Schema.String }
) {
  override get message(): string {
    return `A message with the id "${this.id}" is stored already`
  }
}

/** The message is in another state than the caller thought. Nothing was changed. */
export class StateConflict extends Schema.TaggedError<StateConflict>("effect-strata/SpoolStore/StateConflict")(
  "StateConflict",
  { id: Schema.String, expected: Schema.Array(State), actual: State }
) {
  override get message(): string {
    return `Message "${this.id}" is ${this.actual}, not ${this.expected.join(" or ")}`
  }
}

/** The message has changed since the caller read it. Nothing was changed. */
export class UpdateConflict extends Schema.TaggedError<UpdateConflict>("effect-strata/SpoolStore/UpdateConflict")(
  "UpdateConflict",
  { id: Schema.String, expected: Schema.DateTimeUtc, actual: Schema.DateTimeUtc }
) {
  override get message(): string {
    const [expected, actual] = [this.expected, this.actual].map(DateTime.formatIso)
    return `Message "${this.id}" was last changed at ${actual}, not at ${expected}`
  }
}

/** The lease is gone: it ran out and the message was recovered, or somebody has moved or deleted it. Nothing was changed. */
export class LeaseLost extends Schema.TaggedError<LeaseLost>("effect-strata/SpoolStore/LeaseLost")("LeaseLost", {
  id: Schema.String,
  owner: Schema.String,
  attempt: Schema.Int
}) {
  override get message(): string {
    return `Message "${this.id}" is no longer held by "${this.owner}" in attempt ${this.attempt}`
  }
}
