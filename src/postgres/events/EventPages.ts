/**
 * The statements that read a page of events: what the filter describes, in the order of versions.
 *
 * **Details**
 *
 * Where it names types, the index of types has the events of each in order. A page reads at most its limit of each.
 *
 * Where it names a time, the index of times leads past each 4,096 versions without an event that is young enough. A page
 * reads at most twice as many events more than it returns. With types or tags a page goes from one event of these to the next,
 * and passes the rest of its 4,096 versions if none of them is young enough.
 *
 * Where the filter names tags, a page is found in the table of tags, which has the versions of each tag in order: the page
 * reads what it returns, and at most as much again for each item of a query. Each look-up of a version stands in a subquery
 * with `OFFSET 0`: the planner would join the tables in another way, and read the whole log for a tag of which it knows
 * nothing.
 */
import { DateTime, Effect, type Schema } from "effect"
import { Statement } from "effect/sql"
import type { Fragment } from "effect/sql/Statement"
import type { Filter, QueryItem } from "../../Event.ts"
import { toText } from "../../internal/ExactJson.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import { columnsOf } from "./EventRow.ts"
import { columnsOfPart, type Part } from "./LongTexts.ts"
import { shareBytes } from "./PageSize.ts"
import * as TagTable from "./TagTable.ts"

/** The part of the log that a page is of. */
export interface Range {
  readonly after: bigint
  /** The last version, or SQL for it. */
  readonly last: bigint | Fragment
  readonly direction: "ASC" | "DESC"
  /** How many events it has at most. */
  readonly limit: number
  /** What has to be true of the log, or the page is empty. */
  readonly guard?: Fragment | undefined
}

/** The same where both ends may be SQL. */
type Span = Omit<Range, "after"> & { readonly after: bigint | Fragment }

/** A query of the first versions of a span that match the filter, and these conditions. */
type Course = (span: Span, conditions: ReadonlyArray<Fragment>) => Fragment

/** How versions are found that the index of times has: in some blocks of 4,096 versions. */
interface Way {
  /** A query of the first version of a span that could be one. */
  readonly first: (span: Span) => Fragment
  /** A query of those in a span that is a block, or a part of it. */
  readonly inBlock: (span: Span, block: string) => Fragment
  /** A query of the first ones of a span, without the index of times. */
  readonly without: (span: Span) => Fragment
}

/** The tags and types of which an event has to have all and one: an item of a query together with the rest of the filter. */
interface Alternative {
  readonly tags: ReadonlyArray<string>
  readonly eventTypes: ReadonlyArray<string> | undefined
}

/** Without items, what the filter says of tags is the only alternative. The tags of an item come first: see `QueryItem`. */
const alternativesOf = ({ items = [{}], tags = [] }: Filter): ReadonlyArray<Alternative> =>
  items.map((item) => ({ tags: [...new Set([...(item.tags ?? []), ...tags])], eventTypes: item.eventTypes }))

/** For how many types a page asks the index of types. For more than that it walks the log, of which they are a large part. */
const mostBranches = 8

const hasTags = ({ tags = [] }: QueryItem): boolean => tags.length > 0

