/** Estimates what a log has from a part of it, in a time that does not grow with the log. */
import { Effect, Schema } from "effect"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { conditionOf, type Counts, Ends, endsOf, type Group, largest, type Since, spanOf, spansOf } from "./Counts.ts"
import * as LogParts from "./LogParts.ts"

/** A log with more types is estimated alone by what is looked at. */
const mostTypes = 1000

/** In how many blocks the first event is looked at for its aggregate: the events of one often stand beside each other. */
const blocksForAggregates = 300

/** Up to how many events of a type or an aggregate are counted. */
const eventsCounted = 1000

const OfType = Schema.Struct({
  name: Schema.String,
  looked: Schema.Int,
  events: Schema.Int,
  ...Ends.fields
})

/** The types in the part of the log, and when the events there were created. */
const byType = Effect.fnUntraced(function* (since: Since, extent: LogParts.Extent) {
  const { names, query, sql } = yield* PostgresDatabase
  const meant = yield* conditionOf(since)
  const { events, percent } = yield* LogParts.sample(extent, LogParts.manyBlocks)
  const rows = yield* Effect.flatMap(
    query(sql`
      SELECT event_type AS name, count(*)::float8 AS looked, count(*) FILTER (WHERE ${meant})::float8 AS events,
        min(created_at) FILTER (WHERE ${meant}) AS first, max(created_at) FILTER (WHERE ${meant}) AS last
      FROM ${events} GROUP BY 1`),
    decodeRows(OfType, names.events, ["name"])
  )
  const looked = rows.reduce((sum, row) => sum + row.looked, 0)
  const all = extent.rows ?? (looked * 100) / percent
  return { rows: rows.filter(({ events }) => events > 0), perLooked: all / Math.max(looked, 1), all }
})

const OfSpan = Schema.Struct({ span: Schema.Int, events: Schema.Int })

/** How many events in the part of the log have come in each span. */
const bySpan = Effect.fnUntraced(function* (since: Since, ends: Ends, extent: LogParts.Extent) {
  const { names, query, sql } = yield* PostgresDatabase
  const meant = yield* conditionOf(since)
  const { events } = yield* LogParts.sample(extent, LogParts.manyBlocks)
  return yield* Effect.flatMap(
    query(sql`
      SELECT ${yield* spanOf(ends)} AS span, count(*)::float8 AS events FROM ${events}
      WHERE ${meant} AND created_at IS NOT NULL GROUP BY 1`),
    decodeRows(OfSpan, names.events, [])
  )
})

/** Counts the events with a value in a column that has an index, but not far beyond the limit. */
const countedUpToLimit = (column: "event_type" | "aggregate_id") =>
  PostgresDatabase.useSync(
    ({ sql, tables }) => sql`
      CROSS JOIN LATERAL (
        SELECT count(*) AS counted FROM (
          SELECT FROM ${tables.events} AS other WHERE other.${sql.literal(column)} = found.name LIMIT ${eventsCounted + 1}
        ) AS some_of_them
      ) AS others`
  )

/** What was counted to the end is known, and the rest estimated. */
const groupOf = (name: string, counted: number, estimated: number): Group =>
  counted > eventsCounted
    ? { name, events: Math.max(counted, Math.round(estimated)), isEstimate: true }
    : { name, events: counted, isEstimate: false }

const OfRareType = Schema.Struct({ name: Schema.String, counted: Schema.Int })

/** All types, also those that are in no block that was looked at: the index leads from each to the next. */
const allTypes = Effect.gen(function* () {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`
    WITH RECURSIVE found AS (
      (SELECT event_type AS name FROM ${tables.events} ORDER BY event_type LIMIT 1)
      UNION ALL
      SELECT (SELECT event_type FROM ${tables.events} WHERE event_type > found.name ORDER BY event_type LIMIT 1)
      FROM found WHERE found.name IS NOT NULL
    )
    SELECT name, counted::float8 AS counted
    FROM (SELECT name FROM found WHERE name IS NOT NULL LIMIT ${mostTypes + 1}) AS found ${yield* countedUpToLimit("event_type")}`)
  return yield* decodeRows(OfRareType, names.events, ["name"])(rows)
})

const OfAggregate = Schema.Struct({
  name: Schema.String,
  /** How many events that were looked at are of the aggregate, and how many it has, if they were counted to the end. */
  looked: Schema.Int,
  counted: Schema.Int
})

