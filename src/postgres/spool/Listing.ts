/** The operations on many messages, by their state: to list, count and purge them. */
import { DateTime, Effect, Option, Schema, Stream } from "effect"
import { millisOf } from "../../internal/Fields.ts"
import { type Iterate, type List, type Purge, type Selection } from "../../SpoolArguments.ts"
import { noMessages, type State } from "../../SpoolMessage.ts"
import { type Columns, columnsWithoutPayload } from "./MessageRow.ts"
import { code, StateCode } from "./MessageState.ts"
import { removeOrRemember } from "./RememberedIds.ts"
import { andFilterQueue, committed, inQueue, messagesOf, type SpoolTable } from "./SpoolTable.ts"

// Statements

const isListed = (spool: SpoolTable, { queue, since, state }: List) => {
  const { sql } = spool
  const recent = since === undefined ? sql.literal("") : sql`AND updated >= ${DateTime.toDateUtc(since)}`
  return sql`state = ${code[state]} ${andFilterQueue(spool, queue)} ${recent}`
}

/** One message more than the page has room for tells whether there is another page. */
const selectPage =
  (spool: SpoolTable, list: List) =>
  ({ read }: Columns) => {
    const { sql, table } = spool
    const order = sql.literal(list.sortOrder)
    return sql`
    SELECT ${read} FROM ${table} WHERE ${isListed(spool, list)}
    ORDER BY ${sql.literal(list.sortBy)} ${order}, id COLLATE "C" ${order}, coalesce(queue, '') ${order} LIMIT ${list.limit + 1} OFFSET ${list.offset}`
  }

const countListed = (spool: SpoolTable, list: List) => spool.sql`
  SELECT count(*) AS total FROM ${spool.table} WHERE ${isListed(spool, list)}`

const Total = Schema.Struct({ total: Schema.BigInt })

/** A place in the order of `iterate`, in microseconds, as the table keeps times: the driver's times have milliseconds. */
const Place = Schema.Struct({ queue: Schema.NullOr(Schema.String), id: Schema.String, micros: Schema.BigInt })
type Place = typeof Place.Type

const selectBatch =
  (spool: SpoolTable, { batchSize, queue, state }: Iterate, after: Place | undefined) =>
  ({ read }: Columns) => {
    const { sql, table } = spool
    const rest =
      after === undefined
        ? sql.literal("")
        : sql`AND (created, id::text COLLATE "C", coalesce(queue, ''))
          > ('epoch'::timestamptz + ${after.micros}::float8 * interval '1 microsecond', ${after.id}, ${after.queue ?? ""})`
    return sql`
    SELECT ${read}, (extract(epoch FROM created) * 1000000::numeric)::bigint AS micros FROM ${table}
    WHERE state = ${code[state]} ${andFilterQueue(spool, queue)} ${rest}
    ORDER BY created, id COLLATE "C", coalesce(queue, '') LIMIT ${batchSize}`
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
  const messages = yield* messagesOf(spool, selectPage(spool, input), columnsWithoutPayload)
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
