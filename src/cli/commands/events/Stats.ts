/** `strata events stats`: how many events there are, of which types and aggregates, and when they were appended. */
import { DateTime, Effect, Option, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { decodeRows } from "../../../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import { Settings } from "../../arguments/GlobalFlags.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import * as Output from "../../terminal/Output.ts"

type Since = Option.Option<DateTime.Utc>

/** The events that are counted: a table, and a condition on its rows. */
const counted = Effect.fnUntraced(function* (since: Since) {
  const { sql, tables } = yield* PostgresDatabase
  const condition = Option.match(since, {
    onNone: () => sql`true`,
    onSome: (time) => sql`created_at > ${DateTime.toDateUtc(time)}::timestamptz`
  })
  return { events: tables.events, condition }
})

const Totals = Schema.Struct({
  events: Schema.Int,
  aggregates: Schema.Int,
  types: Schema.Int,
  latestVersion: Schema.BigInt,
  first: Schema.NullOr(Schema.DateTimeUtcFromDate),
  last: Schema.NullOr(Schema.DateTimeUtcFromDate)
})

const totalsOf = Effect.fnUntraced(function* (since: Since) {
  const { names, query, sql } = yield* PostgresDatabase
  const { condition, events } = yield* counted(since)
  const rows = yield* query(sql`
    SELECT count(*)::float8 AS events, pg_catalog.count(DISTINCT aggregate_id)::float8 AS aggregates,
      pg_catalog.count(DISTINCT event_type)::float8 AS types, coalesce(max(version), 0) AS "latestVersion",
      min(created_at) AS first, max(created_at) AS last
    FROM ${events} WHERE ${condition}`)
  const [totals] = yield* decodeRows(Totals, names.events, [])(rows)
  return totals
})

const Group = Schema.Struct({ name: Schema.String, events: Schema.Int })

/** The groups of events with the same value in a column, the largest first. */
const largestGroups = Effect.fnUntraced(function* (column: "event_type" | "aggregate_id", top: number, since: Since) {
  const { names, query, sql } = yield* PostgresDatabase
  const { condition, events } = yield* counted(since)
  const rows = yield* query(sql`
    SELECT ${sql.literal(column)} AS name, count(*)::float8 AS events FROM ${events} WHERE ${condition}
    GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ${top}`)
  return yield* decodeRows(Group, names.events, [])(rows)
})

/** Into how many spans of equal length the chart divides the time. */
const chartSpans = 24

const Span = Schema.Struct({ from: Schema.DateTimeUtcFromDate, events: Schema.Int })

/** The number of events in each span, with 0 for a span without events. */
const eventsPerSpan = Effect.fnUntraced(function* (since: Since) {
  const { names, query, sql } = yield* PostgresDatabase
  const { condition, events } = yield* counted(since)
  const rows = yield* query(sql`
    WITH meant AS (SELECT created_at FROM ${events} WHERE ${condition}),
      ends AS (SELECT min(created_at) AS first, max(created_at) + interval '1 millisecond' AS last FROM meant),
      counted AS (
        SELECT width_bucket(
            extract(epoch FROM created_at), extract(epoch FROM first), extract(epoch FROM last), ${chartSpans}::int
          ) AS span, count(*)::float8 AS events
        FROM meant, ends GROUP BY 1
      )
    SELECT first + (last - first) / ${chartSpans}::float8 * (span - 1)::float8 AS from, coalesce(events, 0) AS events
    FROM ends CROSS JOIN generate_series(1, ${chartSpans}::int) AS span LEFT JOIN counted USING (span)
    WHERE first IS NOT NULL ORDER BY span`)
  return yield* decodeRows(Span, names.events, [])(rows)
})

const groupColumns = (title: string): Output.Listing<typeof Group.Type>["columns"] => [
  { title, show: ({ name }) => name },
  { title: "EVENTS", show: ({ events }) => events.toLocaleString("en-US"), right: true }
]

/** How many columns the longest bar of the chart has. */
const chartWidth = 40

const chartColumns = (spans: ReadonlyArray<typeof Span.Type>): Output.Listing<typeof Span.Type>["columns"] => {
  const most = Math.max(...spans.map(({ events }) => events), 1)
  return [
    { title: "FROM", show: ({ from }) => DateTime.formatIso(from) },
    { title: "EVENTS", show: ({ events }) => events.toLocaleString("en-US"), right: true },
    { title: "", show: ({ events }) => "█".repeat(Math.ceil((events / most) * chartWidth)) }
  ]
}

const formatTime = (value: DateTime.Utc | null | undefined): string | null =>
  value === null || value === undefined ? null : DateTime.formatIso(value)

const flags = {
  top: Parameters.positive("top").pipe(
    Flag.withDefault(10),
    Flag.withDescription("How many types and aggregates to show; 10 unless given")
  ),
  since: Parameters.time("created-after").pipe(
    Flag.optional,
    Flag.withDescription("Only events that are younger than this, such as 2026-01-31T12:00:00Z")
  )
}

export const stats = Command.make("stats", flags).pipe(
  Command.withDescription("Counts events, by type and by aggregate, and charts when they came. Reads the whole log"),
  Command.withExamples([
    { command: "strata events stats --created-after 2026-01-31T00:00:00Z", description: "What came since a day" }
  ]),
  Command.withHandler(({ since, top }) =>
    Effect.gen(function* () {
      const totals = yield* totalsOf(since)
      const types = yield* largestGroups("event_type", top, since)
      const aggregates = yield* largestGroups("aggregate_id", top, since)
      const spans = yield* eventsPerSpan(since)
      const summary = {
        events: totals?.events ?? 0,
        aggregates: totals?.aggregates ?? 0,
        types: totals?.types ?? 0,
        latestVersion: totals?.latestVersion ?? 0n,
        first: formatTime(totals?.first),
        last: formatTime(totals?.last)
      }
      if (yield* Settings.json) {
        const rate = spans.map(({ events, from }) => ({ from: DateTime.formatIso(from), events }))
        return yield* Output.json({ ...summary, byType: types, byAggregate: aggregates, rate })
      }
      yield* Output.record(summary)
      if (summary.events === 0) return
      yield* Output.table(groupColumns("TYPE"), types)
      yield* Output.table(groupColumns("AGGREGATE"), aggregates)
      yield* Output.table(chartColumns(spans), spans)
    })
  ),
  Command.provide(() => Database.layerTables())
)
