/** The statements that read a page of events: what the filter describes, in the order of versions. */
import { DateTime, Effect, Predicate, type Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Filter } from "../../Event.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { columns } from "./EventRow.ts"

/** About how many bytes a page has at most, as they are stored: large events are stored compressed. */
const pageBytes = 1024 * 1024

const isTrue = (row: unknown, column: string) => Predicate.hasProperty(row, column) && row[column] === true

/** Whether a page was ended at this row because of its size, so that there may be more events. */
export const isCut = (last: unknown): boolean => isTrue(last, "isCut")

/** Whether the table had no large events when the page with this row was read. */
export const isSmall = (last: unknown): boolean => isTrue(last, "isSmall")

export const make = Effect.gen(function* () {
  const { names, schema, sql, tables } = yield* PostgresDatabase
  const selected = sql.literal(columns)

  const select = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", limit: number) => sql`
    SELECT ${selected} FROM ${tables.events} WHERE ${sql.and(filters)}
    ORDER BY version ${sql.literal(direction)} LIMIT ${limit}`

  // Ends a page before the events that would make it too large: the server knows the size of an event without reading it.
  // Adding up sizes takes a quarter of a page's time, so the next pages do without it if no event was ever too large for its
  // row.
  const selectSized = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", limit: number) => {
    const order = sql.literal(`ORDER BY version ${direction}`)
    return sql`
      SELECT ${selected}, total >= ${pageBytes} AS "isCut", (
        SELECT reltoastrelid <> 0 AND pg_relation_size(reltoastrelid) = 0
        FROM pg_class WHERE oid = ${sql.literal(reference(qualify(schema, names.events)))}::regclass
      ) AS "isSmall" FROM (
        SELECT *, sum(size) OVER (${order} ROWS UNBOUNDED PRECEDING) AS total FROM (
          SELECT *, coalesce(pg_column_size(data), 0) + coalesce(pg_column_size(metadata), 0) AS size
          FROM ${tables.events} WHERE ${sql.and(filters)} ${order} LIMIT ${limit}
        ) AS page
      ) AS sized
      WHERE total - size < ${pageBytes} ${order}`
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
    ...(data === undefined ? [] : [sql`${dataOf(data)} @> ${JSON.stringify(data)}::text::jsonb`]),
    ...(metadata === undefined ? [] : [sql`metadata @> ${JSON.stringify(metadata)}::text::jsonb`]),
    // Times are compared in milliseconds, as readers get them: no event counts as created after its own time.
    ...(createdAfter === undefined
      ? []
      : [sql`date_trunc('milliseconds', created_at) > ${DateTime.toDateUtc(createdAfter)}::timestamptz`])
  ]

  return { select, selectSized, filtersOf }
})
