/** A message as the memory backend keeps it. */
import { DateTime, Duration, Order, Schema } from "effect"
import {
  type Changes,
  leaseExpired,
  type NewMessage,
  type Outcome,
  SpoolMessage,
  type State,
  stateOf
} from "../SpoolMessage.ts"
import { byCodePoint } from "./Table.ts"

/** Times are in epoch milliseconds, with fractions that tell what came first. The payload is text: nobody shares it with the store. */
export interface SpoolRow {
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
}

/** When a statement runs: by `Clock`, and a little later than the statement before, so that changes have an order. */
export interface Now {
  readonly clock: number
  readonly stamp: number
}

const noLease = { owner: undefined, leaseUntil: undefined }

const millisOf = (duration: Duration.Input) => Duration.toMillis(Duration.fromInputUnsafe(duration))

const sizeOf = (text: string) => BigInt(new TextEncoder().encode(text).length)

export const rowOf = (message: NewMessage, now: Now): SpoolRow => {
  const payload = message.payload === undefined ? undefined : JSON.stringify(message.payload)
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
    ...noLease
  }
}

const parse = Schema.decodeSync(Schema.fromJsonString(Schema.Json))

const time = (millis: number) => DateTime.makeUnsafe(Math.floor(millis))

/** The message, with its payload or without. */
export const toMessage = (row: SpoolRow, withPayload = true): SpoolMessage =>
  new SpoolMessage({
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
    ...(row.payload === undefined || !withPayload ? {} : { payload: parse(row.payload) })
  })

/** A change is at least a millisecond after the one before: so `updated` tells them apart. */
const touched = (row: SpoolRow, now: Now): SpoolRow => ({ ...row, updated: Math.max(now.stamp, row.updated + 1) })

export const changed = (row: SpoolRow, { headers, nextRetry, ...rest }: Changes, now: Now): SpoolRow => ({
  ...touched(row, now),
  ...rest,
  ...(headers === undefined ? {} : { headers: { ...headers } }),
  ...(nextRetry === undefined ? {} : { nextRetry: nextRetry.epochMilliseconds })
})

export const moved = (row: SpoolRow, to: State, changes: Changes, now: Now): SpoolRow => ({
  ...changed(row, changes, now),
  ...noLease,
  state: to
})

export const claimed = (row: SpoolRow, owner: string, lease: Duration.Input, now: Now): SpoolRow => ({
  ...touched(row, now),
  state: "active",
  attempts: row.attempts + 1,
  owner,
  leaseUntil: now.clock + millisOf(lease)
})

export const renewed = (row: SpoolRow, lease: Duration.Input, now: Now): SpoolRow => ({
  ...row,
  leaseUntil: now.clock + millisOf(lease)
})

/** The row as the outcome leaves it: `undefined` if it is deleted. */
export const settled = (row: SpoolRow, outcome: Outcome, now: Now): SpoolRow | undefined => {
  const kept = { ...touched(row, now), ...noLease, headers: { ...row.headers, ...outcome.headers } }
  switch (outcome.outcome) {
    case "done":
      return undefined
    case "archived":
      return { ...kept, state: "archived", lastError: outcome.error ?? row.lastError }
    case "deferred":
      return {
        ...kept,
        state: "deferred",
        nextRetry: now.stamp + millisOf(outcome.delay),
        lastError: outcome.error
      }
    case "bounced":
      return { ...kept, state: "bounce", lastError: outcome.error }
    case "held":
      return { ...kept, state: "hold", lastError: outcome.error }
    case "released":
      return { ...kept, state: "incoming", attempts: row.attempts - 1 }
  }
}

/** When a deferred message is due, to the millisecond, as clocks go. */
export const dueTime = (row: SpoolRow): number => Math.floor(row.nextRetry)

/** When the lease of an active message ends, or its claim without one is given up. */
export const leaseEnd = (row: SpoolRow, grace: Duration.Input): number =>
  row.leaseUntil ?? row.updated + millisOf(grace)

export const recovered = (row: SpoolRow, now: Now): SpoolRow => ({
  ...touched(row, now),
  ...noLease,
  state: row.attempts < row.maxAttempts ? "incoming" : "bounce",
  lastError: leaseExpired
})

// Orders

const by = <Part>(order: Order.Order<Part>, part: (row: SpoolRow) => Part) => Order.mapInput(order, part)

export const byId = by(byCodePoint, (row) => row.id)

export const byAge = Order.combine(
  by(Order.Number, (row) => row.created),
  byId
)

const byPriority = by(Order.Number, (row) => row.priority)

/** In which messages are claimed. */
export const byPriorityAndAge = Order.combine(byPriority, byAge)

/** In which deferred messages are claimed. */
export const byPriorityAndDue = Order.combineAll([byPriority, by(Order.Number, (row) => row.nextRetry), byId])

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
