/**
 * Ids that stay taken after their messages were delivered.
 *
 * Such a message is not deleted: its row stays in the table of queues, in a state of its own, with a digest of the payload.
 * So the primary key decides whether an id is taken, also while a sender and a worker meet. No operation shows such a row, and
 * of the indexes only the primary key and one for the end of its time have it.
 */
import { Effect } from "effect"
import type { Statement } from "effect/sql"
import type { Forget } from "../../SpoolArguments.ts"
import type { Reason } from "../../StoreError.ts"
import { committed, isSame, type SpoolTable } from "./SpoolTable.ts"

// Statements

/** The digest of a payload, which is all that is kept of it. */
export const digestOf = ({ sql }: SpoolTable, payload: string) =>
  sql.literal(`sha256(convert_to(coalesce(${payload}::text, ''), 'UTF8'::name))`)

/**
 * Two parts of a `WITH`. They delete the messages whose keys are in `source`, and those with an interval in its column
 * `remember` they turn into remembered ids. RetrySpool's table has no such column.
 */
export const removedOrRemembered = (spool: SpoolTable, source: string): Statement.Fragment => {
  const { isOfQueues, sql, table } = spool
  const from = sql.literal(source)
  const removed = sql`removed AS (DELETE FROM ${table} AS message USING ${from} WHERE ${isSame(spool, source)}`
  if (!isOfQueues) return sql`${removed})`
  return sql`${removed} AND ${from}.remember IS NULL), remembered AS (
    UPDATE ${table} AS message SET
      state = 6, remembered_until = clock_timestamp() + ${from}.remember, digest = ${digestOf(spool, "message.payload")},
      payload = NULL, headers = '{}', last_error = '', lease_owner = NULL, lease_until = NULL
    FROM ${from} WHERE ${isSame(spool, source)} AND ${from}.remember IS NOT NULL
  )`
}

/** Deletes, or remembers, the messages of the table of queues whose keys the subquery selects, with a column `remember`. */
export const removeOrRemember = (spool: SpoolTable, selection: Statement.Fragment) => spool.sql`
  WITH old AS MATERIALIZED (${selection}), ${removedOrRemembered(spool, "old")}
  SELECT queue, id FROM old WHERE ${committed}`

const isOver = "state = 6 AND remembered_until <= clock_timestamp()"

/** The condition that a row remembers an id, and need not do so any more. */
export const isForgotten = ({ sql }: SpoolTable) => sql.literal(isOver)

const removeForgotten = (spool: SpoolTable, limit: number) => spool.sql`
  WITH forgotten AS MATERIALIZED (
    SELECT queue, id FROM ${spool.table} WHERE ${isForgotten(spool)}
    ORDER BY remembered_until LIMIT ${limit} FOR UPDATE SKIP LOCKED
  )
  DELETE FROM ${spool.table} AS message USING forgotten WHERE ${isSame(spool, "forgotten")} AND ${committed}
  RETURNING message.queue, message.id`

// Operations

export const forget = (spool: SpoolTable, { limit }: Forget): Effect.Effect<number, Reason> =>
  Effect.map(spool.keys(removeForgotten(spool, limit)), (keys) => keys.length)
