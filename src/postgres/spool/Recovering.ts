/** How claims are given up whose lease has run out, and how long it is until there is something to claim or to recover. */
import { Duration, Effect, Option, Schema } from "effect"
import type { Statement } from "effect/sql"
import { millisOf } from "../../internal/Fields.ts"
import { defaultGrace, type Recover, type Selection } from "../../SpoolArguments.ts"
import { leaseExpired } from "../../SpoolMessage.ts"
import { warnOf } from "./Claiming.ts"
import { warnOfUnrecovered } from "./LockedMessages.ts"
import type { Columns } from "./MessageRow.ts"
import { code } from "./MessageState.ts"
import {
  andFilterQueue,
  committed,
  eachMessageOf,
  filterQueue,
  inQueue,
  isSame,
  noLease,
  type SpoolTable,
  touched
} from "./SpoolTable.ts"

// Statements

/** When the lease of an active message ends, or when its claim is given up, if RetrySpool has claimed it without a lease. */
const leaseEnd = ({ sql }: SpoolTable, grace: Duration.Input) =>
  sql`coalesce(lease_until, updated + ${millisOf(grace)}::float8 * interval '1 millisecond')`

/** The condition that the claim of an active message is to be given up. */
const expired = (spool: SpoolTable, { grace, queue }: Recover) =>
  spool.sql`${leaseEnd(spool, grace)} <= clock_timestamp() ${andFilterQueue(spool, queue)}`

const giveUp =
  (spool: SpoolTable, input: Recover) =>
  ({ read, sent }: Columns) =>
    spool.sql`
  WITH expired AS MATERIALIZED (
    SELECT queue, id FROM ${spool.table}
    WHERE state = ${code.active} AND ${expired(spool, input)}
    ORDER BY created, id COLLATE "C" LIMIT ${input.limit} FOR UPDATE SKIP LOCKED
  ), recovered AS (
    UPDATE ${spool.table} AS message SET
      ${touched}, state = CASE WHEN attempts < max_attempts THEN ${code.incoming} ELSE ${code.bounce} END,
      ${noLease}, last_error = ${leaseExpired}
    FROM expired WHERE ${isSame(spool, "expired")} RETURNING message.*
  )
  SELECT ${sent} FROM (
    SELECT ${read} FROM recovered AS message WHERE ${committed}
    ORDER BY message.created, id COLLATE "C" OFFSET 0
  ) AS message`

// The index of deferred messages is by priority, then by time. Recursion goes from each priority that there is to the next,
// so that the first due message of each costs one look-up, however many messages there are.
const nextReady = (spool: SpoolTable, queue: string | undefined) => spool.sql`
  WITH RECURSIVE level AS (
    (
      SELECT priority FROM ${spool.table}
      WHERE state = ${code.deferred} AND ${inQueue(spool, queue)} ORDER BY priority LIMIT 1
    )
    UNION ALL
    SELECT (
      SELECT message.priority FROM ${spool.table} AS message
      WHERE state = ${code.deferred} AND ${inQueue(spool, queue)} AND message.priority > level.priority
      ORDER BY message.priority LIMIT 1
    ) FROM level WHERE priority IS NOT NULL
  )
  SELECT (extract(epoch FROM min(at) - clock_timestamp()) * 1000::numeric)::float8 AS millis FROM (
    SELECT clock_timestamp() AS at
    WHERE EXISTS (
      SELECT FROM ${spool.table}
      WHERE state = ${code.incoming} AND ${inQueue(spool, queue)} ORDER BY priority, created LIMIT 1
    )
    UNION ALL
    SELECT (
      SELECT next_retry FROM ${spool.table} AS message
      WHERE state = ${code.deferred} AND ${inQueue(spool, queue)} AND message.priority = level.priority
      ORDER BY next_retry LIMIT 1
    ) FROM level
    UNION ALL
    SELECT min(${leaseEnd(spool, defaultGrace)}) FROM ${spool.table}
    WHERE state = ${code.active} AND ${filterQueue(spool, queue)}
  ) AS next`

const oldest = (spool: SpoolTable, queue: string | undefined) => spool.sql`
  SELECT (extract(epoch FROM clock_timestamp() - min(since)) * 1000::numeric)::float8 AS millis FROM (
    SELECT min(created) AS since FROM ${spool.table} WHERE state = ${code.incoming} AND ${inQueue(spool, queue)}
    UNION ALL
    SELECT min(next_retry) FROM ${spool.table}
    WHERE state = ${code.deferred} AND ${inQueue(spool, queue)} AND next_retry <= clock_timestamp()
  ) AS ready`

// Operations

export const recover = Effect.fnUntraced(function* (spool: SpoolTable, input: Recover) {
  // A corrupt message that is incoming again bounces at its next claim.
  const { corrupt, messages } = yield* eachMessageOf(spool, giveUp(spool, input))
  yield* warnOf(corrupt)
  if (messages.some(({ state }) => state === "incoming")) yield* spool.announce
  // Something may have run out all the same: a transaction that never ends keeps it from everybody.
  if (messages.length + corrupt.length === 0) yield* warnOfUnrecovered(spool, expired(spool, input), input.limit)
  return messages
})

/** The row of a statement that asks how long something is. */
const Length = Schema.Struct({ millis: Schema.NullOr(Schema.Number) })

const durationOf = (spool: SpoolTable, statement: Statement.Statement<unknown>) =>
  Effect.map(spool.rows(statement, Length), ([length]) =>
    Option.map(Option.fromNullishOr(length?.millis), (millis) => Duration.millis(Math.max(0, millis)))
  )

export const untilReady = (spool: SpoolTable, { queue }: Selection) => durationOf(spool, nextReady(spool, queue))

export const oldestReady = (spool: SpoolTable, { queue }: Selection) => durationOf(spool, oldest(spool, queue))