/** The aggregates in the part of the log. */
const foundAggregates = Effect.fnUntraced(function* (extent: LogParts.Extent) {
  const { names, query, sql } = yield* PostgresDatabase
  const { events } = yield* LogParts.sample(extent, blocksForAggregates)
  return yield* Effect.flatMap(
    query(sql`
      SELECT name, looked::float8 AS looked, counted::float8 AS counted
      FROM (
        SELECT aggregate_id AS name, count(*) AS looked FROM ${events}
        WHERE (event.ctid::text::point)[1] = 1::float8 GROUP BY 1
      ) AS found ${yield* countedUpToLimit("aggregate_id")}`),
    decodeRows(OfAggregate, names.events, ["name"])
  )
})

/**
 * The number of aggregates, and the largest of those that were found. An aggregate is found the more likely, the more events it
 * has, so each stands for fewer others, the more it has.
 */
const byAggregate = (rows: ReadonlyArray<typeof OfAggregate.Type>, top: number, all: number) => {
  const perLooked =
    all /
    Math.max(
      1,
      rows.reduce((sum, { looked }) => sum + looked, 0)
    )
  const found = rows.map(({ counted, looked, name }) => ({ looked, group: groupOf(name, counted, looked * perLooked) }))
  return {
    aggregates: Math.round(found.reduce((sum, { group, looked }) => sum + (perLooked * looked) / group.events, 0)),
    groups: largest(
      found.map(({ group }) => group),
      top
    )
  }
}

/**
 * When the first and the last event were created, of those that are meant: by the index of times, or else of the first and the
 * last version.
 */
const endsOfLog = Effect.fnUntraced(function* (since: Since, { hasTimeIndex }: LogParts.Extent) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const outermost = sql`(
      (SELECT created_at FROM ${tables.events} ORDER BY version LIMIT 1) UNION ALL
      (SELECT created_at FROM ${tables.events} ORDER BY version DESC LIMIT 1)
    ) AS event`
  const rows = yield* query(sql`
    SELECT min(created_at) AS first, max(created_at) AS last
    FROM ${hasTimeIndex ? tables.events : outermost} WHERE ${yield* conditionOf(since)}`)
  return yield* decodeRows(Ends, names.events, [])(rows)
})

/** How many statements look at the log at once. */
const looksAtOnce = 4

/** Estimates all but, with a time or without the index of aggregates, what is of these. */
export const estimate = Effect.fnUntraced(function* (
  since: Since,
  top: number,
  latestVersion: bigint,
  extent: LogParts.Extent
) {
  const outermost = endsOf(yield* endsOfLog(since, extent))
  const isWhole = since._tag === "None"
  const hasAggregates = isWhole && extent.hasAggregateIndex
  const looks = yield* Effect.all(
    {
      ofTypes: byType(since, extent),
      ofSpans: extent.hasTimeIndex ? bySpan(since, outermost, extent) : Effect.succeed(undefined),
      found: hasAggregates ? foundAggregates(extent) : Effect.succeed([]),
      known: isWhole && extent.hasTypeIndex ? allTypes : Effect.succeed([])
    },
    { concurrency: looksAtOnce }
  )
  const { found, known, ofTypes } = looks
  const { all, perLooked, rows } = ofTypes
  // Without an index, an event between the first and the last version may be older or newer than both.
  const ends = extent.hasTimeIndex ? outermost : endsOf([...rows, outermost])
  const spans = looks.ofSpans ?? (yield* bySpan(since, ends, extent))
  const looked = new Map(rows.map(({ events, name }) => [name, events * perLooked]))
  const { aggregates, groups } = hasAggregates ? byAggregate(found, top, all) : { aggregates: null, groups: [] }
  const types =
    known.length === 0 || known.length > mostTypes
      ? Array.from(looked, ([name, events]): Group => ({ name, events: Math.round(events), isEstimate: true }))
      : known.map(({ counted, name }) => groupOf(name, counted, looked.get(name) ?? 0))
  const counts: Counts = {
    isEstimate: true,
    events: Math.round(rows.reduce((sum, { events }) => sum + events, 0) * perLooked),
    aggregates,
    types: types.length,
    latestVersion,
    ...ends,
    byType: largest(types, top),
    byAggregate: groups,
    spans: spansOf(ends, new Map(spans.map(({ events, span }) => [span, Math.round(events * perLooked)])))
  }
  return counts
})
