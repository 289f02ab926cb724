/**
 * Which events the notifications of go-sync-kit's trigger have no room for. With the trigger on the table the INSERT of such
 * an event fails, and the other events of the statement with it. So the event is refused before.
 */
import type { Append } from "../../Event.ts"
import { InvalidInput } from "../../InvalidInput.ts"

/**
 * A channel's name has at most 63 bytes. A payload has less than 8,000 bytes, which is enough: an id and a type of 512
 * characters have 3,072 bytes each where every character is escaped.
 */
const maxAggregateIdBytes = 63 - "stream_".length

/** Why these events cannot be appended to a table that notifies of each event, if they cannot. */
export const refusalOf = ({ events }: Append): InvalidInput | undefined => {
  const message =
    `Expected at most ${maxAggregateIdBytes} bytes: this table notifies of each event on a channel ` +
    "that is named after its aggregate"
  const issues = events.flatMap(({ aggregateId }, index) =>
    Buffer.byteLength(aggregateId) > maxAggregateIdBytes ? [{ field: `events.${index}.aggregateId`, message }] : []
  )
  return issues.length === 0 ? undefined : new InvalidInput({ store: "EventStore", operation: "append", issues })
}
