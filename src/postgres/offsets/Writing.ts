/**
 * How offsets get into the table, whatever is stored.
 *
 * **Details**
 *
 * Outside of a transaction, writes that come at once are coalesced into one statement, so one commit, with at most one write
 * of each shard. That statement moves the offsets that are there and that no other transaction has: it waits for nothing.
 * Each of the others is then written by itself.
 */
import { Effect, Exit, Schema } from "effect"
import type { Offset, ProjectionId } from "../../OffsetStore.ts"
import { Closed, type Reason } from "../../StoreError.ts"
import * as Coalescing from "../database/Coalescing.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isRefusal } from "../database/Reasons.ts"

interface Request extends Coalescing.Job {
  readonly offset: Offset
}

const keyOf = ({ projectionName, shardNumber }: ProjectionId) => `${shardNumber} ${projectionName}`

const requestOf = (offset: Offset): Request => ({
  kind: "write",
  shared: [],
  exclusive: [keyOf(offset)],
  unordered: [],
  size: offset.projectionName.length,
  offset
})

const closed = new Closed({
  message: "the scope of this OffsetStore has ended before the write had; keep its layer alive"
})

/** The places of the writes that were done. */
const Done = Schema.Struct({ place: Schema.BigInt })

const statementsOf = ({ fixed, tables: { offsets } }: PostgresDatabase["Service"]) => ({
  one: ({ projectionName, shardNumber, timestamp, value }: Offset) => fixed`
    INSERT INTO ${offsets} (projection_name, shard_number, current_offset, timestamp)
    VALUES (${projectionName}, ${shardNumber}, ${value}, ${timestamp})
    ON CONFLICT (projection_name, shard_number)
    DO UPDATE SET current_offset = excluded.current_offset, timestamp = excluded.timestamp`,

  // A row is found by its place in the table once it is locked: it cannot move before the statement ends.
  many: (written: ReadonlyArray<Offset>) => fixed`
    WITH held AS MATERIALIZED (
      SELECT held.ctid, new.* FROM ROWS FROM (
        pg_catalog.unnest(${written.map(({ projectionName }) => projectionName)}::text[]),
        pg_catalog.unnest(${written.map(({ shardNumber }) => BigInt(shardNumber))}::bigint[]),
        pg_catalog.unnest(${written.map(({ value }) => value)}::bigint[]),
        pg_catalog.unnest(${written.map(({ timestamp }) => timestamp)}::bigint[])
      ) WITH ORDINALITY AS new (projection_name, shard_number, value, timestamp, place)
      CROSS JOIN LATERAL (
        SELECT offsets.ctid FROM ${offsets} AS offsets
        WHERE offsets.projection_name::text = new.projection_name AND offsets.shard_number = new.shard_number
        FOR UPDATE SKIP LOCKED
      ) AS held
    )
    UPDATE ${offsets} AS offsets SET current_offset = held.value, timestamp = held.timestamp
    FROM held WHERE offsets.ctid = held.ctid
    RETURNING held.place`
})

/** Makes how an offset is written. `announce` runs after the commit. */
export const make = Effect.fnUntraced(function* (announce: Effect.Effect<void>) {
  const database = yield* PostgresDatabase
  const { names, query, whether } = database
  const { many, one } = statementsOf(database)
  const decode = decodeRows(Done, names.offsets, [])

  const patiently = ({ offset }: Request) => Effect.andThen(query(one(offset)), announce)

  const together = (requests: ReadonlyArray<Request>) =>
    Effect.flatMap(query(many(requests.map(({ offset }) => offset))), decode).pipe(
      Effect.tap(announce),
      Effect.map((rows) => {
        const done = new Set(rows.map(({ place }) => Number(place) - 1))
        return requests.map((_, place) => (done.has(place) ? Exit.void : undefined))
      }),
      // The server has written nothing. By themselves, only the writes fail that it refuses.
      Effect.catch((reason: Reason) =>
        Effect.succeed(
          requests.map(() => (reason._tag === "Contention" || isRefusal(reason) ? undefined : Exit.fail(reason)))
        )
      )
    )

  const coalesced = yield* Coalescing.make<Request, void, Reason>(
    { alone: patiently, attempt: together, patiently },
    closed
  )

  return (offset: Offset): Effect.Effect<void, Reason> => {
    const request = requestOf(offset)
    return whether({ inside: () => patiently(request), outside: () => coalesced(request) })
  }
})
