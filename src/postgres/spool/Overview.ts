/**
 * What waits in each queue, by a look that takes as long beside a million messages as beside thousands.
 *
 * **Details**
 *
 * Indexes lead from each queue and priority to the next, and messages are counted in their order, but not beyond a limit. Where
 * more wait than that, some blocks of the table stand for all of it, and the number is an estimate.
 */
import { Duration, Effect, Option, Schema } from "effect"
import type { Statement } from "effect/sql"
import { byCodePoint } from "../../internal/CodePoints.ts"
import { noMessages, type QueueOverview, type State } from "../../SpoolMessage.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { code, StateCode } from "./MessageState.ts"

/** Up to how many messages of a state are counted in a queue, and in all queues together. */
const countedOfQueue = 5_000
const countedOfAll = 30_000

/** Where there are many queues, at least so many messages are counted in each. */
const fewest = 100

/** How many blocks of a table stand for all of it. */
const sampledBlocks = 300

const Counted = Schema.Struct({
  queue: Schema.String,
  state: StateCode,
  messages: Schema.Int,
  leased: Schema.Int,
  millis: Schema.NullOr(Schema.Number),
  /** Whether there are more messages than were counted. */
  isCut: Schema.Boolean
})

const Sampled = Schema.Struct({
  queue: Schema.String,
  state: StateCode,
  messages: Schema.Number,
  leased: Schema.Number
})

const Blocks = Schema.Struct({ messages: Schema.Number, spool: Schema.Number })

const waitingStates = ["incoming", "active", "deferred", "hold", "bounce"] as const

/** The states that are counted over all queues together: no index of theirs has the queue. */
const countedTogether: ReadonlySet<State> = new Set<State>(["active", "hold", "bounce"])

/** What is known of one queue while rows are added up. */
interface Sum {
  readonly counts: Record<State, number>
  readonly estimated: Set<State>
  leased: number
  oldestMillis: number | undefined
}

const overviewOf = (queue: string, { counts, estimated, leased, oldestMillis }: Sum): QueueOverview => {
  const { archived: _, ...waiting } = counts
  return {
    queue: queue === "" ? undefined : queue,
    counts: waiting,
    estimated: waitingStates.filter((state) => estimated.has(state)),
    leased,
    oldestReady: Option.map(Option.fromUndefinedOr(oldestMillis), Duration.millis)
  }
}

/** What the rows say of each queue, in the order of names. */
const overviewsOf = (
  counted: ReadonlyArray<typeof Counted.Type>,
  sampled: ReadonlyArray<typeof Sampled.Type>
): ReadonlyArray<QueueOverview> => {
  const sums = new Map<string, Sum>()
  const sumOf = (queue: string): Sum => {
    const known = sums.get(queue)
    if (known !== undefined) return known
    const sum: Sum = { counts: { ...noMessages }, estimated: new Set(), leased: 0, oldestMillis: undefined }
    sums.set(queue, sum)
    return sum
  }
  const cutForAll = new Set<State>()
  for (const { isCut, leased, messages, millis, queue, state } of counted) {
    const sum = sumOf(queue)
    sum.counts[state] += messages
    sum.leased += leased
    if (millis !== null) sum.oldestMillis = Math.max(sum.oldestMillis ?? 0, millis)
    if (isCut) sum.estimated.add(state)
    if (isCut && countedTogether.has(state)) cutForAll.add(state)
  }
  for (const { leased, messages, queue, state } of sampled) {
    if (!cutForAll.has(state) && sums.get(queue)?.estimated.has(state) !== true) continue
    const sum = sumOf(queue)
    sum.estimated.add(state)
    sum.counts[state] = Math.max(sum.counts[state], Math.round(messages))
    sum.leased = Math.max(sum.leased, Math.round(leased))
  }
  return [...sums].toSorted(([a], [b]) => byCodePoint(a, b)).map(([queue, sum]) => overviewOf(queue, sum))
}

/** A table of messages, and the expression by which its indexes know a queue: it is empty for a message in no queue. */
interface Table {
  readonly table: Statement.Fragment
  readonly key: Statement.Fragment
}

