/** The statements that read a page of events: what the filter describes, in the order of versions. */
import { DateTime, Effect, type Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Filter } from "../../Event.ts"
import { toText } from "../../internal/ExactJson.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import { columnsOf } from "./EventRow.ts"
import { columnsOfPart, type Part } from "./LongTexts.ts"
import { shareBytes } from "./PageSize.ts"

export const make = Effect.gen(function* () {
  const { sql, tables } = yield* PostgresDatabase
  const longest = longestBytes(sql)

  /** At most `limit` rows. The JSON of a row that is too long for such a page is held back: see `PageSize`. */
  const select = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", limit: number) => (part: Part) => {
    const { read, sent } = columnsOfPart(part, shareBytes(limit, longest))
    const order = sql.literal(`ORDER BY version ${direction}`)
    return sql`
      SELECT ${sql.literal(sent)} FROM (
        SELECT ${sql.literal(read)} FROM ${tables.events} WHERE ${sql.and([...filters, ...only(part)])} ${order} LIMIT ${limit}
      ) AS page ${order}`
  }

  const only = (part: Part): ReadonlyArray<Fragment> => (typeof part === "bigint" ? [sql`version = ${part}`] : [])

  /** The same without a limit. */
  const selectAll = (filters: ReadonlyArray<Fragment>) => (part: Part) => {
    const { read, sent } = columnsOfPart(part, longest)
    return sql`
      SELECT ${sql.literal(sent)} FROM (
        SELECT ${sql.literal(read)} FROM ${tables.events} WHERE ${sql.and([...filters, ...only(part)])} ORDER BY version OFFSET 0
      ) AS page ORDER BY version`
  }

  // SQL's NULL counts as JSON's null. For any other value the bare column is compared, which can have an index.
  const dataOf = (data: Schema.Json) => (data === null ? sql.literal("coalesce(data, 'null')") : sql.literal("data"))

  // The index has the events of one aggregate in order, so `=` finds them by it. For several the whole log may be walked.
  const among = (aggregateIds: ReadonlyArray<string>) =>
    aggregateIds.length === 1
      ? sql`aggregate_id = ${aggregateIds[0]}`
      : sql`aggregate_id = ANY(${aggregateIds}::text[])`

  const filtersOf = ({ aggregateIds, createdAfter, data, eventTypes, metadata }: Filter): ReadonlyArray<Fragment> => [
    ...(aggregateIds === undefined ? [] : [among(aggregateIds)]),
    ...(eventTypes === undefined ? [] : [sql`event_type = ANY(${eventTypes}::text[])`]),
    ...(data === undefined ? [] : [sql`${dataOf(data)} @> ${toText(data)}::text::jsonb`]),
    ...(metadata === undefined ? [] : [sql`metadata @> ${toText(metadata)}::text::jsonb`]),
    // Times are compared in milliseconds, as readers get them: no event counts as created after its own time.
    ...(createdAfter === undefined
      ? []
      : [sql`date_trunc('milliseconds', created_at) > ${DateTime.toDateUtc(createdAfter)}::timestamptz`])
  ]

  /** The parts of rows that are no page, for a statement that is the same each time. */
  const { read, sent } = columnsOf(longest)

  return { columns: { read: sql.literal(read), sent: sql.literal(sent) }, select, selectAll, filtersOf }
})
