/** Why a message was not stored: what has taken its id. Only then does storing take a second statement. */
import { Effect, Schema } from "effect"
import { IdConflict, MessageExists } from "../../SpoolErrors.ts"
import { keyOf, type NewMessage } from "../../SpoolMessage.ts"
import type { Reason } from "../../StoreError.ts"
import { valueRows } from "../database/ValueRows.ts"
import { digestOf, isForgotten } from "./RememberedIds.ts"
import { isSame, type SpoolTable } from "./SpoolTable.ts"

/** A message, and its payload as it is sent. */
export interface Prepared {
  readonly message: NewMessage
  readonly payload: string | null
}

/** Why an id is taken. */
export type Taken = MessageExists | IdConflict

// Statements

const wantedAsRows = ({ sql }: SpoolTable, messages: ReadonlyArray<Prepared>) => {
  const rows = valueRows(sql, [
    ["text", messages.map(({ message }) => message.queue ?? "")],
    ["text", messages.map(({ message }) => message.id)],
    ["text", messages.map(({ payload }) => payload)],
    ["int", messages.map((_, place) => place)]
  ])
  return sql`SELECT queue, id, payload::jsonb AS payload, place FROM ${rows} AS wanted (queue, id, payload, place)`
}

/**
 * The rows that have the ids. Of an id that need not be remembered any more the row is deleted, and not found: its message can
 * be stored then.
 */
const findTaken = (spool: SpoolTable, messages: ReadonlyArray<Prepared>) => {
  const { isOfQueues, sql, table } = spool
  const same = sql`${isSame(spool, "wanted")}`
  if (!isOfQueues) {
    return sql`
      SELECT place, coalesce(message.queue, '') <> wanted.queue AS "inOtherQueue",
        message.payload IS NOT DISTINCT FROM wanted.payload AS "hasPayload"
      FROM (${wantedAsRows(spool, messages)}) AS wanted JOIN ${table} AS message ON ${same}`
  }
  return sql`
    WITH wanted AS MATERIALIZED (${wantedAsRows(spool, messages)}), forgotten AS MATERIALIZED (
      SELECT message.queue, message.id FROM wanted JOIN ${table} AS message ON ${same}
      WHERE ${isForgotten(spool)} FOR UPDATE OF message SKIP LOCKED
    ), removed AS (
      DELETE FROM ${table} AS message USING forgotten WHERE ${isSame(spool, "forgotten")}
    )
    SELECT place, false AS "inOtherQueue", CASE state
        WHEN 6 THEN digest = ${digestOf(spool, "wanted.payload")}
        ELSE message.payload IS NOT DISTINCT FROM wanted.payload END AS "hasPayload"
    FROM wanted JOIN ${table} AS message ON ${same} WHERE (${isForgotten(spool)}) IS NOT TRUE`
}

const Found = Schema.Struct({ place: Schema.Int, inOtherQueue: Schema.Boolean, hasPayload: Schema.Boolean })

// Operations

/** The errors for messages whose ids are taken. There is none for an id that has become free meanwhile. */
export const whatHasTaken = (
  spool: SpoolTable,
  messages: ReadonlyArray<Prepared>
): Effect.Effect<ReadonlyArray<Taken>, Reason> =>
  messages.length === 0
    ? Effect.succeed([])
    : Effect.map(spool.rows(findTaken(spool, messages), Found), (found) =>
        found.flatMap(({ hasPayload, inOtherQueue, place }) => {
          const message = messages[place]?.message
          if (message === undefined) return []
          const key = keyOf(message)
          if (inOtherQueue) return [new IdConflict({ ...key, takenBy: "another queue" })]
          return [hasPayload ? new MessageExists(key) : new IdConflict({ ...key, takenBy: "another payload" })]
        })
      )
