/** The operations on many messages, by their state: to list, count and purge them. */
import { DateTime, Effect, Option, Schema, Stream } from "effect"
import type { Statement } from "effect/sql"
import { millisOf } from "../../internal/Fields.ts"
import { type Iterate, type List, type Purge, type Selection } from "../../SpoolArguments.ts"
import { noMessages, type State } from "../../SpoolMessage.ts"
import { type Columns, columnsWithoutPayload } from "./MessageRow.ts"
import { code, StateCode } from "./MessageState.ts"
import { removeOrRemember } from "./RememberedIds.ts"
import { andFilterQueue, committed, inQueue, messagesOf, type SpoolTable } from "./SpoolTable.ts"

// Statements

/** The states whose messages an index of the table of queues has by their queue, in the order of their creation. */
const indexedByQueue: ReadonlySet<State> = new Set<State>(["deferred", "hold", "bounce", "archived"])

/** Which messages, and in which order. */
interface Selected {
  readonly where: Statement.Fragment
  readonly order: Statement.Fragment
}

/** The messages in a state by their creation. The same id can be in several queues. */
const byCreation = (
  spool: SpoolTable,
  { queue, state }: Pick<List, "queue" | "state">,
  direction: "asc" | "desc"
): Selected => {
  const { sql } = spool
  const way = sql.literal(direction)
  if (queue === undefined || !spool.isOfQueues || !indexedByQueue.has(state)) {
    return {
      where: sql`state = ${code[state]} ${andFilterQueue(spool, queue)}`,
      order: sql`created ${way}, id COLLATE "C" ${way}, coalesce(queue, '') ${way}`
    }
  }
  // The queue is the same for all. As a range, and as the beginning of the order, it leads the planner to the index that has this
  // order, whatever it takes for the number of these messages.
  return {
    where: sql`state = ${code[state]} AND queue >= ${queue} AND queue <= ${queue}`,
    order: sql`queue ${way}, created ${way}, id COLLATE "C" ${way}`
  }
}

const selectedBy = (spool: SpoolTable, list: List): Selected => {
  if (list.sortBy === "created") return byCreation(spool, list, list.sortOrder)
  const { sql } = spool
  const way = sql.literal(list.sortOrder)
  return {
    where: sql`state = ${code[list.state]} ${andFilterQueue(spool, list.queue)}`,
    order: sql`${sql.literal(list.sortBy)} ${way}, id COLLATE "C" ${way}, coalesce(queue, '') ${way}`
  }
}

const andRecent = ({ sql }: SpoolTable, { since }: List) =>
  since === undefined ? sql.literal("") : sql`AND updated >= ${DateTime.toDateUtc(since)}`

/** One message more than the page has room for tells whether there is another page. */
const selectPage =
  (spool: SpoolTable, list: List) =>
  ({ read }: Columns) => {
    const { order, where } = selectedBy(spool, list)
    return spool.sql`
    SELECT ${read} FROM ${spool.table} WHERE ${where} ${andRecent(spool, list)}
    ORDER BY ${order} LIMIT ${list.limit + 1} OFFSET ${list.offset}`
  }

/**
 * A page of what waits in one queue, by its creation. The index of what is ready has that order within each priority, so each
 * gives as many messages as the page may need, however many wait beside them.
 */
const selectWaiting =
  (spool: SpoolTable, list: List, queue: string) =>
  ({ read }: Columns) => {
    const { sql, table } = spool
    const order = sql.literal(`ORDER BY created ${list.sortOrder}, id COLLATE "C" ${list.sortOrder}`)
    const ofQueue = sql`state = ${code.incoming} AND ${inQueue(spool, queue)}`
    const most = list.limit + 1
    return sql`
    WITH RECURSIVE known AS (
      (SELECT priority AS urgency FROM ${table} WHERE ${ofQueue} ORDER BY priority LIMIT 1)
      UNION ALL
      SELECT (SELECT priority FROM ${table} WHERE ${ofQueue} AND priority > known.urgency ORDER BY priority LIMIT 1)
      FROM known WHERE known.urgency IS NOT NULL
    )
    SELECT ${read} FROM known CROSS JOIN LATERAL (
      SELECT * FROM ${table} WHERE ${ofQueue} AND priority = known.urgency ${andRecent(spool, list)}
      ${order} LIMIT ${list.offset + most}
    ) AS message ${order} LIMIT ${most} OFFSET ${list.offset}`
  }

const countListed = (spool: SpoolTable, list: List) => spool.sql`
  SELECT count(*) AS total FROM ${spool.table} WHERE ${selectedBy(spool, list).where} ${andRecent(spool, list)}`

