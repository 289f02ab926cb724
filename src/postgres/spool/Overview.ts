/** What waits in each queue, in one statement. */
import { Duration, Effect, Option, Schema } from "effect"
import { Statement } from "effect/sql"
import { noMessages, type QueueOverview } from "../../SpoolMessage.ts"
import type { Reason } from "../../StoreError.ts"
import { code, StateCode } from "./MessageState.ts"
import type { Queues } from "./Queues.ts"

const columns = Statement.fragment([Statement.literal("queue, state, created, next_retry, lease_until")])

/** Archived messages, and ids that are remembered, are left out: the index by state passes them. */
const select = ({ messages, spool }: Queues) => {
  const { sql } = spool
  const waiting = (table: Statement.Fragment) => sql`SELECT ${columns} FROM ${table} WHERE state < ${code.archived}`
  const all =
    messages === spool ? waiting(spool.table) : sql`${waiting(messages.table)} UNION ALL ${waiting(spool.table)}`
  return sql`
    SELECT queue, state, count(*) AS messages, count(*) FILTER (WHERE lease_until > at) AS leased,
      (extract(epoch FROM at - min(
        CASE WHEN state = ${code.incoming} THEN created WHEN state = ${code.deferred} AND next_retry <= at THEN next_retry END
      )) * 1000::numeric)::float8 AS millis
    FROM (${all}) AS message, (SELECT clock_timestamp() AS at OFFSET 0) AS start
    GROUP BY queue, state, at ORDER BY coalesce(queue, '') COLLATE "C"`
}

const Row = Schema.Struct({
  queue: Schema.NullOr(Schema.String),
  state: StateCode,
  messages: Schema.BigInt,
  leased: Schema.BigInt,
  millis: Schema.NullOr(Schema.Number)
})

const { archived: _, ...noneWaiting } = noMessages

/** What the rows of one queue say, one for each state. */
const overviewOf = (queue: string | null, rows: ReadonlyArray<typeof Row.Type>): QueueOverview => {
  const counts = { ...noneWaiting }
  let oldestReady = Option.none<Duration.Duration>()
  for (const { messages, millis, state } of rows) {
    if (state !== "archived") counts[state] = Number(messages)
    if (millis === null) continue
    const age = Duration.millis(Math.max(0, millis))
    oldestReady = Option.some(Option.match(oldestReady, { onNone: () => age, onSome: Duration.max(age) }))
  }
  const active = rows.find(({ state }) => state === "active")
  return { queue: queue ?? undefined, counts, leased: Number(active?.leased ?? 0n), oldestReady }
}

export const overview = (queues: Queues): Effect.Effect<ReadonlyArray<QueueOverview>, Reason> =>
  Effect.map(queues.all.rows(select(queues), Row), (rows) =>
    [...Map.groupBy(rows, ({ queue }) => queue)].map(([queue, some]) => overviewOf(queue, some))
  )
