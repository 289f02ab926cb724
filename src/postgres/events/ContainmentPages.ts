/**
 * How a page finds events whose data or metadata contain something. The index of what they contain knows no order: it gives all
 * of these events, or none. So a page looks through the first events of its part of the log one by one. Only where these are too
 * few for a page it asks the index, up to a number of events. What more events contain than that is looked for one by one.
 *
 * **Details**
 *
 * Left to itself, the planner walks through the log where it takes what is looked for to be frequent, and knows nothing of a value
 * that its sample lacks: it read 20,000,000 events for one of them.
 */
import type { Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Filter } from "../../Event.ts"
import { toText } from "../../internal/ExactJson.ts"
import { qualify } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { inOrder, type Source, type Span } from "./PageRange.ts"

/** How many events a page looks through before it asks the index: so many, and so many more for each that it is to return. */
const nearEvents = 4096
const nearEventsForEach = 16

/** How many events a page takes from the index at most. */
const mostIndexed = 32_768

/** Queries of the first events of a span. */
interface Queries {
  /** The version of the first event that can match, if an index tells it. */
  readonly begin: Fragment | undefined
  /** Those that are passed one by one, as an index has them in order. */
  readonly rows: (span: Span) => Source
  /** The versions of these. */
  readonly versions: (span: Span) => Fragment
  /** The versions of those among these that match the filter. */
  readonly walked: (span: Span) => Fragment
  /** All conditions, for an `event`. */
  readonly conditions: ReadonlyArray<Fragment>
}

export const make = (database: PostgresDatabase["Service"]) => {
  const { sql, tables } = database
  const events = tables.events

  const contains = (column: string, value: Schema.Json) => sql`${sql.literal(column)} @> ${toText(value)}::text::jsonb`

  /** The columns that an index may have, with what they contain. SQL's NULL counts as JSON's null, and is in no index. */
  const indexable = ({ data, metadata }: Filter): ReadonlyArray<readonly [column: string, value: Schema.Json]> => [
    ...(data === undefined || data === null ? [] : [["data", data] as const]),
    ...(metadata === undefined ? [] : [["metadata", metadata] as const])
  ]

  /** What the filter says of data and metadata, as no index serves it: whether one is worth it is not left to the planner. */
  const containsAll = (filter: Filter): ReadonlyArray<Fragment> =>
    [
      ...(filter.data === null ? [contains("coalesce(data, 'null')", null)] : []),
      ...indexable(filter).map(([column, value]) => contains(column, value))
    ].map((condition) => sql`(${condition}) IS TRUE`)

  /** Whether there is an index that finds what the filter says of data and metadata, built to its end. */
  const hasIndex = (filter: Filter) => sql`EXISTS (
    SELECT FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class AS made ON made.oid = indexrelid JOIN pg_catalog.pg_am ON pg_am.oid = made.relam
    JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = ${qualify(database.schema, database.names.events)}::regclass::oid AND indisvalid AND indpred IS NULL
      AND amname = 'gin'::name AND attname = ANY(${indexable(filter).map(([column]) => column)}::text[]::name[])
  )`

  return {
    containsAll,
    hasIndex,

    /** Whether an index may find what the filter says of data and metadata. One aggregate is read by its own index. */
    isIndexable: (filter: Filter): boolean => filter.aggregateIds?.length !== 1 && indexable(filter).length > 0,

    /** The first versions of a span that match the filter. */
    versions: (filter: Filter, { begin, conditions, rows, versions, walked }: Queries, whole: Span): Fragment => {
      const { direction, limit } = whole
      const order = sql.literal(`ORDER BY version ${direction}`)
      const span: Span =
        begin === undefined
          ? whole
          : direction === "ASC"
            ? { ...whole, after: sql.literal("((SELECT version FROM beginning) - 1::int8)") }
            : { ...whole, last: sql.literal("(SELECT version FROM beginning)") }
      const beginning =
        begin === undefined
          ? sql.literal("")
          : sql`beginning AS MATERIALIZED (SELECT version FROM (${begin}) AS matching ${order} LIMIT 1),`
      const near: Span = { ...span, limit: nearEvents + nearEventsForEach * limit }
      const beyond: Span =
        direction === "ASC"
          ? { ...span, after: sql.literal("(SELECT version FROM passed)") }
          : { ...span, last: sql.literal("((SELECT version FROM passed) - 1::int8)") }
      const isBeyond = sql`version > ${beyond.after} AND version <= ${beyond.last}`
      const indexed = indexable(filter).map(([column, value]) => contains(column, value))
      const first = rows(near)
      const asFound = sql.literal(inOrder(first, whole))
      return sql`(
        WITH ${beginning} near AS MATERIALIZED (
          SELECT version FROM (SELECT * FROM ${first.from} ${asFound} LIMIT ${near.limit}) AS event
          WHERE ${sql.and(conditions)} ${asFound} LIMIT ${limit}
        ), passed AS MATERIALIZED (
          SELECT version FROM (${versions(near)}) AS matching WHERE (SELECT count(*) FROM near) < ${limit}::int8
          ${order} OFFSET ${near.limit - 1} LIMIT 1
        )
        SELECT version FROM near
        UNION ALL
        SELECT version FROM (
          WITH indexed AS MATERIALIZED (
            SELECT version, (${sql.and([isBeyond, ...conditions])}) AS matches FROM ${events} AS event
            WHERE ${sql.and([hasIndex(filter), ...indexed])} LIMIT ${mostIndexed + 1}
          )
          SELECT version FROM indexed WHERE matches AND (SELECT count(*) FROM indexed) <= ${mostIndexed}::int8
          UNION ALL
          SELECT version FROM (${walked(beyond)}) AS matching
          WHERE NOT ${hasIndex(filter)} OR (SELECT count(*) FROM indexed) > ${mostIndexed}::int8
        ) AS beyond WHERE EXISTS (SELECT FROM passed))`
    }
  }
}
