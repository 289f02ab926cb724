/** `strata events stats`: how many events there are, of which types and aggregates, and when they were appended. */
import { DateTime, Effect, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { decodeRows } from "../../../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../../../postgres/database/PostgresDatabase.ts"
import { count, passes } from "../../../postgres/events/Counting.ts"
import type { Group, Since, Span } from "../../../postgres/events/Counts.ts"
import { estimate } from "../../../postgres/events/Estimating.ts"
import * as LogParts from "../../../postgres/events/LogParts.ts"
import { Settings } from "../../arguments/GlobalFlags.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import * as Output from "../../terminal/Output.ts"
import * as Progress from "../../terminal/Progress.ts"

const Latest = Schema.Struct({ version: Schema.BigInt })

const latestVersion = Effect.gen(function* () {
  const { names, query, sql, tables } = yield* PostgresDatabase
  const rows = yield* query(sql`SELECT coalesce(max(version), 0) AS version FROM ${tables.events}`)
  const [latest] = yield* decodeRows(Latest, names.events, [])(rows)
  return latest?.version ?? 0n
})

/** Counts a small log, and others if they are to be counted. */
const countsOf = Effect.fnUntraced(function* (since: Since, top: number, isExact: boolean) {
  const version = yield* latestVersion
  const extent = yield* LogParts.extent
  if (extent.blocks > LogParts.manyBlocks && !isExact) return yield* estimate(since, top, version, extent)
  const total = extent.rows === 0 ? undefined : (extent.rows ?? undefined)
  return yield* Progress.during({ verb: "counted", total }, ({ advance }) =>
    // The whole log is read several times. So an event is counted in parts.
    count(since, top, version, { advance: (read) => advance(read / passes) })
  )
})

const groupColumns = (title: string): Output.Listing<Group>["columns"] => [
  { title, show: ({ name }) => name },
  {
    title: "EVENTS",
    show: ({ events, isEstimate }) => (isEstimate ? Output.about(events) : events.toLocaleString("en-US")),
    right: true
  }
]

/** How many columns the longest bar of the chart has. */
const chartWidth = 40

const chartColumns = (spans: ReadonlyArray<Span>, isEstimate: boolean): Output.Listing<Span>["columns"] => {
  const most = Math.max(...spans.map(({ events }) => events), 1)
  return [
    { title: "FROM", show: ({ from }) => DateTime.formatIso(from) },
    {
      title: "EVENTS",
      show: ({ events }) => (isEstimate ? Output.about(events) : events.toLocaleString("en-US")),
      right: true
    },
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
  ),
  exact: Parameters.toggle("exact", "Count all events: reads the whole log three times")
}

export const stats = Command.make("stats", flags).pipe(
  Command.withDescription(
    "Counts events, by type and by aggregate, and charts when they came. Estimates a large log by a part of it, unless --exact is given"
  ),
  Command.withExamples([
    { command: "strata events stats", description: "About how many there are" },
    { command: "strata events stats --exact", description: "How many exactly" },
    { command: "strata events stats --created-after 2026-01-31T00:00:00Z", description: "What came since a day" }
  ]),
  Command.withHandler(({ exact, since, top }) =>
    Effect.gen(function* () {
      const counts = yield* countsOf(since, top, exact)
      const { byAggregate, byType, isEstimate, spans } = counts
      const [first, last] = [formatTime(counts.first), formatTime(counts.last)]
      if (yield* Settings.json) {
        const { aggregates, events, latestVersion, types } = counts
        const rate = spans.map(({ events, from }) => ({ from: DateTime.formatIso(from), events }))
        return yield* Output.json({
          isEstimate,
          events,
          aggregates,
          types,
          latestVersion,
          first,
          last,
          byType,
          byAggregate,
          rate
        })
      }
      const shown = (number: number) => (isEstimate ? Output.about(number) : number)
      yield* Output.record({
        events: shown(counts.events),
        aggregates: counts.aggregates === null ? "unknown" : shown(counts.aggregates),
        types: shown(counts.types),
        latestVersion: counts.latestVersion,
        first: isEstimate && first !== null ? `about ${first}` : first,
        last: isEstimate && last !== null ? `about ${last}` : last,
        ...(isEstimate
          ? { estimate: `by ${Output.count(LogParts.manyBlocks, "block")} of the table; --exact counts` }
          : {})
      })
      if (counts.events === 0) return
      yield* Output.table(groupColumns("TYPE"), byType)
      if (byAggregate.length > 0) yield* Output.table(groupColumns("AGGREGATE"), byAggregate)
      yield* Output.table(chartColumns(spans, isEstimate), spans)
    })
  ),
  Command.provide(() => Database.layerTables())
)
