/**
 * How a page finds events that were created after a time: the index of times leads past each 4,096 versions without an event that
 * is young enough. A page reads at most twice as many events more than it returns. With types or tags a page goes from one event
 * of these to the next, and passes the rest of its 4,096 versions if none of them is young enough.
 *
 * The index of a compact log has minutes. So events of the same minute as that time are looked at one by one, in those 4,096
 * versions in which none is of a later minute, and where a page begins.
 */
import { DateTime } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { qualify, unquoted } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as CompactLog from "./CompactLog.ts"
import type { Course, Span } from "./PageRange.ts"

/** How versions are found that the index of times has: in some blocks of 4,096 versions. */
interface Way {
  /** A query of the first version of a span that could be one. */
  readonly first: (span: Span) => Fragment
  /** A query of those in a span that is a block, or a part of it. */
  readonly inBlock: (span: Span, block: string) => Fragment
  /** A query of the first ones of a span, without the index of times. */
  readonly without: (span: Span) => Fragment
}

export const make = (database: PostgresDatabase["Service"]) => {
  const { sql, tables } = database
  const events = tables.events

  /** Times are compared in milliseconds, as readers get them: no event counts as created after its own time. */
  const firstAfter = (time: DateTime.Utc) =>
    sql`${DateTime.toDateUtc(DateTime.add(time, { milliseconds: 1 }))}::timestamptz`

  const isYoung = (time: DateTime.Utc) => sql`created_at >= ${firstAfter(time)}`

  const between = ({ after, last }: Span) => sql`version > ${after} AND version <= ${last}`

  const expressionOf = sql.literal(unquoted("pg_catalog.pg_get_expr(indexprs, indrelid)"))

  /**
   * Whether the index of times is there, and built to its end. Without it the statement that uses it would read the log again and
   * again.
   */
  const hasTimeIndex = ({ indexes }: Pick<Span, "indexes">) => sql`EXISTS (
    SELECT FROM pg_catalog.pg_index LEFT JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[1]
    WHERE indrelid = ${qualify(database.schema, database.names.events)}::regclass::oid AND indisvalid AND indpred IS NULL
      AND ${
        indexes.times
          ? sql`${expressionOf} = ${CompactLog.timeKey}::text`
          : sql`attname = 'created_at'::name AND ${expressionOf} = '(version >> 12)'::text`
      }
  )`

  const minuteOf = (time: string | Fragment) =>
    sql`pg_catalog.date_trunc('minute'::text, ${typeof time === "string" ? sql.literal(time) : time} AT TIME ZONE 'UTC'::text)`

  /** What was created after a time in a block. Only the index of times has it by these conditions, and in that order. */
  const youngIn = (time: DateTime.Utc, block: string, { indexes }: Pick<Span, "indexes">) =>
    indexes.times
      ? sql`
        (event.version >> 12, ${minuteOf("event.created_at")}) >= (${sql.literal(block)}, ${minuteOf(firstAfter(time))})
        AND (event.version >> 12, ${minuteOf("event.created_at")}) <= (${sql.literal(block)}, 'infinity'::timestamp)
        AND ${isYoung(time)}`
      : sql`
        (event.version >> 12, created_at) >= (${sql.literal(block)}, ${firstAfter(time)})
        AND (event.version >> 12, created_at) <= (${sql.literal(block)}, 'infinity'::timestamptz)`

  /** The youngest first: if there are events of a later minute, none of the same minute is looked at in vain. */
  const inOrderOfTimes = ({ indexes }: Pick<Span, "indexes">) => sql`
    ORDER BY event.version >> 12 DESC, ${indexes.times ? minuteOf("event.created_at") : sql`created_at`} DESC`

  /**
   * All events of the log are passed. The other conditions are only looked at for young events. No block has more events than the
   * limit, which the planner does not know: it takes a tenth of what it expects, and so the order of the index. Without it the whole
   * table looked cheaper beside 50 million events, and was read for each page.
   */
  const throughAll = (time: DateTime.Utc, others: ReadonlyArray<Fragment>): Way => ({
    first: (span) => sql`(SELECT version FROM ${events} WHERE ${between(span)}
      ORDER BY version ${sql.literal(span.direction)} LIMIT 1)`,
    inBlock: (span, block) => sql`(
      SELECT version FROM (
        SELECT * FROM ${events} AS event
        WHERE ${youngIn(time, block, span)} AND event.version + 0 > ${span.after} AND event.version + 0 <= ${span.last}
        ${inOrderOfTimes(span)} LIMIT (SELECT 4096::int8)
      ) AS event WHERE ${sql.and(others)})`,
    without: (span) => sql`(
      SELECT version FROM ${events} AS event
      WHERE ${sql.and([isYoung(time), between(span), ...others])}
      ORDER BY version ${sql.literal(span.direction)} LIMIT ${span.limit})`
  })

  /** Only those are passed that an index has in order. */
  const along = (time: DateTime.Utc, course: Course): Way => {
    const young = [isYoung(time)]
    return {
      first: (span) => course({ ...span, limit: 1 }, []),
      inBlock: (span) => course(span, young),
      without: (span) => course(span, young)
    }
  }

  /**
   * The first versions of a range that were created after a time: from one block of 4,096 versions to the next, until blocks with
   * enough of them are found.
   */
  const versionsAfter = (time: DateTime.Utc, { first, inBlock, without }: Way, range: Span) => {
    const { after, direction, last, limit } = range
    const before = (block: string) => sql.literal(`((${block} << 12) - 1::int8)`)
    const endOf = (block: string) => sql.literal(`(${block} << 12 | 4095::int8)`)
    const within = (block: string): Span => ({
      ...range,
      after: sql`greatest(${after}::int8, ${before(block)})`,
      last: sql`least(${last}::int8, ${endOf(block)})`
    })
    const beyond = (block: string): Span =>
      direction === "ASC"
        ? { ...range, after: sql`greatest(${after}::int8, ${endOf(block)})` }
        : { ...range, last: sql`least(${last}::int8, ${before(block)})` }
    const blockOf = (span: Span) => sql`(SELECT version >> 12 AS block FROM ${first(span)} AS found)`
    const counted = (block: string) => sql`
      CROSS JOIN LATERAL (
        SELECT CASE WHEN (
          SELECT true FROM ${events} AS event WHERE ${youngIn(time, block, range)} ${inOrderOfTimes(range)} LIMIT 1
        ) THEN (
          SELECT count(*) FROM (SELECT FROM ${inBlock(within(block), block)} AS found LIMIT ${limit}) AS matching
        ) ELSE 0::int8 END AS matches OFFSET 0
      ) AS counted`
    return sql`(
      WITH RECURSIVE step AS (
        SELECT first.block, counted.matches, counted.matches AS total
        FROM ${blockOf(range)} AS first ${counted("first.block")} WHERE ${hasTimeIndex(range)}
        UNION ALL
        SELECT next.block, counted.matches, step.total + counted.matches
        FROM step CROSS JOIN LATERAL ${blockOf(beyond("step.block"))} AS next ${counted("next.block")}
        WHERE step.total < ${limit}::int8
      )
      SELECT found.version FROM step CROSS JOIN LATERAL (
        SELECT version FROM ${inBlock(within("step.block"), "step.block")} AS matching OFFSET 0
      ) AS found
      WHERE step.matches > 0::int8
      UNION ALL
      SELECT version FROM ${without(range)} AS matching WHERE NOT ${hasTimeIndex(range)})`
  }

  return { isYoung, throughAll, along, versionsAfter }
}