const union = Statement.join(" UNION ", false)
const unionAll = Statement.join(" UNION ALL ", false)

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { sql, tables } = database
  const events = tables.events
  const tagTable = TagTable.tableOf(database)
  const longest = longestBytes(sql)
  /** The parts of rows that are no page. */
  const { read, sent } = columnsOf(longest)

  /** All events that the filters describe, or a part of them. */
  const selectAll = (filters: ReadonlyArray<Fragment>) => (part: Part) => {
    const columns = columnsOfPart(part, longest)
    const only = typeof part === "bigint" ? [sql`version = ${part}`] : []
    return sql`
      SELECT ${sql.literal(columns.sent)} FROM (
        SELECT ${sql.literal(columns.read)} FROM ${events} WHERE ${sql.and([...filters, ...only])} ORDER BY version OFFSET 0
      ) AS page ORDER BY version`
  }

  // SQL's NULL counts as JSON's null. For any other value the bare column is compared, which can have an index.
  const dataOf = (data: Schema.Json) => (data === null ? sql.literal("coalesce(data, 'null')") : sql.literal("data"))

  // The index has the events of one aggregate in order, so `=` finds them by it. For several the whole log may be walked.
  const among = (aggregateIds: ReadonlyArray<string>) =>
    aggregateIds.length === 1
      ? sql`aggregate_id = ${aggregateIds[0]}`
      : sql`aggregate_id = ANY(${aggregateIds}::text[])`

  const ofTypes = (eventTypes: ReadonlyArray<string> | undefined): ReadonlyArray<Fragment> =>
    eventTypes === undefined ? [] : [sql`event_type = ANY(${eventTypes}::text[])`]

  /** Times are compared in milliseconds, as readers get them: no event counts as created after its own time. */
  const firstAfter = (time: DateTime.Utc) =>
    sql`${DateTime.toDateUtc(DateTime.add(time, { milliseconds: 1 }))}::timestamptz`

  /** What the filter says of columns of the event itself, besides its type. */
  const othersAre = ({ aggregateIds, createdAfter, data, metadata }: Filter): ReadonlyArray<Fragment> => [
    ...(aggregateIds === undefined ? [] : [among(aggregateIds)]),
    ...(data === undefined ? [] : [sql`${dataOf(data)} @> ${toText(data)}::text::jsonb`]),
    ...(metadata === undefined ? [] : [sql`metadata @> ${toText(metadata)}::text::jsonb`]),
    ...(createdAfter === undefined ? [] : [sql`created_at >= ${firstAfter(createdAfter)}`])
  ]

  /** What the filter says of columns of the event itself. */
  const columnsAre = (filter: Filter): ReadonlyArray<Fragment> => [...othersAre(filter), ...ofTypes(filter.eventTypes)]

  /** Whether the event with a version has the tag. */
  const hasTag = (tag: string, version: string) =>
    sql`EXISTS (SELECT FROM ${tagTable} AS other WHERE other.tag = ${tag}::text AND other.version = ${sql.literal(version)} OFFSET 0)`

  /** Whether the event of a tag has one of the types. Rows from before the table of tags had types have none: see `0064`. */
  const isOfTypes = (eventTypes: Fragment) => sql`(
    tagged.event_type = ANY(${eventTypes}) OR tagged.event_type IS NULL AND EXISTS (
      SELECT FROM ${events} AS event WHERE event.version = tagged.version AND event.event_type = ANY(${eventTypes}) OFFSET 0
    ))`

  const between = (column: string, { after, last }: Span) =>
    sql`${sql.literal(column)} > ${after} AND ${sql.literal(column)} <= ${last}`

  /** What an event with a tag has to be besides, if anything. */
  const hasColumns = (columns: ReadonlyArray<Fragment>): ReadonlyArray<Fragment> =>
    columns.length === 0
      ? []
      : [
          sql`EXISTS (SELECT FROM ${events} AS event WHERE event.version = tagged.version AND ${sql.and(columns)} OFFSET 0)`
        ]

  /**
   * The first versions of a range that have all tags of an alternative, found by the first one.
   *
   * The planner does not know the limit, and takes it for a tenth of what it expects. So the order of the index always looks
   * cheaper than to collect all rows of the tag and sort them. With a limit that it knows it does so where it expects fewer rows
   * than that, as it does before the first ANALYZE: it read 500,100 rows for a page of 100.
   */
  const versionsOf = (
    { eventTypes, tags: [first = "", ...others] }: Alternative,
    columns: ReadonlyArray<Fragment>,
    range: Span
  ) => {
    const conditions = [
      sql`tagged.tag = ${first}::text`,
      between("tagged.version", range),
      ...(eventTypes === undefined ? [] : [isOfTypes(sql`${eventTypes}::text[]`)]),
      ...others.map((tag) => hasTag(tag, "tagged.version")),
      ...hasColumns(columns)
    ]
    return sql`(SELECT tagged.version FROM ${tagTable} AS tagged WHERE ${sql.and(conditions)}
      ORDER BY tagged.version ${sql.literal(range.direction)} LIMIT (SELECT ${range.limit}::bigint))`
  }

  /** The events at the first of some versions. */
  const placesIn = (versions: Fragment, { direction, limit }: Range) =>
    sql`(SELECT version AS place FROM (${versions}) AS matching
        ORDER BY version ${sql.literal(direction)} LIMIT ${limit}) AS found
      CROSS JOIN LATERAL (SELECT * FROM ${events} WHERE version = found.place OFFSET 0) AS event`

  /**
   * The first events of a type in a range. Only the index of types has them in this order: with the type alone as a condition the
   * planner may take the order of the primary key, and reads the whole log for a type that is rarer than it thinks.
   */
  const ofType = (
    columns: "*" | "version",
    type: string,
    others: ReadonlyArray<Fragment>,
    { after, direction, last, limit }: Span
  ) => {
    const conditions = sql.and([
      sql`(event_type, version) > (${type}::text, ${after}::bigint)`,
      sql`(event_type, version) <= (${type}::text, ${last}::bigint)`,
      ...others
    ])
    const order = sql.literal(`event_type ${direction}, version ${direction}`)
    return sql`(SELECT ${sql.literal(columns)} FROM ${events} AS event WHERE ${conditions} ORDER BY ${order} LIMIT ${limit})`
  }

  /** The types that are looked up in the index of types, each up to the limit of the page. */
  const indexedTypes = ({ aggregateIds, eventTypes, items, tags = [] }: Filter): ReadonlyArray<string> | undefined => {
    const types = new Set(eventTypes)
    return types.size > 0 &&
      types.size <= mostBranches &&
      items === undefined &&
      tags.length === 0 &&
      aggregateIds?.length !== 1
      ? [...types]
      : undefined
  }

  /**
   * The time after which events were created, if the index of times finds them. One aggregate has few events, and what `data` and
   * `metadata` contain may have an index of its own.
   */
  const indexedTime = ({ aggregateIds, createdAfter, data, metadata }: Filter) =>
    aggregateIds?.length === 1 || data !== undefined || metadata !== undefined ? undefined : createdAfter

  /** Whether the index of times is there, and built to its end. Without it the statement that uses it would read the log again and again. */
  const hasTimeIndex = sql`EXISTS (
    SELECT FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = indkey[1]
    WHERE indrelid = ${qualify(database.schema, database.names.events)}::regclass::oid AND indisvalid AND indpred IS NULL
      AND attname = 'created_at'::name AND pg_catalog.pg_get_expr(indexprs, indrelid) = '(version >> 12)'::text
  )`

  /** What was created after a time in a block. Only the index of times has it by these conditions, and in this order. */
  const youngIn = (time: DateTime.Utc, block: string) => sql`
    (event.version >> 12, created_at) >= (${sql.literal(block)}, ${firstAfter(time)})
    AND (event.version >> 12, created_at) <= (${sql.literal(block)}, 'infinity'::timestamptz)`
  const inOrderOfTimes = sql.literal("ORDER BY event.version >> 12, created_at")

  /** All events of the log are passed. The other conditions are only looked at for young events. */
  const throughAll = (time: DateTime.Utc, others: ReadonlyArray<Fragment>): Way => ({
    first: (span) => sql`(SELECT version FROM ${events} WHERE ${between("version", span)}
      ORDER BY version ${sql.literal(span.direction)} LIMIT 1)`,
    inBlock: ({ after, last }, block) => sql`(
      SELECT version FROM (
        SELECT * FROM ${events} AS event WHERE ${youngIn(time, block)} AND event.version + 0 > ${after} AND event.version + 0 <= ${last}
        ${inOrderOfTimes} OFFSET 0
      ) AS event WHERE ${sql.and(others)})`,
    without: (span) => sql`(
      SELECT version FROM ${events} AS event
      WHERE ${sql.and([sql`created_at >= ${firstAfter(time)}`, between("version", span), ...others])}
      ORDER BY version ${sql.literal(span.direction)} LIMIT ${span.limit})`
  })

  /** Only those are passed that an index has in order. */
  const along = (time: DateTime.Utc, course: Course): Way => {
    const young = [sql`created_at >= ${firstAfter(time)}`]
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
  const versionsAfter = (time: DateTime.Utc, { first, inBlock, without }: Way, range: Range) => {
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
        SELECT CASE WHEN (SELECT true FROM ${events} AS event WHERE ${youngIn(time, block)} ${inOrderOfTimes} LIMIT 1) THEN (
          SELECT count(*) FROM (SELECT FROM ${inBlock(within(block), block)} AS found LIMIT ${limit}) AS matching
        ) ELSE 0::int8 END AS matches OFFSET 0
      ) AS counted`
    return sql`(
      WITH RECURSIVE step AS (
        SELECT first.block, counted.matches, counted.matches AS total
        FROM ${blockOf(range)} AS first ${counted("first.block")} WHERE ${hasTimeIndex}
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
      SELECT version FROM ${without(range)} AS matching WHERE NOT ${hasTimeIndex})`
  }

  /** The rows of a range that match the filter, with more columns than are read. */
  const source = (filter: Filter, range: Range): Fragment => {
    const guards = range.guard === undefined ? [] : [range.guard]
    const alternatives = alternativesOf(filter)
    const time = indexedTime(filter)
    const { createdAfter: _, ...timeless } = filter
    const other = time === undefined ? filter : timeless
    const columns = columnsAre(other)
    const first = (course: Course) =>
      time === undefined ? course(range, []) : versionsAfter(time, along(time, course), range)
    const rowsAt = (versions: Fragment) => sql`${placesIn(versions, range)} WHERE ${sql.and(guards)}`
    if (alternatives.every(({ tags }) => tags.length > 0)) {
      return rowsAt(
        union(
          alternatives.map((alternative) =>
            first((span, conditions) => versionsOf(alternative, [...columns, ...conditions], span))
          )
        )
      )
    }
    const types = indexedTypes(filter)
    if (types !== undefined) {
      const others = othersAre(other)
      const [only = "", another] = types
      if (another === undefined && time === undefined) {
        return sql`${ofType("*", only, others, range)} AS event WHERE ${sql.and(guards)}`
      }
      return rowsAt(
        unionAll(
          types.map((type) => first((span, conditions) => ofType("version", type, [...others, ...conditions], span)))
        )
      )
    }
    const matching = alternatives.map(({ eventTypes, tags }) =>
      sql.and([...ofTypes(eventTypes), ...tags.map((tag) => hasTag(tag, "event.version"))])
    )
    const conditions = filter.items === undefined ? columns : [...columns, sql.or(matching)]
    if (time !== undefined) return rowsAt(versionsAfter(time, throughAll(time, conditions), range))
    return sql`${events} AS event WHERE ${sql.and([...conditions, ...guards, between("version", range)])}`
  }

  /** The JSON of a row that is too long for such a page is held back: see `PageSize`. */
  const page = (filter: Filter, whole: Range) => (part: Part) => {
    const range = typeof part === "bigint" ? { ...whole, after: part - 1n, last: part } : whole
    const columns = columnsOfPart(part, shareBytes(range.limit, longest))
    const order = sql.literal(`ORDER BY version ${range.direction}`)
    return sql`
      SELECT ${sql.literal(columns.sent)} FROM (
        SELECT ${sql.literal(columns.read)} FROM ${source(filter, range)} ${order} LIMIT ${range.limit}
      ) AS page ${order}`
  }

  /** Whether a page walks the log for the few events that the filter describes, and finds them by no index. */
  const walks = (filter: Filter): boolean => {
    const { createdAfter: _, ...timeless } = filter
    const others = othersAre(indexedTime(filter) === undefined ? filter : timeless)
    return (
      filter.aggregateIds?.length !== 1 &&
      (filter.items !== undefined || others.length > 0 || filter.eventTypes !== undefined) &&
      (indexedTypes(filter) === undefined || others.length > 0) &&
      alternativesOf(filter).some(({ tags }) => tags.length === 0)
    )
  }

  /**
   * All versions that match an item with tags. There is one way to them. The planner is not told the first tag and the types: if it
   * knew them, the server would plan the statement each time, which takes as long as to read 100 events.
   */
  const versionsWith = ({ eventTypes, tags: [first = "", ...others] = [] }: QueryItem) => {
    const conditions = [
      sql`tagged.tag = (SELECT ${first}::text)`,
      ...(eventTypes === undefined ? [] : [isOfTypes(sql`(SELECT ${eventTypes}::text[])::text[]`)]),
      ...others.map((tag) => hasTag(tag, "tagged.version"))
    ]
    return sql`SELECT tagged.version FROM ${tagTable} AS tagged WHERE ${sql.and(conditions)}`
  }

  /**
   * The events with these versions. The server goes through the primary key once: 100 events take a quarter less time than with a
   * look for each, and those of a type of 800 less than half. To the planner an unknown limit is a tenth of the rows, so that the
   * order of the key looks cheaper than to read the whole table, as it might where that was small when the plan was made.
   */
  const eventsAt = (versions: Fragment) =>
    sql`(SELECT * FROM ${events} WHERE version = ANY(ARRAY(${versions})) ORDER BY version LIMIT (SELECT NULL::bigint)) AS event`

  /** All events that match an item. */
  const eventsOfItem = (item: QueryItem): Fragment =>
    hasTags(item) ? eventsAt(versionsWith(item)) : sql`${events} AS event WHERE ${sql.and(ofTypes(item.eventTypes))}`

  /** All versions that match an item, with the bit of the item. */
  const versionsOfItem = (item: QueryItem, place: number): Fragment => {
    const versions = hasTags(item) ? versionsWith(item) : sql`SELECT event.version FROM ${eventsOfItem(item)}`
    return sql`(SELECT version, ${BigInt.asIntN(64, 1n << BigInt(place))}::bigint AS item FROM (${versions}) AS matching)`
  }

  /** All events that match a query, with the bits of the items that they match as `items`. */
  const matchesOf = (items: ReadonlyArray<QueryItem>): Fragment => {
    const [only, another] = items
    if (only !== undefined && another === undefined) {
      return sql`
        SELECT ${sql.literal(sent)}, 1::bigint AS items
        FROM (SELECT ${sql.literal(read)} FROM ${eventsOfItem(only)} OFFSET 0) AS page`
    }
    return sql`
      SELECT ${sql.literal(sent)}, items FROM (
        SELECT ${sql.literal(read)}, items
        FROM (
          SELECT version AS place, pg_catalog.bit_or(item) AS items
          FROM (${unionAll(items.map(versionsOfItem))}) AS matching GROUP BY version
        ) AS found
        CROSS JOIN LATERAL (SELECT * FROM ${events} WHERE version = found.place OFFSET 0) AS event
        OFFSET 0
      ) AS page`
  }

  return { columns: { read: sql.literal(read), sent: sql.literal(sent) }, page, selectAll, walks, matchesOf }
})
