/** How memory keeps a message, how that row becomes a message again, and the orders of rows. */
import { DateTime, Order, Predicate } from "effect"
import { byCodePoint } from "../../internal/CodePoints.ts"
import { fromText, toText } from "../../internal/ExactJson.ts"
import { millisOf } from "../../internal/Fields.ts"
import { instanceOf } from "../../internal/Instance.ts"
import { keyText, type NewMessage, SpoolMessage, type State, stateOf } from "../../SpoolMessage.ts"

/**
 * A message as memory keeps it. Times are in epoch milliseconds, with fractions that tell which came first. The payload is
 * JSON text, so that the store shares no object with its callers.
 */
export interface MessageRow {
  readonly id: string
  readonly queue: string | undefined
  readonly state: State
  readonly attempts: number
  readonly maxAttempts: number
  readonly nextRetry: number
  readonly created: number
  readonly updated: number
  readonly lastError: string
  readonly size: bigint
  readonly priority: number
  readonly headers: Readonly<Record<string, string>>
  readonly retryPolicyName: string
  readonly payload: string | undefined
  readonly owner: string | undefined
  readonly leaseUntil: number | undefined
  /** For how long the id stays taken after the delivery, in milliseconds. */
  readonly remember: number | undefined
}

/** An id that stays taken after its message was delivered. */
export interface RememberedId {
  readonly payload: string | undefined
  /** In epoch milliseconds. */
  readonly until: number
}

/** The time of a statement, in epoch milliseconds. */
export interface Now {
  /** By `Clock`. */
  readonly clock: number
  /** The same, or a microsecond after the stamp before if the clock has not moved, so that changes have an order. */
  readonly stamp: number
}

/** The part of a row that a message has while no lease is held. */
export const noLease = { owner: undefined, leaseUntil: undefined }

export const sizeOf = (text: string) => BigInt(new TextEncoder().encode(text).length)

/** The row of a new message. */
export const rowOf = (message: NewMessage, now: Now): MessageRow => {
  const payload = message.payload === undefined ? undefined : toText(message.payload)
  return {
    id: message.id,
    queue: message.queue,
    state: stateOf(message),
    attempts: message.attempts ?? 0,
    maxAttempts: message.maxAttempts,
    nextRetry: message.nextRetry?.epochMilliseconds ?? now.stamp + millisOf(message.delay ?? 0),
    created: message.created?.epochMilliseconds ?? now.stamp,
    updated: now.stamp,
    lastError: message.lastError ?? "",
    size: message.size ?? (payload === undefined ? 0n : sizeOf(payload)),
    priority: message.priority,
    headers: { ...message.headers },
    retryPolicyName: message.retryPolicyName ?? "",
    payload,
    // RetrySpool's messages are in no queue: their ids are not remembered on any backend.
    remember:
      message.rememberId === undefined || message.queue === undefined ? undefined : millisOf(message.rememberId),
    ...noLease
  }
}

/** A JSON text in one form: payloads with the same value have the same one. */
export const canonical = (payload: string | undefined): string | undefined =>
  payload === undefined ? undefined : toText(sorted(fromText(payload)))

const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(sorted)
  if (!Predicate.isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, part]) => [key, sorted(part)])
  )
}

const time = (millis: number) => DateTime.makeUnsafe(Math.floor(millis))

/** The message, with its payload or without. */
export const toMessage = (row: MessageRow, withPayload = true): SpoolMessage =>
  instanceOf(SpoolMessage, {
    id: row.id,
    ...(row.queue === undefined ? {} : { queue: row.queue }),
    state: row.state,
    attempts: row.attempts,
    maxAttempts: row.maxAttempts,
    nextRetry: time(row.nextRetry),
    created: time(row.created),
    updated: time(row.updated),
    lastError: row.lastError,
    size: row.size,
    priority: row.priority,
    headers: { ...row.headers },
    retryPolicyName: row.retryPolicyName,
    ...(row.payload === undefined || !withPayload ? {} : { payload: fromText(row.payload) })
  })

// Orders

const by = <Part>(order: Order.Order<Part>, part: (row: MessageRow) => Part) => Order.mapInput(order, part)

export const byId = Order.combine(
  by(byCodePoint, (row) => row.id),
  by(byCodePoint, (row) => row.queue ?? "")
)

/** The order in which messages are held, so that two statements cannot block each other in a circle. */
export const byKey = by(byCodePoint, keyText)

export const byAge = Order.combine(
  by(Order.Number, (row) => row.created),
  byId
)

const byPriority = by(Order.Number, (row) => row.priority)

/** The order in which messages are claimed. */
export const byPriorityAndAge = Order.combine(byPriority, byAge)

/** The order in which deferred messages are claimed. */
export const byPriorityAndDue = Order.combineAll([byPriority, by(Order.Number, (row) => row.nextRetry), byId])

/** The orders of `listMessages`. */
export const bySortField = {
  created: byAge,
  updated: Order.combine(
    by(Order.Number, (row) => row.updated),
    byId
  ),
  priority: Order.combine(byPriority, byId),
  attempts: Order.combine(
    by(Order.Number, (row) => row.attempts),
    byId
  )
} as const

/** The group of a row in its table: rows are found by their queue and state. */
export const groupOf = ({ queue, state }: Pick<MessageRow, "queue" | "state">): string => `${state} ${queue ?? ""}`
