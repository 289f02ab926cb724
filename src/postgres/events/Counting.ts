/** Counts the events of a log, all of them, a part at a time. */
import { Effect, Schema } from "effect"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { conditionOf, type Counts, Ends, endsOf, type Group, largest, type Since, spanOf, spansOf } from "./Counts.ts"
import * as LogParts from "./LogParts.ts"

/** How many aggregates one statement counts. */
const aggregatesPerStatement = 10_000

/** Is told how many more events were looked at. */
interface Progress {
  readonly advance: (count: number) => Effect.Effect<void>
}

/** How often the whole log is read. */
export const passes = 3

const OfType = Schema.Struct({ ...LogParts.Found, name: Schema.String, events: Schema.Int, ...Ends.fields })

/** The events of each type, and when the first and the last of them was created. */
const byType = Effect.fnUntraced(function* (since: Since, latestVersion: bigint, progress: Progress) {
  const { names, query, sql } = yield* PostgresDatabase
  const meant = yield* conditionOf(since)
  const part = { columns: "event_type, created_at", upTo: latestVersion }
  const parts = yield* LogParts.eachPart(
    part,
    (events) =>
      Effect.flatMap(
        query(sql`
          SELECT event_type AS name, ${sql.literal(LogParts.found)},
            count(*) FILTER (WHERE ${meant})::float8 AS events,
            min(created_at) FILTER (WHERE ${meant}) AS first, max(created_at) FILTER (WHERE ${meant}) AS last
          FROM ${events} GROUP BY 1`),
        decodeRows(OfType, names.events, ["name"])
      ),
    progress.advance
  )
  const groups = new Map<string, number>()
  for (const { events, name } of parts) if (events > 0) groups.set(name, (groups.get(name) ?? 0) + events)
  return {
    ends: endsOf(parts),
    groups: Array.from(groups, ([name, events]): Group => ({ name, events, isEstimate: false }))
  }
})

const OfSpan = Schema.Struct({ ...LogParts.Found, span: Schema.NullOr(Schema.Int), events: Schema.Int })

/** The events of each span of time. */
const bySpan = Effect.fnUntraced(function* (since: Since, ends: Ends, latestVersion: bigint, progress: Progress) {
  const { names, query, sql } = yield* PostgresDatabase
  const meant = yield* conditionOf(since)
  const span = yield* spanOf(ends)
  const part = { columns: "created_at", upTo: latestVersion }
  const parts = yield* LogParts.eachPart(
    part,
    (events) =>
      Effect.flatMap(
        query(sql`
          SELECT ${span} AS span, ${sql.literal(LogParts.found)},
            count(*) FILTER (WHERE ${meant})::float8 AS events
          FROM ${events} GROUP BY 1`),
        decodeRows(OfSpan, names.events, [])
      ),
    progress.advance
  )
  const spans = new Map<number, number>()
  for (const { events, span } of parts) if (span !== null) spans.set(span, (spans.get(span) ?? 0) + events)
  return spans
})

const OfAggregate = Schema.Struct({
  name: Schema.String,
  events: Schema.Int,
  /** How many aggregates and events the statement has counted, and which aggregate was the last one. */
  aggregates: Schema.Int,
  read: Schema.Int,
  last: Schema.String
})

/** The number of aggregates, and the largest ones. */
const byAggregate = Effect.fnUntraced(function* (since: Since, top: number, latestVersion: bigint, progress: Progress) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const meant = yield* conditionOf(since)
  // The index has the aggregates in order, with nothing of the time. So a part of the log is counted at once.
  const isInParts = since._tag === "None"
  const limit = isInParts ? sql`LIMIT ${aggregatesPerStatement}` : sql``
  let groups: ReadonlyArray<Group> = []
  let aggregates = 0
  let after: string | undefined
  while (true) {
    const later = after === undefined ? sql`true` : sql`aggregate_id > ${after}::text`
    const rows = yield* Effect.flatMap(
      query(sql`
        SELECT name, events::float8 AS events, (count(*) OVER ())::float8 AS aggregates,
          (sum(events) OVER ())::float8 AS read, max(name) OVER () AS last
        FROM (
          SELECT aggregate_id AS name, count(*) AS events FROM ${tables.events}
          WHERE ${later} AND ${meant} AND version <= ${latestVersion} GROUP BY 1 ORDER BY 1 ${limit}
        ) AS page
        ORDER BY events DESC, name LIMIT ${top}`),
      decodeRows(OfAggregate, names.events, ["name"])
    )
    const [page] = rows
    if (page === undefined) return { aggregates, groups }
    const found = rows.map(({ events, name }): Group => ({ name, events, isEstimate: false }))
    groups = largest([...groups, ...found], top)
    aggregates += page.aggregates
    after = page.last
    yield* progress.advance(page.read)
    if (!isInParts) return { aggregates, groups }
  }
}, inOrderOfIndexes)

/**
 * Runs statements that are to read a part of an index in its order. With stale statistics the planner takes an aggregate for much
 * larger than it is, and would read the whole table for each part.
 */
function inOrderOfIndexes<A, E, R>(counting: Effect.Effect<A, E, R>, since: Since) {
  return Effect.gen(function* () {
    if (since._tag === "Some") return yield* counting
    const { query, sql } = yield* PostgresDatabase
    const plain = sql`
      SELECT pg_catalog.set_config(name, 'off', true) FROM pg_catalog.pg_settings
      WHERE name IN ('enable_seqscan', 'enable_bitmapscan', 'enable_hashagg')`
    return yield* sql.withTransaction(Effect.andThen(query(plain), counting))
  })
}

/** Counts everything. */
export const count = Effect.fnUntraced(function* (
  since: Since,
  top: number,
  latestVersion: bigint,
  progress: Progress
) {
  const types = yield* byType(since, latestVersion, progress)
  const spans = yield* bySpan(since, types.ends, latestVersion, progress)
  const { aggregates, groups } = yield* byAggregate(since, top, latestVersion, progress)
  const counts: Counts = {
    isEstimate: false,
    events: types.groups.reduce((sum, { events }) => sum + events, 0),
    aggregates,
    types: types.groups.length,
    latestVersion,
    ...types.ends,
    byType: largest(types.groups, top),
    byAggregate: groups,
    spans: spansOf(types.ends, spans)
  }
  return counts
})
