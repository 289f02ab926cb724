/** Whether the offsets of a projection belong to the log that is there: each shard keeps the id of the event it has read last. */
import { Effect, Stream } from "effect"
import { type Cursor, EventStore } from "../EventStore.ts"
import { lastReadId, recordsAt, type RecordsAt } from "./Records.ts"

/** How many places are compared at a time. */
const concurrency = 4

/** Fails with `LogReplaced` if the log is not the one that was read up to the cursor. Nothing is read. */
export const compare = (cursor: Cursor) =>
  cursor.version === 0n
    ? Effect.void
    : EventStore.use((events) => Stream.runDrain(events.read({ after: cursor, limit: 0 })))

/** Where a shard is with this offset, and what its record says besides, if the offset has moved on since. */
const cursorsOf = Effect.fnUntraced(function* (id: string, { lastRead }: RecordsAt, offset: bigint) {
  const { value } = yield* lastRead.read(id)
  const recorded: Cursor = { version: value.version, id: value.id }
  if (value.version === offset) return { place: recorded, others: [] }
  const place: Cursor = { version: offset }
  // Another program can have moved the offset back.
  return { place, others: value.version > 0n && value.version < offset ? [recorded] : [] }
})

/**
 * Where each shard is, with the id of its last event if that is known. Fails with `LogReplaced` if the offset of a shard is
 * ahead of the log, or belongs to another one.
 */
export const placesOf = Effect.fnUntraced(function* (
  name: string,
  shards: ReadonlyArray<number>,
  offsetOf: (shard: number) => bigint
) {
  const places = new Map<number, Cursor>()
  // Most shards are at the same event.
  const distinct = new Map<string, Cursor>()
  const record = yield* recordsAt(shards.map((shard) => lastReadId(name, shard)))
  for (const shard of shards) {
    const { others, place } = yield* cursorsOf(lastReadId(name, shard), record, offsetOf(shard))
    places.set(shard, place)
    for (const cursor of [place, ...others]) distinct.set(`${cursor.version} ${cursor.id}`, cursor)
  }
  yield* Effect.forEach(distinct.values(), compare, { concurrency, discard: true })
  return places
})
