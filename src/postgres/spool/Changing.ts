/** The operations on one stored message, by its key: to get, update, move and delete it. */
import { DateTime, Effect, Schema } from "effect"
import type { Statement } from "effect/sql"
import { toText } from "../../internal/ExactJson.ts"
import { type Move, type Remove, type Update } from "../../SpoolArguments.ts"
import { MessageNotFound, StateConflict, UpdateConflict } from "../../SpoolErrors.ts"
import { type Changes, isWaiting, type Key, keyOf } from "../../SpoolMessage.ts"
import type { Columns } from "./MessageRow.ts"
import { code, codeOf, StateCode } from "./MessageState.ts"
import { removeOrRemember } from "./RememberedIds.ts"
import { committed, hasKey, isSame, messagesOf, noLease, type SpoolTable, touched } from "./SpoolTable.ts"

// Statements

const payloadAssignments = (sql: SpoolTable["sql"], payload: string, size: bigint | undefined) => [
  sql`payload = ${payload}::jsonb`,
  ...(size === undefined ? [sql`size = octet_length(${payload}::text)`] : [])
]

const assignments = ({ sql }: SpoolTable, changes: Changes): ReadonlyArray<Statement.Fragment> => [
  touched,
  ...(changes.attempts === undefined ? [] : [sql`attempts = ${changes.attempts}`]),
  ...(changes.maxAttempts === undefined ? [] : [sql`max_attempts = ${changes.maxAttempts}`]),
  ...(changes.nextRetry === undefined ? [] : [sql`next_retry = ${DateTime.toDateUtc(changes.nextRetry)}`]),
  ...(changes.lastError === undefined ? [] : [sql`last_error = ${changes.lastError}`]),
  ...(changes.payload === undefined ? [] : payloadAssignments(sql, toText(changes.payload), changes.size)),
  ...(changes.size === undefined ? [] : [sql`size = ${changes.size}`]),
  ...(changes.priority === undefined ? [] : [sql`priority = ${changes.priority}`]),
  ...(changes.headers === undefined ? [] : [sql`headers = ${JSON.stringify(changes.headers)}::jsonb`]),
  ...(changes.retryPolicyName === undefined ? [] : [sql`retry_policy_name = ${changes.retryPolicyName}`])
]

const select =
  (spool: SpoolTable, key: Key) =>
  ({ read, sent }: Columns) =>
    spool.sql`
  SELECT ${sent} FROM (
    SELECT ${read} FROM ${spool.table} WHERE ${hasKey(spool, key)} OFFSET 0
  ) AS message`

const change =
  (spool: SpoolTable, input: Update) =>
  ({ read, sent }: Columns) => {
    const { changes, ifUpdated } = input
    const { sql, table } = spool
    const unchanged =
      ifUpdated === undefined
        ? sql.literal("")
        : sql`AND date_trunc('milliseconds', updated) = ${DateTime.toDateUtc(ifUpdated)}`
    return sql`
    WITH changed AS (
      UPDATE ${table} SET ${sql.csv(assignments(spool, changes))} WHERE ${hasKey(spool, input)} ${unchanged} AND ${committed}
      RETURNING *
    )
    SELECT ${sent} FROM (SELECT ${read} FROM changed OFFSET 0) AS message`
  }

// FOR UPDATE waits for a concurrent transaction and then sees what it committed, in the same statement.
const moveHeld = (spool: SpoolTable, input: Move) => {
  const { changes, from, to } = input
  const { sql, table } = spool
  const changed = sql.csv([...assignments(spool, changes), sql`state = ${code[to]}`, noLease])
  return sql`
    WITH held AS MATERIALIZED (
      SELECT queue, id, state, state = ANY(${from.map(codeOf)}::int[]) AS moves FROM ${table}
      WHERE ${hasKey(spool, input)} FOR UPDATE
    ), moved AS (
      UPDATE ${table} AS message SET ${changed} FROM held WHERE ${isSame(spool, "held")} AND held.moves
    )
    SELECT state, moves AS moved FROM held WHERE ${committed}`
}

/** What came of a move: the state before it, and whether that was one of those to move from. */
const MoveOutcome = Schema.Struct({ state: StateCode, moved: Schema.Boolean })

// Operations

export const get = Effect.fnUntraced(function* (spool: SpoolTable, key: Key) {
  const [message] = yield* messagesOf(spool, select(spool, key))
  return message ?? (yield* new MessageNotFound(keyOf(key)))
})

export const update = Effect.fnUntraced(function* (spool: SpoolTable, input: Update) {
  const [message] = yield* messagesOf(spool, change(spool, input))
  if (message === undefined) {
    const { updated } = yield* get(spool, keyOf(input))
    return yield* new UpdateConflict({ ...keyOf(input), expected: input.ifUpdated ?? updated, actual: updated })
  }
  if (isWaiting(message.state)) yield* spool.announce
  return message
})

export const remove = Effect.fnUntraced(function* (spool: SpoolTable, input: Remove) {
  const { query, sql, table } = spool
  const remembers = input.rememberId && spool.isOfQueues
  const [deleted] = yield* query(
    remembers
      ? removeOrRemember(spool, sql`SELECT queue, id, remember FROM ${table} WHERE ${hasKey(spool, input)} FOR UPDATE`)
      : sql`DELETE FROM ${table} WHERE ${hasKey(spool, input)} AND ${committed} RETURNING id`
  )
  if (deleted === undefined) return yield* new MessageNotFound(keyOf(input))
})

export const move = Effect.fnUntraced(function* (spool: SpoolTable, input: Move) {
  const { from, to } = input
  const [outcome] = yield* spool.rows(moveHeld(spool, input), MoveOutcome)
  if (outcome === undefined) return yield* new MessageNotFound(keyOf(input))
  if (!outcome.moved) return yield* new StateConflict({ ...keyOf(input), expected: from, actual: outcome.state })
  if (isWaiting(to)) yield* spool.announce
})
