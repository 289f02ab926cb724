/** The messages of the spool, the arguments of its operations, and what can go wrong: the model of `SpoolStore`. */
import { DateTime, Duration, Effect, type Option, Schema } from "effect"
import { Identifier, Int64, maxRowBytes, Text, Time, TimeSpan } from "./internal/Fields.ts"
import { jsonbBytes } from "./internal/JsonText.ts"
import { safeJsonUpTo } from "./internal/SafeJson.ts"

// Model

/** An index entry of the table has room for an id, a queue or an owner of 255 characters. */
const longestName = 255

export const MessageId = Identifier(longestName)

/** The name of a queue. The messages of RetrySpool are in no queue. */
export const QueueName = Identifier(longestName)

/**
 * Which message is meant: its id and its queue, or only its id if it is in no queue. The same id in two queues is two messages.
 * A message has both, and so has a lease: either can be given as it is.
 */
export type MessageKey = string | { readonly queue?: string | undefined; readonly id: string }

/** The parts of a key. */
const key = { queue: Schema.optionalKey(QueueName), id: MessageId }

/** A key as the operations check it. */
export class Key extends Schema.Class<Key>("effect-strata/SpoolStore/Key")(key) {}

/** The parts of the key, and nothing else that its value has. */
export const keyOf = (message: MessageKey): { readonly queue?: string; readonly id: string } => {
  if (typeof message === "string") return { id: message }
  return message.queue === undefined ? { id: message.id } : { queue: message.queue, id: message.id }
}

/** The key as a text that no other key has, as no name contains a NUL. */
export const keyText = ({ id, queue }: { readonly queue?: string | null | undefined; readonly id: string }): string =>
  `${queue ?? ""}\0${id}`

/**
 * The name under which messages are claimed. Each claim should have a name of its own: the store tells two claims of one
 * message apart by owner and attempt.
 */
export const Owner = Identifier(longestName)

/**
 * What a message is doing: an `incoming` message waits to be claimed; an `active` one is being delivered; a `deferred` one
 * waits until its `nextRetry`; an administrator has set a `hold` aside. A `bounce` could not be delivered and an `archived`
 * message was: both stay as they are.
 */
export const State = Schema.Literals(["incoming", "active", "deferred", "hold", "bounce", "archived"])
export type State = typeof State.Type

/** Whether a message in this state is or will be ready to be claimed. */
export const isWaiting = (state: State): boolean => state === "incoming" || state === "deferred"

/** How many messages are in each state. */
export type Counts = { readonly [S in State]: number }

/** The counts of an empty table. */
export const noMessages: Counts = { incoming: 0, active: 0, deferred: 0, hold: 0, bounce: 0, archived: 0 }

/** What waits in one queue, or in none: see `SpoolStore.overview`. */
export interface QueueOverview {
  /** Absent for the messages that are in no queue. */
  readonly queue: string | undefined
  /** How many messages are in each state but `archived`. */
  readonly counts: Omit<Counts, "archived">
  /** How many of the active messages have a worker whose lease has not run out. */
  readonly leased: number
  /** For how long the oldest message that could be claimed has waited; none if there is no such message. */
  readonly oldestReady: Option.Option<Duration.Duration>
}

/** From 1, which is claimed first, to 10. */
export const Priority = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10 }))

/** How many bytes the headers can have that an operation stores, as JSON: see `maxPayloadBytes`. */
export const maxHeadersBytes = 1024 * 1024

/** How many characters an error, or the name of a retry policy, can have: see `maxPayloadBytes`. */
export const maxTextLength = 64 * 1024

/**
 * How many bytes the payload of a message can have, in UTF-8 as Postgres's `jsonb` writes it: with a space after each comma
 * and colon, and with all digits of `1e300`. The row of a message has to fit in 16 MiB: see
 * `DurableStateStore.maxPayloadBytes`. There is room for the headers twice, as outcomes add to them.
 */
export const maxPayloadBytes = maxRowBytes - 3 * maxHeadersBytes

export const Headers = Schema.Record(Text, Text).check(
  Schema.makeFilter((headers) => {
    let length = 0
    for (const key of Object.keys(headers)) length += key.length + (headers[key]?.length ?? 0) + 6
    // At most six bytes for a character, which may have to be escaped.
    if (length * 6 <= maxHeadersBytes || jsonbBytes(JSON.stringify(headers)) <= maxHeadersBytes) return undefined
    return `Expected at most ${maxHeadersBytes} bytes`
  })
)

