/** The operations on one stored message, by its id: to get, update, move and delete it. */
import { DateTime, Effect, Schema } from "effect"
import type { Statement } from "effect/sql"
import {
  type ById,
  type Changes,
  isWaiting,
  MessageNotFound,
  type Move,
  StateConflict,
  type Update,
  UpdateConflict
} from "../../SpoolMessage.ts"
import { code, codeOf, StateCode } from "./MessageState.ts"
import { committed, noLease, type SpoolTable, touched } from "./SpoolTable.ts"

// Statements

const assignments = ({ sql }: SpoolTable, changes: Changes): ReadonlyArray<Statement.Fragment> => [
  touched,
  ...(changes.attempts === undefined ? [] : [sql`attempts = ${changes.attempts}`]),
  ...(changes.maxAttempts === undefined ? [] : [sql`max_attempts = ${changes.maxAttempts}`]),
  ...(changes.nextRetry === undefined ? [] : [sql`next_retry = ${DateTime.toDateUtc(changes.nextRetry)}`]),
  ...(changes.lastError === undefined ? [] : [sql`last_error = ${changes.lastError}`]),
  ...(changes.size === undefined ? [] : [sql`size = ${changes.size}`]),
  ...(changes.priority === undefined ? [] : [sql`priority = ${changes.priority}`]),
  ...(changes.headers === undefined ? [] : [sql`headers = ${JSON.stringify(changes.headers)}::jsonb`]),
  ...(changes.retryPolicyName === undefined ? [] : [sql`retry_policy_name = ${changes.retryPolicyName}`])
]

const select = ({ columns, sql, table }: SpoolTable, id: string) => sql`
  SELECT ${columns.sent} FROM (SELECT ${columns.read} FROM ${table} WHERE id = ${id} OFFSET 0) AS message`

const change = (spool: SpoolTable, { changes, id, ifUpdated }: Update) => {
  const { columns, sql, table } = spool
  const unchanged =
    ifUpdated === undefined
      ? sql.literal("")
      : sql`AND date_trunc('milliseconds', updated) = ${DateTime.toDateUtc(ifUpdated)}`
  return sql`
    WITH changed AS (
      UPDATE ${table} SET ${sql.csv(assignments(spool, changes))} WHERE id = ${id} ${unchanged} AND ${committed}
      RETURNING *
    )
    SELECT ${columns.sent} FROM (SELECT ${columns.read} FROM changed OFFSET 0) AS message`
}

// FOR UPDATE waits for a concurrent transaction and then sees what it committed, in the same statement.
const moveHeld = (spool: SpoolTable, { changes, from, id, to }: Move) => {
  const { sql, table } = spool
  const changed = sql.csv([...assignments(spool, changes), sql`state = ${code[to]}`, noLease])
  return sql`
    WITH held AS MATERIALIZED (
      SELECT id, state, state = ANY(${from.map(codeOf)}::int[]) AS moves FROM ${table} WHERE id = ${id} FOR UPDATE
    ), moved AS (
      UPDATE ${table} AS message SET ${changed} FROM held WHERE message.id = held.id AND held.moves
    )
    SELECT state, moves AS moved FROM held WHERE ${committed}`
}

/** What came of a move: the state before it, and whether that was one of those to move from. */
const MoveOutcome = Schema.Struct({ state: StateCode, moved: Schema.Boolean })

// Operations

const find = Effect.fnUntraced(function* (spool: SpoolTable, id: string) {
  const [message] = yield* spool.messages(select(spool, id))
  return message ?? (yield* new MessageNotFound({ id }))
})

export const get = (spool: SpoolTable, { id }: ById) => find(spool, id)

export const update = Effect.fnUntraced(function* (spool: SpoolTable, input: Update) {
  const [message] = yield* spool.messages(change(spool, input))
  if (message === undefined) {
    const { updated } = yield* find(spool, input.id)
    return yield* new UpdateConflict({ id: input.id, expected: input.ifUpdated ?? updated, actual: updated })
  }
  if (isWaiting(message.state)) yield* spool.announce
  return message
})

export const remove = Effect.fnUntraced(function* (spool: SpoolTable, { id }: ById) {
  const { query, sql, table } = spool
  const [deleted] = yield* query(sql`DELETE FROM ${table} WHERE id = ${id} AND ${committed} RETURNING id`)
  if (deleted === undefined) return yield* new MessageNotFound({ id })
})

export const move = Effect.fnUntraced(function* (spool: SpoolTable, input: Move) {
  const { from, id, to } = input
  const [outcome] = yield* spool.rows(moveHeld(spool, input), MoveOutcome)
  if (outcome === undefined) return yield* new MessageNotFound({ id })
  if (!outcome.moved) return yield* new StateConflict({ id, expected: from, actual: outcome.state })
  if (isWaiting(to)) yield* spool.announce
})
