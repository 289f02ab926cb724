/** `strata events stats`: how many events there are, of which kinds, and when they came. */
import { DateTime, Effect, Option, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { decodeRows } from "../../../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import { Settings } from "../../arguments/GlobalFlags.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../Database.ts"
import * as Output from "../../terminal/Output.ts"

/** How many spans of time the chart has. */
const spans = 24

const Group = Schema.Struct({ name: Schema.String, events: Schema.Int })

const Totals = Schema.Struct({
  events: Schema.Int,
  aggregates: Schema.Int,
  types: Schema.Int,
  latestVersion: Schema.BigInt,
  first: Schema.NullOr(Schema.DateTimeUtcFromDate),
  last: Schema.NullOr(Schema.DateTimeUtcFromDate)
})

const Span = Schema.Struct({ from: Schema.DateTimeUtcFromDate, events: Schema.Int })

const gather = Effect.fnUntraced(function* (top: number, since: Option.Option<DateTime.Utc>) {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const decode = <Row extends Schema.ConstraintDecoder<unknown>>(schema: Row) => decodeRows(schema, names.events, [])
  const { events } = tables
  const meant = Option.match(since, {
    onNone: () => sql`true`,
    onSome: (time) => sql`created_at > ${DateTime.toDateUtc(time)}::timestamptz`
  })
  const largest = (column: string) =>
    Effect.flatMap(
      query(sql`
        SELECT ${sql.literal(column)} AS name, count(*)::float8 AS events FROM ${events} WHERE ${meant}
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ${top}`),
      decode(Group)
    )
  const [totals] = yield* Effect.flatMap(
    query(sql`
      SELECT count(*)::float8 AS events, count(DISTINCT aggregate_id)::float8 AS aggregates,
        count(DISTINCT event_type)::float8 AS types, coalesce(max(version), 0) AS "latestVersion",
        min(created_at) AS first, max(created_at) AS last
      FROM ${events} WHERE ${meant}`),
    decode(Totals)
  )
  // The spans in which nothing came belong to the picture.
  const rate = yield* Effect.flatMap(
    query(sql`
      WITH meant AS (SELECT created_at FROM ${events} WHERE ${meant}),
        ends AS (SELECT min(created_at) AS first, max(created_at) + interval '1 millisecond' AS last FROM meant),
        counted AS (
          SELECT width_bucket(extract(epoch FROM created_at), extract(epoch FROM first), extract(epoch FROM last), ${spans}) AS span,
            count(*)::float8 AS events
          FROM meant, ends GROUP BY 1
        )
      SELECT first + (last - first) / ${spans} * (span - 1) AS from, coalesce(events, 0) AS events
      FROM ends CROSS JOIN generate_series(1, ${spans}) AS span LEFT JOIN counted USING (span)
      WHERE first IS NOT NULL ORDER BY span`),
    decode(Span)
  )
  return { totals, types: yield* largest("event_type"), aggregates: yield* largest("aggregate_id"), rate }
})

type Stats = Effect.Success<ReturnType<typeof gather>>

const groups = (title: string): Output.Listing<typeof Group.Type>["columns"] => [
  { title, show: ({ name }) => name },
  { title: "EVENTS", show: ({ events }) => events.toLocaleString("en-US"), right: true }
]

const chartWidth = 40

const chart = (rate: Stats["rate"]): Output.Listing<(typeof rate)[number]>["columns"] => {
  const most = Math.max(...rate.map(({ events }) => events), 1)
  return [
    { title: "FROM", show: ({ from }) => DateTime.formatIso(from) },
    { title: "EVENTS", show: ({ events }) => events.toLocaleString("en-US"), right: true },
    { title: "", show: ({ events }) => "█".repeat(Math.ceil((events / most) * chartWidth)) }
  ]
}

const time = (value: DateTime.Utc | null | undefined): string | null =>
  value === null || value === undefined ? null : DateTime.formatIso(value)

const flags = {
  top: Parameters.positive("top").pipe(Flag.withDefault(10), Flag.withDescription("So many types and aggregates; 10")),
  since: Parameters.time("created-after").pipe(
    Flag.optional,
    Flag.withDescription("Only events that are younger than this, such as 2026-01-31T12:00:00Z")
  )
}

export const stats = Command.make("stats", flags, ({ since, top }) =>
  Effect.gen(function* () {
    const { aggregates, rate, totals, types } = yield* gather(top, since)
    const summary = {
      events: totals?.events ?? 0,
      aggregates: totals?.aggregates ?? 0,
      types: totals?.types ?? 0,
      latestVersion: totals?.latestVersion ?? 0n,
      first: time(totals?.first),
      last: time(totals?.last)
    }
    if (yield* Settings.json) {
      const spans = rate.map(({ events, from }) => ({ from: DateTime.formatIso(from), events }))
      return yield* Output.json({ ...summary, byType: types, byAggregate: aggregates, rate: spans })
    }
    yield* Output.record(summary)
    if (summary.events === 0) return
    yield* Output.table(groups("TYPE"), types)
    yield* Output.table(groups("AGGREGATE"), aggregates)
    yield* Output.table(chart(rate), rate)
  }).pipe(Effect.provide(Database.layerTables()))
).pipe(
  Command.withDescription("Counts events, by type and by aggregate, and charts when they came. Reads the whole log"),
  Command.withExamples([
    { command: "strata events stats --created-after 2026-01-31T00:00:00Z", description: "What came since a day" }
  ])
)