/** Text that is read together with a payload. */
const ShortText = Text.check(
  Schema.makeFilter(({ length }) =>
    length > maxTextLength ? `Expected at most ${maxTextLength} characters` : undefined
  )
)

/** A whole number from 0 that fits in an `INTEGER` column. */
export const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 }))
const Size = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/** The fields of a message that can be changed whatever its state is. A field that is not given stays as it is. */
const changes = {
  attempts: Schema.optionalKey(Count),
  maxAttempts: Schema.optionalKey(Count),
  /** When the message is due, if it is deferred. */
  nextRetry: Schema.optionalKey(Time),
  lastError: Schema.optionalKey(ShortText),
  size: Schema.optionalKey(Size),
  priority: Schema.optionalKey(Priority),
  /** They replace all headers that are stored. */
  headers: Schema.optionalKey(Headers),
  retryPolicyName: Schema.optionalKey(ShortText)
}

/** A change of the payload changes the size with it, unless that is given, too. */
export const Changes = Schema.Struct({
  ...changes,
  payload: Schema.optionalKey(safeJsonUpTo(maxPayloadBytes))
})
export type Changes = typeof Changes.Type

/** The same where large integers are `bigint`. */
export const ExactChanges = Schema.Struct({
  ...changes,
  payload: Schema.optionalKey(safeJsonUpTo(maxPayloadBytes, "bigint"))
})

const newMessage = {
  ...changes,
  ...key,
  /** `incoming`, or `deferred` if `nextRetry` or `delay` is given. */
  state: Schema.optionalKey(State),
  /** 10 unless given. */
  maxAttempts: Count.pipe(Schema.withConstructorDefault(Effect.succeed(10))),
  /** 5 unless given. */
  priority: Priority.pipe(Schema.withConstructorDefault(Effect.succeed(5))),
  /** How long after now, by the store's clock, the message is due: another way to give `nextRetry`. */
  delay: Schema.optionalKey(TimeSpan),
  /** When the message was created: now, by the store's clock, unless given. */
  created: Schema.optionalKey(Time),
  /**
   * For how long the id stays taken after the message was delivered and deleted, by a digest of the payload: not at all unless
   * given. It has no effect on a message in no queue: RetrySpool would meet the id in its table.
   */
  rememberId: Schema.optionalKey(TimeSpan)
}

const oneTime = Schema.makeFilter(({ delay, nextRetry }: { readonly delay?: unknown; readonly nextRetry?: unknown }) =>
  delay === undefined || nextRetry === undefined ? undefined : "Expected nextRetry or delay, not both"
)

/** A message to store. Without `nextRetry` and `delay` it is due at once. */
export const NewMessage = Schema.Struct({
  ...newMessage,
  payload: Schema.optionalKey(safeJsonUpTo(maxPayloadBytes))
}).check(oneTime)
export type NewMessage = typeof NewMessage.Type

/** The same where large integers are `bigint`. */
export const NewExactMessage = Schema.Struct({
  ...newMessage,
  payload: Schema.optionalKey(safeJsonUpTo(maxPayloadBytes, "bigint"))
}).check(oneTime)

/** The state in which a new message is stored. */
export const stateOf = ({ delay, nextRetry, state }: NewMessage): State =>
  state ?? (delay === undefined && nextRetry === undefined ? "incoming" : "deferred")

/** A stored message. Times are the store's own, in milliseconds. */
export class SpoolMessage extends Schema.Class<SpoolMessage>("effect-strata/SpoolStore/SpoolMessage")({
  id: Schema.String,
  queue: Schema.optionalKey(Schema.String),
  state: State,
  /** How often the message has been claimed. */
  attempts: Schema.Int,
  maxAttempts: Schema.Int,
  nextRetry: Schema.DateTimeUtc,
  created: Schema.DateTimeUtc,
  /** When the message last changed, at least a millisecond later each time. Renewing its lease is no change. */
  updated: Schema.DateTimeUtc,
  lastError: Schema.String,
  /** The size in bytes: the length of the payload as JSON, unless the sender gave another size. */
  size: Schema.BigInt,
  priority: Schema.Int,
  headers: Schema.Record(Schema.String, Schema.String),
  retryPolicyName: Schema.String,
  payload: Schema.optionalKey(Schema.Json)
}) {}

