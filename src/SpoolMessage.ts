/** The messages of the spool, their leases, and what becomes of them: the model of `SpoolStore`. */
import { type Duration, Effect, type Option, Schema } from "effect"
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
  /**
   * The states whose count is an estimate, as too many messages are in them: on Postgres more than 5,000 of a queue, or fewer
   * where there are many queues.
   */
  readonly estimated: ReadonlyArray<Exclude<State, "archived">>
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
/** The attempts that a program can give: claims have room to count on, as far as `Count` goes. */
const Attempts = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000_000 }))
const Size = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/** The fields of a message that can be changed whatever its state is. A field that is not given stays as it is. */
const changes = {
  attempts: Schema.optionalKey(Attempts),
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

/** One page of messages. */
export interface Page {
  /** The messages, without their payloads. */
  readonly messages: ReadonlyArray<SpoolMessage>
  /** Whether there are more messages after this page. */
  readonly hasMore: boolean
  /** How many messages there are on all pages, if the caller asked for `total`. */
  readonly total: Option.Option<number>
}
