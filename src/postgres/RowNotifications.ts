/**
 * What the notifications of go-sync-kit's trigger have no room for: with the trigger on the table, the INSERT of such an
 * event fails. So it is found before.
 */
import { Effect } from "effect"
import type { Append, NewEvent } from "../EventStore.ts"
import { InvalidInput } from "../Input.ts"

/** A channel's name has less than 64 bytes. */
const longestAggregateId = 63 - "stream_".length

/** A payload has less than 8,000 bytes, of which keys, version, time and punctuation take less than 200. */
const longestPayload = 7999 - 200

const bytesOf = (text: string) => Buffer.byteLength(text)

const payloadOf = ({ aggregateId, eventType, id = "" }: NewEvent): number =>
  bytesOf(JSON.stringify([id, eventType, aggregateId, aggregateId]))

/** Fails with `InvalidInput` for events that cannot be notified of. */
export const check = ({ events }: Append): Effect.Effect<void, InvalidInput> =>
  Effect.suspend(() => {
    const issues = events.flatMap((event, index) => {
      if (bytesOf(event.aggregateId) > longestAggregateId) {
        const message = `Expected at most ${longestAggregateId} bytes, as the table notifies of each row on a channel named after it`
        return [{ field: `events.${index}.aggregateId`, message }]
      }
      if (payloadOf(event) > longestPayload) {
        const message = "Expected a shorter id and type, as the table notifies of each row, in less than 8,000 bytes"
        return [{ field: `events.${index}`, message }]
      }
      return []
    })
    return issues.length === 0
      ? Effect.void
      : Effect.fail(new InvalidInput({ store: "EventStore", operation: "append", issues }))
  })