export const make = Effect.gen(function* () {
  const { extras, names, query, schema, sql, tables } = yield* PostgresDatabase
  const decodeCounted = decodeRows(Counted, names.messages, [])
  const decodeSampled = decodeRows(Sampled, names.messages, [])
  const decodeBlocks = decodeRows(Blocks, names.messages, [])

  const spool: Table = { table: tables.spool, key: sql.literal("coalesce(queue, '')") }
  const all: ReadonlyArray<Table> =
    extras.queues === "shared" ? [spool] : [{ table: tables.messages, key: sql.literal("queue") }, spool]

  /** The first message of each queue and priority, by the index of what is ready in this state. */
  const firsts = ({ key, table }: Table, state: "incoming" | "deferred") => {
    const since = sql.literal(state === "incoming" ? "created" : "next_retry")
    const first = sql`SELECT ${key} AS key, priority, ${since} AS since FROM ${table} WHERE state = ${code[state]}`
    const inOrder = sql`ORDER BY ${key}, priority, ${since} LIMIT 1`
    return sql`
      (${first} ${inOrder})
      UNION ALL
      SELECT following.* FROM ${sql.literal(state)} AS before CROSS JOIN LATERAL (
        ${first} AND (${key}, priority) > (before.key, before.priority) ${inOrder}
      ) AS following`
  }

  /**
   * What is incoming or deferred in each queue, by the same index. An incoming message is ready whenever it was created: the
   * clock of its sender can be ahead.
   */
  const ofQueues = ({ key, table }: Table, state: "incoming" | "deferred") => {
    const since = sql.literal(state === "incoming" ? "created" : "next_retry")
    const ready = sql.literal(state === "incoming" ? "true" : "since <= at")
    return sql`
      SELECT one.key AS queue, ${code[state]} AS state, messages::float8 AS messages, 0::float8 AS leased,
        CASE WHEN ${ready} THEN greatest(0::float8, (extract(epoch FROM at - since) * 1000::numeric)::float8) END AS millis,
        messages >= (SELECT most FROM bound) AS "isCut"
      FROM (SELECT key, min(since) AS since FROM ${sql.literal(state)} GROUP BY key) AS one
      CROSS JOIN start CROSS JOIN LATERAL (
        SELECT count(*) AS messages FROM (
          SELECT FROM ${table} WHERE state = ${code[state]} AND ${key} = one.key
          ORDER BY priority, ${since}, id COLLATE "C" LIMIT (SELECT most FROM bound)
        ) AS some_of_them
      ) AS counted`
  }

  /** What is in another state, over all queues. */
  const together = ({ key, table }: Table, state: "active" | "hold" | "bounce") => sql`
    SELECT key AS queue, ${code[state]} AS state, count(*)::float8 AS messages,
      (count(*) FILTER (WHERE lease_until > at))::float8 AS leased, NULL::float8 AS millis,
      sum(count(*)) OVER () >= ${countedOfQueue}::numeric AS "isCut"
    FROM (
      SELECT ${key} AS key, lease_until FROM ${table} WHERE state = ${code[state]}
      ORDER BY created, id COLLATE "C" LIMIT ${countedOfQueue}
    ) AS message CROSS JOIN start GROUP BY key`

  const count = (table: Table) => sql`(
    WITH RECURSIVE incoming AS (${firsts(table, "incoming")}), deferred AS (${firsts(table, "deferred")}),
      start AS (SELECT clock_timestamp() AS at),
      bound AS (
        SELECT greatest(${fewest}::int8, least(${countedOfQueue}::int8, ${countedOfAll}::int8 / greatest(1::int8, count(*)))) AS most
        FROM (SELECT key FROM incoming UNION SELECT key FROM deferred) AS queues
      )
    ${ofQueues(table, "incoming")} UNION ALL ${ofQueues(table, "deferred")} UNION ALL ${together(table, "active")}
    UNION ALL ${together(table, "hold")} UNION ALL ${together(table, "bounce")})`

  const sample = ({ key, table }: Table, blocks: number) => {
    const percent = Math.min(100, (100 * sampledBlocks) / Math.max(blocks, 1))
    // The same blocks each time, until the table has grown: the number changes only where messages do.
    return sql`(
      SELECT ${key} AS queue, state, count(*)::float8 * ${100 / percent}::float8 AS messages,
        (count(*) FILTER (WHERE state = ${code.active} AND lease_until > clock_timestamp()))::float8
          * ${100 / percent}::float8 AS leased
      FROM ${table} TABLESAMPLE pg_catalog.system (${percent}::real) REPEATABLE (0::float8)
      WHERE state < ${code.archived} GROUP BY 1, 2)`
  }

  const unionOf = (parts: ReadonlyArray<Statement.Fragment>) =>
    sql`${parts.reduce((before, part) => sql`${before} UNION ALL ${part}`)}`

  const blocksOf = (name: string) => sql`
    pg_relation_size(${qualify(schema, name)}::regclass)::float8 / current_setting('block_size')::float8`

  /** What stands for all messages, where they are too many to be counted. */
  const estimate = Effect.gen(function* () {
    const found = yield* query(sql`SELECT ${blocksOf(names.messages)} AS messages, ${blocksOf(names.spool)} AS spool`)
    const [blocks = { messages: 0, spool: 0 }] = yield* decodeBlocks(found)
    const samples = all.map((table) => sample(table, table === spool ? blocks.spool : blocks.messages))
    return yield* decodeSampled(yield* query(unionOf(samples)))
  })

  /** What waits in each queue: one statement, and two more where there are too many messages to be counted. */
  return Effect.gen(function* () {
    const counted = yield* decodeCounted(yield* query(unionOf(all.map(count))))
    return overviewsOf(counted, counted.some(({ isCut }) => isCut) ? yield* estimate : [])
  })
})