const Total = Schema.Struct({ total: Schema.BigInt })

/** A place in the order of `iterate`, in microseconds, as the table keeps times: the driver's times have milliseconds. */
const Place = Schema.Struct({ queue: Schema.NullOr(Schema.String), id: Schema.String, micros: Schema.BigInt })
type Place = typeof Place.Type

/** A time in microseconds. An interval takes a double, which is exact for the seconds and for the rest, but not for both after 2255. */
const timeOf = ({ sql }: SpoolTable, micros: bigint) => sql`'epoch'::timestamptz
  + ${micros / 1_000_000n}::float8 * interval '1 second' + ${micros % 1_000_000n}::float8 * interval '1 microsecond'`

const selectBatch =
  (spool: SpoolTable, input: Iterate, after: Place | undefined) =>
  ({ read }: Columns) => {
    const { sql, table } = spool
    const rest =
      after === undefined
        ? sql.literal("")
        : sql`AND (created, id::text COLLATE "C", coalesce(queue, ''))
          > (${timeOf(spool, after.micros)}, ${after.id}, ${after.queue ?? ""})`
    const { order, where } = byCreation(spool, input, "asc")
    return sql`
    SELECT ${read}, (extract(epoch FROM created) * 1000000::numeric)::bigint AS micros FROM ${table}
    WHERE ${where} ${rest} ORDER BY ${order} LIMIT ${input.batchSize}`
  }

const countStates = (spool: SpoolTable, queue: string | undefined) => spool.sql`
  SELECT state, count(*) FROM ${spool.table} WHERE state < 6 ${
    queue === undefined ? spool.sql.literal("") : spool.sql`AND ${inQueue(spool, queue)}`
  } GROUP BY state`

const StateCount = Schema.Struct({ state: StateCode, count: Schema.BigInt })

// No message changes before it is created: the condition on `created` says nothing new, but the index has it.
const removeOld = (spool: SpoolTable, { limit, olderThan, queue, state }: Purge) => {
  const { sql, table } = spool
  const latest = sql`clock_timestamp() - ${millisOf(olderThan)}::float8 * interval '1 millisecond'`
  const old = (more: string) => sql`
    SELECT queue, id${sql.literal(more)} FROM ${table}
    WHERE state = ${code[state]} ${andFilterQueue(spool, queue)} AND created <= ${latest} AND updated <= ${latest}
    ORDER BY created, id COLLATE "C" LIMIT ${limit} FOR UPDATE SKIP LOCKED`
  return spool.isOfQueues
    ? removeOrRemember(spool, old(", remember - (clock_timestamp() - updated) AS remember"))
    : sql`
        WITH old AS MATERIALIZED (${old("")})
        DELETE FROM ${table} AS message USING old WHERE message.id::text = old.id::text AND ${committed}
        RETURNING message.queue, message.id`
}

// Operations

export const list = Effect.fnUntraced(function* (spool: SpoolTable, input: List) {
  const { queue, sortBy, state } = input
  const select =
    queue !== undefined && state === "incoming" && sortBy === "created"
      ? selectWaiting(spool, input, queue)
      : selectPage(spool, input)
  const messages = yield* messagesOf(spool, select, columnsWithoutPayload)
  const [counted] = input.total ? yield* spool.rows(countListed(spool, input), Total) : []
  return {
    messages: messages.slice(0, input.limit),
    hasMore: messages.length > input.limit,
    total: Option.map(Option.fromUndefinedOr(counted), ({ total }) => Number(total))
  }
})

export const iterate = (spool: SpoolTable, input: Iterate) =>
  Stream.paginate(
    undefined,
    Effect.fnUntraced(function* (after: Place | undefined) {
      const rows = yield* spool.query(selectBatch(spool, input, after)(columnsWithoutPayload))
      const messages = yield* spool.decodeMessages(rows)
      const last = rows.length < input.batchSize ? [] : rows.slice(-1)
      const [next] = yield* spool.decodeAs(Place, last)
      return [messages, Option.fromUndefinedOr(next)] as const
    })
  )

export const count = Effect.fnUntraced(function* (spool: SpoolTable, { queue }: Selection) {
  const counts: Record<State, number> = { ...noMessages }
  for (const { count, state } of yield* spool.rows(countStates(spool, queue), StateCount)) counts[state] = Number(count)
  return counts
})

export const purge = (spool: SpoolTable, input: Purge) =>
  Effect.map(spool.keys(removeOld(spool, input)), (keys) => keys.length)
