/**
 * What the notifications of go-sync-kit's trigger have no room for: with the trigger on the table, the INSERT of such an
 * event fails. So it is found before.
 */
import type { Append } from "../../EventStore.ts"
import { InvalidInput } from "../../InvalidInput.ts"

/**
 * A channel's name has less than 64 bytes. A payload has less than 8,000, which is enough: an id and a type of 512
 * characters have 3,072 bytes each where every one of them is escaped.
 */
const longestAggregateId = 63 - "stream_".length

/** Why these events cannot be appended to a table that notifies of each, if that is so. */
export const refusalOf = ({ events }: Append): InvalidInput | undefined => {
  const message =
    `Expected at most ${longestAggregateId} bytes: this table notifies of each event on a channel ` +
    "that is named after its aggregate"
  const issues = events.flatMap(({ aggregateId }, index) =>
    Buffer.byteLength(aggregateId) > longestAggregateId ? [{ field: `events.${index}.aggregateId`, message }] : []
  )
  return issues.length === 0 ? undefined : new InvalidInput({ store: "EventStore", operation: "append", issues })
}
