/**
 * The statements that read a page of events: what the filter describes, in the order of versions.
 *
 * **Details**
 *
 * Where it names types, the index of types has the events of each in order. A page reads at most its limit of each. In a
 * compact log that index, and the one of aggregates, has blocks of versions in order: a page reads one block more.
 *
 * Where it names a time, see `TimePages`; where it names data or metadata, see `ContainmentPages`.
 *
 * Where the filter names tags, a page is found in the table of tags, which has the versions of each tag in order: the page
 * reads what it returns, and at most as much again for each item of a query. Each look-up of a version stands in a subquery
 * with `OFFSET 0`: the planner would join the tables in another way, and read the whole log for a tag of which it knows
 * nothing.
 */
import { Effect } from "effect"
import { Statement } from "effect/sql"
import type { Fragment } from "effect/sql/Statement"
import type { Filter } from "../../Event.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import * as CompactLog from "./CompactLog.ts"
import * as ContainmentPages from "./ContainmentPages.ts"
import * as EventConditions from "./EventConditions.ts"
import { columnsOf } from "./EventRow.ts"
import { columnsOfPart, type Part } from "./LongTexts.ts"
import { type Course, inOrder, type Range, type Source, type Span } from "./PageRange.ts"
import { shareBytes } from "./PageSize.ts"
import * as Partitions from "./Partitions.ts"
import * as TagTable from "./TagTable.ts"
import * as TimePages from "./TimePages.ts"

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

/** Whether the filter describes no event at all. */
export const isNothing = ({ aggregateIds, eventTypes }: Filter): boolean =>
  aggregateIds?.length === 0 || eventTypes?.length === 0

