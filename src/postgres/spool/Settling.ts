/** What workers do with the leases they hold: settle their messages, or renew the leases. Each is one statement for many. */
import { Effect } from "effect"
import type { Statement } from "effect/sql"
import { millisOf } from "../../internal/Fields.ts"
import { type Heartbeat, type Lease, lostAmong, type Outcome, type Settle } from "../../SpoolMessage.ts"
import { code, codeOf } from "./MessageState.ts"
import { committed, noLease, nullableArray, type SpoolTable, touched } from "./SpoolTable.ts"

// Statements

/** The leases as rows, with their places among them. */
const leasesAsRows = ({ sql }: SpoolTable, leases: ReadonlyArray<Lease>) => sql`
  unnest(
    ${leases.map(({ id }) => id)}::text[],
    ${leases.map(({ owner }) => owner)}::text[],
    ${leases.map(({ attempt }) => attempt)}::int[]
  ) WITH ORDINALITY AS lease (id, owner, attempt, place)`

/**
 * The message of each lease that is held, locked or not. `state + 0` hides the state from the planner: with statistics that
 * know of no active message it would walk the index of states for each lease. As it is, it looks the id up.
 */
const leasedMessage = (
  { sql, table }: SpoolTable,
  locking: "FOR UPDATE" | "FOR UPDATE SKIP LOCKED" | "OFFSET 0"
) => sql`
  LATERAL (
    SELECT id FROM ${table}
    WHERE id = lease.id AND state + 0 = ${code.active} AND lease_owner = lease.owner AND attempts = lease.attempt
    ${sql.literal(locking)}
  ) AS message`

/** The messages whose leases are held, locked in the order of the leases. */
const held = (spool: SpoolTable, leases: ReadonlyArray<Lease>) => spool.sql`
  held AS MATERIALIZED (
    SELECT lease.place, message.id
    FROM ${leasesAsRows(spool, leases)} CROSS JOIN ${leasedMessage(spool, "FOR UPDATE")}
  )`

const remove = (spool: SpoolTable, outcomes: ReadonlyArray<Outcome>) => spool.sql`
  WITH ${held(spool, outcomes)}
  DELETE FROM ${spool.table} AS message USING held WHERE message.id = held.id AND ${committed}
  RETURNING message.id`

/** The number of the state in which an outcome leaves a message, or null if the message is deleted. */
const stateAfter = ({ outcome }: Outcome): number | null => {
  switch (outcome) {
    case "done":
      return null
    case "archived":
      return codeOf("archived")
    case "deferred":
      return codeOf("deferred")
    case "bounced":
      return codeOf("bounce")
    case "held":
      return codeOf("hold")
    case "released":
      return codeOf("incoming")
  }
}

const apply = (spool: SpoolTable, outcomes: ReadonlyArray<Outcome>) => spool.sql`
  WITH ${held(spool, outcomes)}, outcome AS MATERIALIZED (
    SELECT held.id, state, error, delay, headers FROM held JOIN unnest(
      ${nullableArray(outcomes.map(stateAfter))}::int[],
      ${nullableArray(outcomes.map((outcome) => ("error" in outcome ? (outcome.error ?? null) : null)))}::text[],
      ${nullableArray(outcomes.map((outcome) => ("delay" in outcome ? millisOf(outcome.delay) : null)))}::float8[],
      ${outcomes.map(({ headers }) => JSON.stringify(headers ?? {}))}::jsonb[]
    ) WITH ORDINALITY AS outcome (state, error, delay, headers, place) USING (place)
  ), deleted AS (
    DELETE FROM ${spool.table} AS message USING outcome WHERE message.id = outcome.id AND outcome.state IS NULL
  ), changed AS (
    UPDATE ${spool.table} AS message SET
      ${touched}, state = outcome.state, ${noLease},
      attempts = message.attempts - CASE outcome.state WHEN ${code.incoming} THEN 1 ELSE 0 END,
      next_retry = coalesce(start.at + outcome.delay * interval '1 millisecond', message.next_retry),
      last_error = coalesce(outcome.error, message.last_error),
      headers = coalesce(nullif(message.headers, 'null'), '{}') || outcome.headers
    FROM outcome, (SELECT clock_timestamp() AS at OFFSET 0) AS start
    WHERE message.id = outcome.id AND outcome.state IS NOT NULL
  )
  SELECT id FROM outcome WHERE ${committed}`

// A lease of a message that another transaction is changing counts as held until that transaction has committed: the
// statement never waits.
const extend = (spool: SpoolTable, { lease, leases }: Heartbeat) => spool.sql`
  WITH held AS MATERIALIZED (
    SELECT lease.* FROM ${leasesAsRows(spool, leases)} CROSS JOIN ${leasedMessage(spool, "OFFSET 0")}
  ), free AS MATERIALIZED (
    SELECT lease.id FROM held AS lease CROSS JOIN ${leasedMessage(spool, "FOR UPDATE SKIP LOCKED")}
  ), renewed AS (
    UPDATE ${spool.table} AS message
    SET lease_until = clock_timestamp() + ${millisOf(lease)}::float8 * interval '1 millisecond'
    FROM free WHERE message.id = free.id
  )
  SELECT id FROM held WHERE ${committed}`

// Operations

const byId = (a: Lease, b: Lease) => (a.id < b.id ? -1 : 1)

/**
 * Runs a statement about leases that returns the ids of those that are held, and returns an error for each of the others.
 * The statement gets the leases in the order of their ids: two that lock the same messages in this order cannot block each
 * other in a circle.
 */
const withLeases = <L extends Lease>(
  spool: SpoolTable,
  leases: ReadonlyArray<L>,
  statement: (sorted: ReadonlyArray<L>) => Statement.Statement<unknown>
) =>
  leases.length === 0
    ? Effect.succeed([])
    : Effect.map(spool.ids(statement(leases.toSorted(byId))), (held) => lostAmong(leases, new Set(held)))

/** Tells workers of messages that are ready again, or will be. */
const announceOf = (spool: SpoolTable, outcomes: ReadonlyArray<Outcome>) => {
  if (outcomes.some(({ outcome }) => outcome === "released")) return spool.announce
  return outcomes.some(({ outcome }) => outcome === "deferred") ? spool.announceNewest : Effect.void
}

export const settle = (spool: SpoolTable, { outcomes }: Settle) => {
  // Where all messages are done, which is the usual case, a statement of its own takes half the time.
  const statement = outcomes.every(({ outcome }) => outcome === "done") ? remove : apply
  return Effect.tap(
    withLeases(spool, outcomes, (sorted) => statement(spool, sorted)),
    () => announceOf(spool, outcomes)
  )
}

export const renew = (spool: SpoolTable, { lease, leases }: Heartbeat) =>
  withLeases(spool, leases, (sorted) => extend(spool, { lease, leases: sorted }))
