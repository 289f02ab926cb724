/** What each operation makes of the row of a message. */
import type { Duration } from "effect"
import { toText } from "../../internal/ExactJson.ts"
import { millisOf } from "../../internal/Fields.ts"
import { type Changes, leaseExpired, type Outcome, type State } from "../../SpoolMessage.ts"
import { type MessageRow, noLease, type Now, sizeOf } from "./MessageRow.ts"

/** Each change is at least a millisecond after the one before, so that `updated`, in whole milliseconds, tells them apart. */
const touched = (row: MessageRow, now: Now): MessageRow => ({ ...row, updated: Math.max(now.stamp, row.updated + 1) })

/** A payload brings its size with it. */
const withPayload = (payload: Changes["payload"]) => {
  if (payload === undefined) return {}
  const text = toText(payload)
  return { payload: text, size: sizeOf(text) }
}

export const changed = (row: MessageRow, { headers, nextRetry, payload, ...rest }: Changes, now: Now): MessageRow => ({
  ...touched(row, now),
  ...withPayload(payload),
  ...rest,
  ...(headers === undefined ? {} : { headers: { ...headers } }),
  ...(nextRetry === undefined ? {} : { nextRetry: nextRetry.epochMilliseconds })
})

export const moved = (row: MessageRow, to: State, changes: Changes, now: Now): MessageRow => ({
  ...changed(row, changes, now),
  ...noLease,
  state: to
})

export const claimed = (row: MessageRow, owner: string, lease: Duration.Input, now: Now): MessageRow => ({
  ...touched(row, now),
  state: "active",
  attempts: row.attempts + 1,
  owner,
  leaseUntil: now.clock + millisOf(lease)
})

export const renewed = (row: MessageRow, lease: Duration.Input, now: Now): MessageRow => ({
  ...row,
  leaseUntil: now.clock + millisOf(lease)
})

/** The row as the outcome leaves it: `undefined` if the message is deleted. */
export const settled = (row: MessageRow, outcome: Outcome, now: Now): MessageRow | undefined => {
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

/** When a deferred message is due, in whole milliseconds, which is as far as `Clock` goes. */
export const dueTime = (row: MessageRow): number => Math.floor(row.nextRetry)

/** When the lease of an active message ends, or when its claim is given up, if RetrySpool has claimed it without a lease. */
export const leaseEnd = (row: MessageRow, grace: Duration.Input): number =>
  row.leaseUntil ?? row.updated + millisOf(grace)

/** The row as it is when its claim is given up. */
export const recovered = (row: MessageRow, now: Now): MessageRow => ({
  ...touched(row, now),
  ...noLease,
  state: row.attempts < row.maxAttempts ? "incoming" : "bounce",
  lastError: leaseExpired
})