const union = Statement.join(" UNION ", false)
const unionAll = Statement.join(" UNION ALL ", false)

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { query, sql, tables } = database
  const events = tables.events
  const tagTable = TagTable.tableOf(database)
  const { along, isYoung, throughAll, versionsAfter } = TimePages.make(database)
  const { among, hasTag, isOfTypes, ofTypes } = EventConditions.make(database)
  const containment = ContainmentPages.make(database)
  const indexes = CompactLog.indexes(database)
  const { limitOf, untold } = yield* Partitions.make
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

  const inBlock = sql.literal(`>> ${CompactLog.blockBits.aggregate_id}`)

  /** All events of one aggregate above a version. Only the index of a compact log needs the last condition. */
  const ofAggregate = (aggregateId: string, since: bigint): ReadonlyArray<Fragment> => [
    among([aggregateId]),
    sql`version > ${since}`,
    sql`version ${inBlock} >= ${since}::bigint ${inBlock}`
  ]

  /** What the filter says of columns of the event itself, besides its type. */
  const othersAre = (filter: Filter): ReadonlyArray<Fragment> => [
    ...(filter.aggregateIds === undefined ? [] : [among(filter.aggregateIds)]),
    ...containment.containsAll(filter),
    ...(filter.createdAfter === undefined ? [] : [isYoung(filter.createdAfter)])
  ]

  /** What the filter says of columns of the event itself. */
  const columnsAre = (filter: Filter): ReadonlyArray<Fragment> => [...othersAre(filter), ...ofTypes(filter.eventTypes)]

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
  const placesIn = (versions: Fragment, { direction, limit }: Span) =>
    sql`(SELECT version AS place FROM (${versions}) AS matching
        ORDER BY version ${sql.literal(direction)} LIMIT ${limit}) AS found
      CROSS JOIN LATERAL (SELECT * FROM ${events} WHERE version = found.place OFFSET 0) AS event`

  /**
   * The first events of a span with a value in a column, by an index that has blocks of versions: it is read to the end of a
   * block. Only that index has these conditions and this order. The planner does not know the limit, and takes it for a tenth
   * of what it expects: where it expects fewer rows than a limit that it knows, it collects and sorts all of them, which may be
   * many more.
   */
  const inBlocks = (
    columns: "*" | "version",
    column: keyof typeof CompactLog.blockBits,
    value: string | undefined,
    others: ReadonlyArray<Fragment>,
    { after, direction, last, limit }: Span
  ) => {
    const shift = sql.literal(`>> ${CompactLog.blockBits[column]}`)
    const key = sql`(${sql.literal(column)}, version ${shift})`
    const conditions = sql.and([
      sql`${key} >= (${value}::text, ${after}::bigint ${shift})`,
      sql`${key} <= (${value}::text, ${last}::bigint ${shift})`,
      sql`version + 0 > ${after} AND version + 0 <= ${last}`,
      ...others
    ])
    return sql`(SELECT ${sql.literal(columns)} FROM (
        SELECT ${sql.literal(columns)} FROM ${events} AS event WHERE ${conditions}
        ORDER BY ${sql.literal(`${column} ${direction}`)}, version ${shift} ${sql.literal(direction)}
        FETCH FIRST (SELECT ${limit}::bigint) ROWS WITH TIES
      ) AS event ORDER BY version ${sql.literal(direction)} LIMIT ${limit})`
  }

  /**
   * The first events of a type in a range. Only the index of types has them in this order: with the type alone as a condition the
   * planner may take the order of the primary key, and reads the whole log for a type that is rarer than it thinks.
   */
  const ofType = (columns: "*" | "version", type: string, others: ReadonlyArray<Fragment>, span: Span) => {
    const { after, direction, indexes, last, limit } = span
    if (indexes.types) return inBlocks(columns, "event_type", type, others, span)
    const isInOrder = columns === "*" && others.length === 0
    const given = (value: Fragment) => (isInOrder ? untold(value) : value)
    const ofThis = given(sql`${type}::text`)
    const conditions = sql.and([
      sql`(event_type, version) > (${ofThis}, ${given(sql`${after}::bigint`)})`,
      sql`(event_type, version) <= (${ofThis}, ${given(sql`${last}::bigint`)})`,
      ...others
    ])
    const order = sql.literal(`event_type ${direction}, version ${direction}`)
    const most = isInOrder ? limitOf(limit) : sql`${limit}`
    return sql`(SELECT ${sql.literal(columns)} FROM ${events} AS event WHERE ${conditions} ORDER BY ${order} LIMIT ${most})`
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

  /** The time after which events were created, if the index of times finds them. One aggregate has few events. */
  const indexedTime = ({ aggregateIds, createdAfter }: Filter) =>
    aggregateIds?.length === 1 ? undefined : createdAfter

  /** What the filter says of an `event`. */
  const conditionsOf = (filter: Filter): ReadonlyArray<Fragment> => {
    const columns = columnsAre(filter)
    if (filter.items === undefined && (filter.tags ?? []).length === 0) return columns
    const alternatives = alternativesOf(filter).map(({ eventTypes, tags }) =>
      sql.and([...ofTypes(eventTypes), ...tags.map((tag) => hasTag(tag, "event.version"))])
    )
    return [...columns, sql.or(alternatives)]
  }

  /** What the filter says besides the time that the index of times finds. */
  const besidesTime = (filter: Filter): Filter => {
    if (indexedTime(filter) === undefined) return filter
    const { createdAfter: _, ...timeless } = filter
    return timeless
  }

  const areTagged = (filter: Filter): boolean => alternativesOf(filter).every(({ tags }) => tags.length > 0)

  /** The part of a filter that an index has in the order of versions: which events are passed, where the others are looked for. */
  const passedFor = (filter: Filter): Filter => {
    const { eventTypes, items, tags } = filter
    const tagged = { ...(tags === undefined ? {} : { tags }), ...(items === undefined ? {} : { items }) }
    const typed = indexedTypes(filter) === undefined || eventTypes === undefined ? {} : { eventTypes }
    return areTagged(filter) ? tagged : typed
  }

  /** The first versions of a span that match the filter. What events contain is looked at one by one. */
  const versionsIn = (filter: Filter, span: Span): Fragment => {
    const time = indexedTime(filter)
    const other = besidesTime(filter)
    const first = (course: Course) =>
      time === undefined ? course(span, []) : versionsAfter(time, along(time, course), span)
    if (areTagged(filter)) {
      const columns = columnsAre(other)
      return union(
        alternativesOf(filter).map((alternative) =>
          first((part, conditions) => versionsOf(alternative, [...columns, ...conditions], part))
        )
      )
    }
    const types = indexedTypes(filter)
    if (types !== undefined) {
      const others = othersAre(other)
      return unionAll(
        types.map((type) => first((part, conditions) => ofType("version", type, [...others, ...conditions], part)))
      )
    }
    const conditions = conditionsOf(other)
    return time === undefined
      ? sql`(SELECT version FROM ${events} AS event WHERE ${sql.and([...conditions, between("version", span)])}
          ORDER BY version ${sql.literal(span.direction)} LIMIT ${span.limit})`
      : versionsAfter(time, throughAll(time, conditions), span)
  }

  /** The first events of a span that match the filter. */
  const source = (filter: Filter, span: Span, guards: ReadonlyArray<Fragment>): Source => {
    const rowsAt = (versions: Fragment): Source => ({
      from: sql`${placesIn(versions, span)} WHERE ${sql.and(guards)}`,
      order: ["place"]
    })
    if (containment.isIndexable(filter) && span.isShort !== true) {
      const passed = passedFor(filter)
      const { createdAfter } = filter
      const queries = {
        begin: createdAfter === undefined ? undefined : versionsIn({ ...passed, createdAfter }, { ...span, limit: 1 }),
        rows: (part: Span) => source(passed, part, []),
        versions: (part: Span) => versionsIn(passed, part),
        walked: (part: Span) => versionsIn(filter, part),
        conditions: conditionsOf(filter)
      }
      return rowsAt(containment.versions(filter, queries, span))
    }
    if (indexedTime(filter) !== undefined || areTagged(filter)) return rowsAt(versionsIn(filter, span))
    const types = indexedTypes(filter)
    const { aggregateIds, ...others } = filter
    if (aggregateIds?.length === 1 && span.indexes.aggregates) {
      const found = inBlocks("*", "aggregate_id", aggregateIds[0], conditionsOf(others), span)
      return { from: sql`${found} AS event WHERE ${sql.and(guards)}`, order: ["version"] }
    }
    if (types === undefined) {
      const conditions = [...conditionsOf(filter), ...guards, between("version", span)]
      return { from: sql`${events} AS event WHERE ${sql.and(conditions)}`, order: ["version"] }
    }
    const [only = "", another] = types
    if (another !== undefined) return rowsAt(versionsIn(filter, span))
    return {
      from: sql`${ofType("*", only, othersAre(filter), span)} AS event WHERE ${sql.and(guards)}`,
      order: span.indexes.types ? ["version"] : ["event_type", "version"]
    }
  }

  /** Which indexes of a compact log there are, if the filter is looked up in one of them. */
  const indexesFor = (filter: Filter): Effect.Effect<CompactLog.Indexes, Reason> =>
    filter.aggregateIds?.length === 1 || indexedTypes(filter) !== undefined || indexedTime(filter) !== undefined
      ? indexes
      : Effect.succeed(CompactLog.noIndexes)

  /** Whether an index has exactly the described events in order: all of them, or those of a type. */
  const isInOrder = ({ eventTypes, ...others }: Filter): boolean =>
    conditionsOf(others).length === 0 && (eventTypes === undefined || new Set(eventTypes).size === 1)

  /** The JSON of a row that is too long for such a page is held back: see `PageSize`. */
  const page = (filter: Filter, whole: Range): Effect.Effect<(part: Part) => Statement.Statement<unknown>, Reason> =>
    Effect.map(indexesFor(filter), (indexes) => (part) => {
      const range = { ...whole, ...(typeof part === "bigint" ? { after: part - 1n, last: part } : {}), indexes }
      const columns = columnsOfPart(part, shareBytes(range.limit, longest))
      const found = source(filter, range, range.guard === undefined ? [] : [range.guard])
      const limit = isInOrder(filter) ? limitOf(range.limit) : sql`${range.limit}`
      return sql`
        SELECT ${sql.literal(columns.sent)} FROM (
          SELECT ${sql.literal(columns.read)} FROM ${found.from} ${sql.literal(inOrder(found, range))} LIMIT ${limit}
        ) AS page ORDER BY version ${sql.literal(range.direction)}`
    })

  /** Whether a page walks the log for the few events that the filter describes, and finds them by no index. */
  const walks = (filter: Filter): boolean => {
    const others = othersAre(besidesTime(filter))
    return (
      filter.aggregateIds?.length !== 1 &&
      (filter.items !== undefined || others.length > 0 || filter.eventTypes !== undefined) &&
      (indexedTypes(filter) === undefined || others.length > 0) &&
      alternativesOf(filter).some(({ tags }) => tags.length === 0)
    )
  }

  /** Whether an index finds what the filter says that events contain. */
  const findsContained = (filter: Filter): Effect.Effect<boolean, Reason> =>
    containment.isIndexable(filter)
      ? Effect.map(query(sql`SELECT WHERE ${containment.hasIndex(filter)}`), (found) => found.length > 0)
      : Effect.succeed(false)

  return {
    columns: { read: sql.literal(read), sent: sql.literal(sent) },
    page,
    ofAggregate,
    selectAll,
    walks,
    findsContained
  }
})

export type EventPages = Effect.Success<typeof make>
