/** The part of `SpoolStore` on Postgres that workers use: claims and what becomes of them. */
import { DateTime, Duration, Effect, Option, Schema } from "effect"
import type { Fragment, Statement } from "effect/sql/Statement"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { Operations } from "../../internal/Operation.ts"
import {
  Claim,
  Heartbeat,
  type Lease,
  LeaseLost,
  leaseExpired,
  type Outcome,
  Purge,
  Recover,
  Selection,
  Settle
} from "../../SpoolStore.ts"
import type { CorruptRow } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { codeOf, columns, type messageDecoder, nullable } from "./MessageRow.ts"

const Id = Schema.Struct({ id: Schema.String })

const Wait = Schema.Struct({ millis: Schema.NullOr(Schema.Number) })

/** How long after its last change `untilReady` counts on an active message without a lease to be given up. */
const { grace } = Recover.make({})

const millisOf = (duration: Duration.Input) => Duration.toMillis(Duration.fromInputUnsafe(duration))

/** The state in which an outcome leaves a message; it is deleted where there is none. */
const stateAfter = (outcome: Outcome): number | null => {
  switch (outcome.outcome) {
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

/** Where the incoming messages of a queue begin, as far as this process knows. */
export interface Low {
  readonly priority: number
  readonly created: DateTime.Utc
  /** Others do not say when they make older messages ready again: from then on those are looked for. By the monotonic clock. */
  readonly until: number
}

/** For how long a claim may begin where the one before has found the first message. */
const trust = 1000

/** What the rest of the store lends. */
interface Parts {
  /** By queue. Cleared by whatever makes messages ready that may be older than others. */
  readonly lows: Map<string, Low>
  readonly operation: Operations
  readonly announce: Effect.Effect<void>
  /** For what makes none ready that may be older than others. */
  readonly announceNew: Effect.Effect<void>
  readonly decodeEach: ReturnType<typeof messageDecoder>
  readonly touched: Fragment
}

export const make = Effect.fnUntraced(function* ({
  announce,
  announceNew,
  decodeEach,
  lows,
  operation,
  touched
}: Parts) {
  const { inTransaction, names, query, schema, sql, tables } = yield* PostgresDatabase
  const table = tables.spool
  const claimFunction = sql.literal(qualify(schema, `${names.spool}_claim`))
  const decodeIds = decodeRows(Id, names.spool, ["id"])
  const decodeWait = decodeRows(Wait, names.spool, [])

  // Statements

  const selected = sql.literal(columns)

  const select = (
    { lease, limit, owner, queue = "", reserved = Math.floor(limit / 2) }: Claim,
    low: Low | undefined
  ) => sql`
    SELECT ${selected} FROM ${claimFunction}(
      ${queue}, ${limit}, ${Math.min(reserved, limit)}, ${owner}, ${millisOf(lease)},
      ${low?.priority ?? null}, ${low === undefined ? null : DateTime.formatIso(low.created)}::timestamptz
    ) AS message ORDER BY priority, message.created, id COLLATE "C"`

  // Nobody can handle these, and whoever claims has to go on.
  const putAside = ({ owner }: Claim, corrupt: ReadonlyArray<CorruptRow>) => sql`
    UPDATE ${table} AS message SET
      ${touched}, state = 4, lease_owner = NULL, lease_until = NULL, last_error = corrupt.reason
    FROM unnest(
      ${corrupt.map(({ key }) => key)}::text[],
      ${corrupt.map(({ message }) => message)}::text[]
    ) AS corrupt (id, reason)
    WHERE message.id = corrupt.id AND state + 0 = 1 AND lease_owner = ${owner}`

  const unnested = (leases: ReadonlyArray<typeof Lease.Type>) => sql`
    unnest(
      ${leases.map(({ id }) => id)}::text[],
      ${leases.map(({ owner }) => owner)}::text[],
      ${leases.map(({ attempt }) => attempt)}::int[]
    ) WITH ORDINALITY AS lease (id, owner, attempt, place)`

  // The message of a lease, if that is held. A sub-select of its own, and so always a look-up, and by its id: with `+ 0` no index
  // on the state is of use, which statistics that know of no active message would make the planner prefer.
  const holder = (locking: "FOR UPDATE" | "FOR UPDATE SKIP LOCKED" | "OFFSET 0") => sql`
    LATERAL (
      SELECT id FROM ${table}
      WHERE id = lease.id AND state + 0 = 1 AND lease_owner = lease.owner AND attempts = lease.attempt ${sql.literal(locking)}
    ) AS message`

  /** The messages whose leases are held, locked in the order of their ids: whoever does so cannot be blocked in a circle. */
  const held = (leases: ReadonlyArray<typeof Lease.Type>) => sql`
    held AS MATERIALIZED (
      SELECT lease.place, message.id FROM ${unnested(leases)} CROSS JOIN ${holder("FOR UPDATE")}
    )`

  const remove = (outcomes: ReadonlyArray<Outcome>) => sql`
    WITH ${held(outcomes)}
    DELETE FROM ${table} AS message USING held WHERE message.id = held.id RETURNING message.id`

  const apply = (outcomes: ReadonlyArray<Outcome>) => sql`
    WITH ${held(outcomes)}, outcome AS MATERIALIZED (
      SELECT held.id, state, error, delay, headers FROM held JOIN unnest(
        ${nullable(outcomes.map(stateAfter))}::int[],
        ${nullable(outcomes.map((outcome) => ("error" in outcome ? (outcome.error ?? null) : null)))}::text[],
        ${nullable(outcomes.map((outcome) => ("delay" in outcome ? millisOf(outcome.delay) : null)))}::float8[],
        ${outcomes.map(({ headers }) => JSON.stringify(headers ?? {}))}::jsonb[]
      ) WITH ORDINALITY AS outcome (state, error, delay, headers, place) USING (place)
    ), deleted AS (
      DELETE FROM ${table} AS message USING outcome WHERE message.id = outcome.id AND outcome.state IS NULL
    ), changed AS (
      UPDATE ${table} AS message SET
        ${touched}, state = outcome.state, lease_owner = NULL, lease_until = NULL,
        attempts = message.attempts - CASE outcome.state WHEN 0 THEN 1 ELSE 0 END,
        next_retry = coalesce(start.at + outcome.delay * interval '1 millisecond', message.next_retry),
        last_error = coalesce(outcome.error, message.last_error),
        headers = coalesce(nullif(message.headers, 'null'), '{}') || outcome.headers
      FROM outcome, (SELECT clock_timestamp() AS at OFFSET 0) AS start
      WHERE message.id = outcome.id AND outcome.state IS NOT NULL
    )
    SELECT id FROM outcome`

  // It never waits: a lease of a message that a transaction is changing counts as held until that has committed.
  const renew = ({ lease, leases }: Heartbeat) => sql`
    WITH held AS MATERIALIZED (
      SELECT lease.* FROM ${unnested(leases)} CROSS JOIN ${holder("OFFSET 0")}
    ), free AS MATERIALIZED (
      SELECT lease.id FROM held AS lease CROSS JOIN ${holder("FOR UPDATE SKIP LOCKED")}
    ), renewed AS (
      UPDATE ${table} AS message
      SET lease_until = clock_timestamp() + ${millisOf(lease)}::float8 * interval '1 millisecond'
      FROM free WHERE message.id = free.id
    )
    SELECT id FROM held`

  const ofQueue = (queue: string | undefined) =>
    queue === undefined ? sql.literal("") : sql`AND coalesce(queue, '') = ${queue}`

  const leaseEnd = (grace: Duration.Input) =>
    sql`coalesce(lease_until, updated + ${millisOf(grace)}::float8 * interval '1 millisecond')`

  const giveUp = ({ grace, limit, queue }: Recover) => sql`
    WITH expired AS MATERIALIZED (
      SELECT id FROM ${table} WHERE state = 1 ${ofQueue(queue)} AND ${leaseEnd(grace)} <= clock_timestamp()
      ORDER BY created, id COLLATE "C" LIMIT ${limit} FOR UPDATE SKIP LOCKED
    ), recovered AS (
      UPDATE ${table} AS message SET
        ${touched}, state = CASE WHEN attempts < max_attempts THEN 0 ELSE 4 END,
        lease_owner = NULL, lease_until = NULL, last_error = ${leaseExpired}
      FROM expired WHERE message.id = expired.id RETURNING message.*
    )
    SELECT ${selected} FROM recovered AS message ORDER BY message.created, id COLLATE "C"`

  const removeOld = ({ limit, olderThan, queue, state }: Purge) => {
    const latest = sql`clock_timestamp() - ${millisOf(olderThan)}::float8 * interval '1 millisecond'`
    // No message changes before it is created: the index on created narrows the search.
    return sql`
      DELETE FROM ${table} WHERE id = ANY(ARRAY(
        SELECT id FROM ${table}
        WHERE state = ${codeOf(state)} ${ofQueue(queue)} AND created <= ${latest} AND updated <= ${latest}
        ORDER BY created, id COLLATE "C" LIMIT ${limit} FOR UPDATE SKIP LOCKED
      )) RETURNING id`
  }

  // The first due message of each priority that there is, from one to the next: a look-up each, however many there are.
  const nextReady = (queue = "") => sql`
    WITH RECURSIVE level AS (
      (SELECT priority FROM ${table} WHERE state = 2 AND coalesce(queue, '') = ${queue} ORDER BY priority LIMIT 1)
      UNION ALL
      SELECT (
        SELECT message.priority FROM ${table} AS message
        WHERE state = 2 AND coalesce(queue, '') = ${queue} AND message.priority > level.priority
        ORDER BY message.priority LIMIT 1
      ) FROM level WHERE priority IS NOT NULL
    )
    SELECT (extract(epoch FROM min(at) - clock_timestamp()) * 1000)::float8 AS millis FROM (
      SELECT clock_timestamp() AS at
      WHERE EXISTS (
        SELECT FROM ${table} WHERE state = 0 AND coalesce(queue, '') = ${queue} ORDER BY priority, created LIMIT 1
      )
      UNION ALL
      SELECT (
        SELECT next_retry FROM ${table} AS message
        WHERE state = 2 AND coalesce(queue, '') = ${queue} AND message.priority = level.priority
        ORDER BY next_retry LIMIT 1
      ) FROM level
      UNION ALL
      SELECT min(${leaseEnd(grace)}) FROM ${table} WHERE state = 1 AND coalesce(queue, '') = ${queue}
    ) AS next`

  const oldest = (queue = "") => sql`
    SELECT (extract(epoch FROM clock_timestamp() - min(since)) * 1000)::float8 AS millis FROM (
      SELECT min(created) AS since FROM ${table} WHERE state = 0 AND coalesce(queue, '') = ${queue}
      UNION ALL
      SELECT min(next_retry) FROM ${table}
      WHERE state = 2 AND coalesce(queue, '') = ${queue} AND next_retry <= clock_timestamp()
    ) AS ready`

  // Operations

  const warn = (corrupt: ReadonlyArray<CorruptRow>) =>
    Effect.forEach(corrupt, ({ message }) => Effect.logWarning(message), { discard: true })

  const claim = operation.fn(
    "claim",
    Claim,
    Effect.fnUntraced(function* (input) {
      const { limit, queue = "" } = input
      const now = yield* monotonicMillis
      const known = lows.get(queue)
      const low = known !== undefined && now < known.until ? known : undefined
      const { corrupt, messages } = decodeEach(yield* query(select(input, low)))
      // One that waited for its time says nothing of those that come in. Where it has been claimed before, it may be such a one.
      const first = messages.find(({ attempts }) => attempts === 1)
      // What a transaction has claimed waits again if it is rolled back.
      if (first === undefined || messages.length < limit || (yield* inTransaction)) lows.delete(queue)
      else lows.set(queue, { priority: first.priority, created: first.created, until: low?.until ?? now + trust })
      if (corrupt.length > 0) {
        yield* query(putAside(input, corrupt))
        yield* warn(corrupt)
      }
      return messages
    })
  )

  const byId = (a: typeof Lease.Type, b: typeof Lease.Type) => (a.id < b.id ? -1 : 1)

  /** Runs a statement about leases, and returns those that are not held any more. */
  const withLeases = Effect.fnUntraced(function* <L extends typeof Lease.Type>(
    leases: ReadonlyArray<L>,
    statement: (sorted: ReadonlyArray<L>) => Statement<unknown>
  ) {
    if (leases.length === 0) return []
    const rows = yield* Effect.flatMap(query(statement(leases.toSorted(byId))), decodeIds)
    const kept = new Set(rows.map(({ id }) => id))
    return leases.flatMap(({ attempt, id, owner }) => (kept.has(id) ? [] : [new LeaseLost({ attempt, id, owner })]))
  })

  const settle = operation.fn("settle", Settle, ({ outcomes }) =>
    // The usual case has a statement of its own: half the cost.
    Effect.tap(withLeases(outcomes, outcomes.every(({ outcome }) => outcome === "done") ? remove : apply), () =>
      outcomes.some(({ outcome }) => outcome === "released")
        ? announce
        : outcomes.some(({ outcome }) => outcome === "deferred")
          ? announceNew
          : Effect.void
    )
  )

  const heartbeat = operation.fn("heartbeat", Heartbeat, ({ lease, leases }) =>
    withLeases(leases, (sorted) => renew({ lease, leases: sorted }))
  )

  const recover = operation.fn(
    "recover",
    Recover,
    Effect.fnUntraced(function* (input) {
      // What does not fit the model is put aside by whoever claims it.
      const { corrupt, messages } = decodeEach(yield* query(giveUp(input)))
      yield* warn(corrupt)
      if (messages.some(({ state }) => state === "incoming")) yield* announce
      return messages
    })
  )

  const purge = operation.fn("purge", Purge, (input) =>
    Effect.map(Effect.flatMap(query(removeOld(input)), decodeIds), (rows) => rows.length)
  )

  const durationOf = (statement: Statement<unknown>) =>
    Effect.map(Effect.flatMap(query(statement), decodeWait), ([wait]) =>
      Option.map(Option.fromNullishOr(wait?.millis), (millis) => Duration.millis(Math.max(0, millis)))
    )

  const untilReady = operation.fn("untilReady", Selection, ({ queue }) => durationOf(nextReady(queue)))
  const oldestReady = operation.fn("oldestReady", Selection, ({ queue }) => durationOf(oldest(queue)))

  return {
    claim,
    settle: (outcomes: (typeof Settle)["~type.make.in"]["outcomes"]) => settle({ outcomes }),
    heartbeat: (leases: (typeof Heartbeat)["~type.make.in"]["leases"], lease: Duration.Input) =>
      heartbeat({ leases, lease }),
    recover: (options: (typeof Recover)["~type.make.in"] = {}) => recover(options),
    purge,
    untilReady,
    oldestReady
  }
})