/** The `lastError` of a message whose claim was given up. */
export const leaseExpired = "the lease ran out: the worker that held it has stopped, or was too slow"

const lease = {
  ...key,
  owner: Owner,
  /** `attempts` of the message as it was claimed. */
  attempt: Count
}

/** A worker's right to a message: it is held while the message is active and has this owner and this number of attempts. */
export const Lease = Schema.Struct(lease)
export type Lease = typeof Lease.Type

/** The lease of a message that was claimed under this name. */
export const leaseOf = (message: SpoolMessage, owner: string): Lease => ({
  ...keyOf(message),
  owner,
  attempt: message.attempts
})

const outcome = <Name extends string, Fields extends Schema.Struct.Fields>(name: Name, fields: Fields) =>
  Schema.Struct({
    outcome: Schema.Literal(name),
    ...lease,
    ...fields,
    /** They are added to the headers of the message. */
    headers: Schema.optionalKey(Headers)
  })

/** What becomes of a claimed message. */
export const Outcome = Schema.Union([
  /** The message is deleted. */
  outcome("done", {}),
  outcome("archived", { error: Schema.optionalKey(ShortText) }),
  /** The message is due again after the delay. */
  outcome("deferred", { delay: TimeSpan, error: ShortText }),
  outcome("bounced", { error: ShortText }),
  outcome("held", { error: ShortText }),
  /** The message is incoming again, and the attempt does not count. */
  outcome("released", {})
])
export type Outcome = typeof Outcome.Type

// Arguments

const distinct = Schema.makeFilter((items: ReadonlyArray<typeof Key.Encoded>) =>
  items.length < 2 || new Set(items.map(keyText)).size === items.length ? undefined : "Expected each message once"
)

const inQueuesOrInNone = Schema.makeFilter((messages: ReadonlyArray<NewMessage>) =>
  messages.every(({ queue }) => (queue === undefined) === (messages[0]?.queue === undefined))
    ? undefined
    : "Expected a queue for each message, or for none"
)

/** How many messages one statement changes, or a stream reads at a time, at most. */
const BatchSize = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 }))

export class Messages extends Schema.Class<Messages>("effect-strata/SpoolStore/Messages")({
  messages: Schema.Array(NewMessage).check(distinct, inQueuesOrInNone)
}) {}

/** The same where large integers are `bigint`. */
export class ExactMessages extends Schema.Class<ExactMessages>("effect-strata/SpoolStore/Messages")({
  messages: Schema.Array(NewExactMessage).check(distinct, inQueuesOrInNone)
}) {}

export class Update extends Schema.Class<Update>("effect-strata/SpoolStore/Update")({
  ...key,
  changes: Changes,
  ifUpdated: Schema.optionalKey(Time)
}) {}

/** The same where large integers are `bigint`. */
export class ExactUpdate extends Schema.Class<ExactUpdate>("effect-strata/SpoolStore/Update")({
  ...key,
  changes: ExactChanges,
  ifUpdated: Schema.optionalKey(Time)
}) {}

export class Remove extends Schema.Class<Remove>("effect-strata/SpoolStore/Remove")({
  ...key,
  /** Whether the id stays taken as after a delivery: false unless given. */
  rememberId: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))
}) {}

export class Move extends Schema.Class<Move>("effect-strata/SpoolStore/Move")({
  ...key,
  from: Schema.Array(State),
  to: State,
  changes: Changes
}) {}

/** The same where large integers are `bigint`. */
export class ExactMove extends Schema.Class<ExactMove>("effect-strata/SpoolStore/Move")({
  ...key,
  from: Schema.Array(State),
  to: State,
  changes: ExactChanges
}) {}

/** One queue. Without one the operation decides: all queues, or the messages that are in no queue. */
export class Selection extends Schema.Class<Selection>("effect-strata/SpoolStore/Selection")({
  queue: Schema.optionalKey(QueueName)
}) {}

/** A page of a list. */
export class List extends Schema.Class<List>("effect-strata/SpoolStore/List")({
  state: State,
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  /** How many messages at most: 100 unless given. */
  limit: Count.pipe(Schema.withConstructorDefault(Effect.succeed(100))),
  offset: Count.pipe(Schema.withConstructorDefault(Effect.succeed(0))),
  sortBy: Schema.Literals(["created", "updated", "priority", "attempts"]).pipe(
    Schema.withConstructorDefault(Effect.succeed("created"))
  ),
  sortOrder: Schema.Literals(["asc", "desc"]).pipe(Schema.withConstructorDefault(Effect.succeed("asc"))),
  /** Only messages that have been stored or changed at this time or later. */
  since: Schema.optionalKey(Time),
  /** Whether to count all messages that match. */
  total: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))
}) {}

export class Iterate extends Schema.Class<Iterate>("effect-strata/SpoolStore/Iterate")({
  state: State,
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  batchSize: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

export class Claim extends Schema.Class<Claim>("effect-strata/SpoolStore/Claim")({
  /** The queue to claim from. Without it the claim gets messages that are in no queue. */
  queue: Schema.optionalKey(QueueName),
  limit: BatchSize,
  lease: TimeSpan,
  owner: Owner,
  /** How many of `limit` incoming messages get before deferred ones, if so many wait: half unless given. */
  reserved: Schema.optionalKey(Count)
}) {}

/** How many messages of a claim incoming ones get before deferred ones, if so many wait. */
export const reservedOf = ({ limit, reserved = Math.floor(limit / 2) }: Claim): number => Math.min(reserved, limit)

export class Settle extends Schema.Class<Settle>("effect-strata/SpoolStore/Settle")({
  outcomes: Schema.Array(Outcome).check(distinct)
}) {}

export class Heartbeat extends Schema.Class<Heartbeat>("effect-strata/SpoolStore/Heartbeat")({
  leases: Schema.Array(Lease).check(distinct),
  lease: TimeSpan
}) {}

/** How long after its last change an active message without a lease is given up: RetrySpool claims without leases. */
export const defaultGrace = Duration.minutes(10)

export class Recover extends Schema.Class<Recover>("effect-strata/SpoolStore/Recover")({
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  limit: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000))),
  /** How long after its last change an active message without a lease is given up: 10 minutes unless given. */
  grace: TimeSpan.pipe(Schema.withConstructorDefault(Effect.succeed(defaultGrace)))
}) {}

export class Purge extends Schema.Class<Purge>("effect-strata/SpoolStore/Purge")({
  state: State,
  /** How long ago a message must have changed last. */
  olderThan: TimeSpan,
  /** The queue of the messages: all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  limit: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

export class Forget extends Schema.Class<Forget>("effect-strata/SpoolStore/Forget")({
  limit: BatchSize.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

/** One page of messages. */
export interface Page {
  /** The messages, without their payloads. */
  readonly messages: ReadonlyArray<SpoolMessage>
  /** Whether there are more messages after this page. */
  readonly hasMore: boolean
  /** How many messages there are on all pages, if the caller asked for `total`. */
  readonly total: Option.Option<number>
}

// Errors

const errorKey = { queue: Schema.optionalKey(Schema.String), id: Schema.String }

/** The message in the text of an error. */
const named = ({ id, queue }: { readonly queue?: string; readonly id: string }) =>
  queue === undefined ? `"${id}"` : `"${id}" of queue "${queue}"`

/**
 * No message has this key.
 *
 * **Remedy**
 *
 * Look whether the key is right. A message that was delivered is deleted, unless the queue archives.
 */
export class MessageNotFound extends Schema.TaggedError<MessageNotFound>("effect-strata/SpoolStore/MessageNotFound")(
  "MessageNotFound",
  errorKey
) {
  override get message(): string {
    return this.queue === undefined
      ? `No message without a queue has the id "${this.id}"; if it is in a queue, name the queue, too`
      : `No message of queue "${this.queue}" has the id "${this.id}"`
  }
}

/**
 * The message is stored already, with the same payload, and stays as it is.
 *
 * **Remedy**
 *
 * Nothing: the message was stored before.
 */
export class MessageExists extends Schema.TaggedError<MessageExists>("effect-strata/SpoolStore/MessageExists")(
  "MessageExists",
  errorKey
) {
  override get message(): string {
    return `Message ${named(this)} is stored already`
  }
}

/**
 * The id is taken: by a message of the same queue with another payload, or, in RetrySpool's table, where ids are those of all
 * queues, by a message of another queue. Nothing was changed.
 *
 * **Remedy**
 *
 * Give another id, or do not enqueue again: what was enqueued first counts.
 */
export class IdConflict extends Schema.TaggedError<IdConflict>("effect-strata/SpoolStore/IdConflict")("IdConflict", {
  ...errorKey,
  takenBy: Schema.Literals(["another payload", "another queue"])
}) {
  override get message(): string {
    return this.takenBy === "another payload"
      ? `The id of message ${named(this)} is taken by a message with another payload`
      : `The id of message ${named(this)} is taken by a message of another queue in RetrySpool's table`
  }
}

/**
 * The message is in another state than the caller expected. Nothing was changed.
 *
 * **Remedy**
 *
 * Read the message again, and decide by the state that it has now.
 */
export class StateConflict extends Schema.TaggedError<StateConflict>("effect-strata/SpoolStore/StateConflict")(
  "StateConflict",
  { ...errorKey, expected: Schema.Array(State), actual: State }
) {
  override get message(): string {
    return `Message ${named(this)} is ${this.actual}, not ${this.expected.join(" or ")}`
  }
}

/**
 * The message has changed since the caller read it. Nothing was changed.
 *
 * **Remedy**
 *
 * Read the message again, and change what is there now.
 */
export class UpdateConflict extends Schema.TaggedError<UpdateConflict>("effect-strata/SpoolStore/UpdateConflict")(
  "UpdateConflict",
  { ...errorKey, expected: Schema.DateTimeUtc, actual: Schema.DateTimeUtc }
) {
  override get message(): string {
    const [expected, actual] = [this.expected, this.actual].map(DateTime.formatIso)
    return `Message ${named(this)} was last changed at ${actual}, not at ${expected}`
  }
}

/**
 * The lease is lost: it ran out and the message was recovered, or the message was moved or deleted. Nothing was
 * changed.
 *
 * **Remedy**
 *
 * Nothing: whoever has the message now handles it. Where it happens often, give a longer `lease`, or look for what
 * blocks the event loop.
 */
export class LeaseLost extends Schema.TaggedError<LeaseLost>("effect-strata/SpoolStore/LeaseLost")("LeaseLost", {
  ...errorKey,
  owner: Schema.String,
  attempt: Schema.Int
}) {
  override get message(): string {
    return `Message ${named(this)} is no longer held by "${this.owner}" in attempt ${this.attempt}`
  }
}

/**
 * Another transaction has locked the message: it is changing the message, or keeps others from it. Nothing was changed.
 *
 * **Remedy**
 *
 * Try again, and look for the transaction that stays open: a warning names it.
 */
export class MessageLocked extends Schema.TaggedError<MessageLocked>("effect-strata/SpoolStore/MessageLocked")(
  "MessageLocked",
  errorKey
) {
  override get message(): string {
    return `Message ${named(this)} is locked by another transaction; settle it again once that has ended`
  }
}

/** What `trySettle` could not settle. */
export interface Unsettled {
  /** Each message whose lease is lost. */
  readonly lost: ReadonlyArray<LeaseLost>
  /** Each message whose lease is held, and that another transaction has locked. */
  readonly locked: ReadonlyArray<MessageLocked>
}

/** The errors of the outcomes that are not stored: `settled` and `locked` are the texts of the others' keys. */
export const unsettledAmong = (
  outcomes: ReadonlyArray<Lease>,
  settled: ReadonlySet<string>,
  locked: ReadonlySet<string>
): Unsettled => ({
  lost: lostAmong(
    outcomes.filter((lease) => !locked.has(keyText(lease))),
    settled
  ),
  locked: outcomes.flatMap((lease) => (locked.has(keyText(lease)) ? [new MessageLocked(keyOf(lease))] : []))
})

/** Nothing is left to settle. */
export const allSettled: Unsettled = { lost: [], locked: [] }

/** The errors for the leases that are lost: the texts of their keys are not in `held`. */
export const lostAmong = (leases: ReadonlyArray<Lease>, held: ReadonlySet<string>): ReadonlyArray<LeaseLost> =>
  leases.flatMap((lease) =>
    held.has(keyText(lease)) ? [] : [new LeaseLost({ ...keyOf(lease), owner: lease.owner, attempt: lease.attempt })]
  )

/** The errors in the order in which the caller has given the leases. */
export const inOrderOf = <E extends { readonly queue?: string; readonly id: string }>(
  leases: ReadonlyArray<Lease>,
  errors: ReadonlyArray<E>
): ReadonlyArray<E> => {
  const byKey = new Map(errors.map((error) => [keyText(error), error]))
  return leases.flatMap((lease) => byKey.get(keyText(lease)) ?? [])
}
