/** The statements that read events, and how pages of them become a stream. */
import { Array, DateTime, Effect, Option, Predicate, type Schema, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Filter, Query, StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase, type Runnable } from "../database/PostgresDatabase.ts"
import { columns, eventDecoder } from "./EventRow.ts"
import * as Settling from "./Settling.ts"

/** How many events are read at a time, unless a query says otherwise. */
const pageSize = 1000
/** And about how many bytes, as they are stored: compressed, where they are many. */
const pageBytes = 1024 * 1024

interface Range {
  readonly after: bigint
  readonly last: bigint
  readonly limit: number
  readonly batchSize: number
  /** No event in it is large. */
  readonly isSmall: boolean
}

/** All events that are meant, from where the step before ended up to a version. */
export interface Step {
  readonly events: ReadonlyArray<StoredEvent>
  readonly upTo: bigint
}

/** The events of pages, some of which may be empty. No stream for each: what that keeps grows with their number. */
export const eventsIn = <E>(pages: Stream.Stream<Step["events"], E>): Stream.Stream<StoredEvent, E> =>
  Stream.flattenArray(Stream.filter(pages, Array.isReadonlyArrayNonEmpty))

export const make = Effect.gen(function* () {
  const { fixed, names, query, schema, sql, tables } = yield* PostgresDatabase
  const settling = yield* Settling.make
  const decode = eventDecoder(names.events)

  // Statements

  const selected = sql.literal(columns)

  const select = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", limit: number) => sql`
    SELECT ${selected} FROM ${tables.events} WHERE ${sql.and(filters)}
    ORDER BY version ${sql.literal(direction)} LIMIT ${limit}`

  // What is large is left to the next page: how much space an event takes is known without reading it. That costs a quarter
  // of a page, and where nothing has ever been too large for its row, the next pages do without.
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

  const isTrue = (row: unknown, column: string) => Predicate.hasProperty(row, column) && row[column] === true

  // No data at all is JSON's null, and contains nothing else. The column itself can have an index.
  const dataOf = (data: Schema.Json) => (data === null ? sql.literal("coalesce(data, 'null')") : sql.literal("data"))

  // The index has the events of one aggregate in their order. Of several it has not, and the whole log may be walked.
  const among = (aggregateIds: ReadonlyArray<string>) =>
    aggregateIds.length === 1
      ? sql`aggregate_id = ${aggregateIds[0]}`
      : sql`aggregate_id = ANY(${aggregateIds}::text[])`

  const filtersOf = ({ aggregateIds, createdAfter, data, eventTypes, metadata }: Filter): ReadonlyArray<Fragment> => [
    ...(aggregateIds === undefined ? [] : [among(aggregateIds)]),
    ...(eventTypes === undefined ? [] : [sql`event_type = ANY(${eventTypes}::text[])`]),
    ...(data === undefined ? [] : [sql`${dataOf(data)} @> ${JSON.stringify(data)}::text::jsonb`]),
    ...(metadata === undefined ? [] : [sql`metadata @> ${JSON.stringify(metadata)}::text::jsonb`]),
    // As events are read, in milliseconds: one is not after the time at which it was itself.
    ...(createdAfter === undefined
      ? []
      : [sql`date_trunc('milliseconds', created_at) > ${DateTime.toDateUtc(createdAfter)}::timestamptz`])
  ]

  // Reads

  const eventsOf = (statement: Runnable): Effect.Effect<Array<StoredEvent>, Reason> =>
    Effect.flatMap(query(statement), (rows) => {
      const { corrupt, events } = decode(rows)
      return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
    })

  /** The events above `after` up to `last`, as the filters want them, at most `limit`, in pages. */
  const pages = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", range: Range) =>
    Stream.paginate<Range | Reason, StoredEvent, Reason>(range, (state) => {
      if ("_tag" in state) return Effect.fail(state)
      const size = Math.min(state.batchSize, state.limit)
      if (size <= 0) return Effect.succeed([[], Option.none()])
      const within = [...filters, sql`version > ${state.after}`, sql`version <= ${state.last}`]
      const statement = state.isSmall ? select(within, direction, size) : selectSized(within, direction, size)
      return Effect.map(query(statement), (rows) => {
        const { corrupt, events } = decode(rows)
        // What comes before a row that cannot be read is delivered first.
        if (corrupt !== undefined) return [events, Option.some(corrupt)]
        const end = events.at(-1)?.version
        const last = rows.at(-1)
        if (end === undefined || (events.length < size && !isTrue(last, "isCut"))) return [events, Option.none()]
        const isSmall = state.isSmall || isTrue(last, "isSmall")
        const rest = direction === "ASC" ? { after: end } : { last: end - 1n }
        return [events, Option.some({ ...state, ...rest, isSmall, limit: state.limit - events.length })]
      })
    })

  /** Whether no event can be meant. */
  const isNothing = ({ aggregateIds, eventTypes }: Filter) => aggregateIds?.length === 0 || eventTypes?.length === 0

  /** The events above a version that nothing can come before any more, in steps that say how far they go. */
  const settled = (
    filter: Filter,
    {
      after,
      batchSize = pageSize,
      forever
    }: { readonly after: bigint; readonly batchSize?: number | undefined; readonly forever: boolean }
  ): Stream.Stream<Step, Reason> => {
    const filters = filtersOf(filter)
    let from = after
    return Stream.flatMap(settling.marks(after, forever), (last) => {
      const range = { after: from, last, batchSize, isSmall: false, limit: Number.POSITIVE_INFINITY }
      from = last
      const end = Stream.succeed<Step>({ events: [], upTo: last })
      if (isNothing(filter)) return end
      const steps = Stream.mapArray(pages(filters, "ASC", range), (events) => [
        { events, upTo: events[events.length - 1]?.version ?? last }
      ])
      return Stream.concat(steps, end)
    })
  }

  return {
    highestVersion: settling.highestVersion,
    settled,

    /** What `read` of the contract does. */
    read: (input: Query): Stream.Stream<StoredEvent, Reason> => {
      const { after = 0n, batchSize = pageSize, direction = "forward", limit = Number.POSITIVE_INFINITY } = input
      if (limit === 0 || isNothing(input)) return Stream.empty
      if (direction === "backward") {
        return pages(filtersOf(input), "DESC", { after, last: 2n ** 63n - 1n, batchSize, isSmall: false, limit })
      }
      const steps = settled(input, { after, batchSize: Math.min(batchSize, limit), forever: false })
      const forward = eventsIn(Stream.map(steps, ({ events }) => events))
      return limit === Number.POSITIVE_INFINITY ? forward : Stream.take(forward, limit)
    },

    byAggregate: (aggregateId: string, since: bigint) =>
      eventsOf(fixed`
        SELECT ${selected} FROM ${tables.events} WHERE aggregate_id = ${aggregateId} AND version > ${since}
        ORDER BY version`),

    byId: (id: string) => eventsOf(fixed`SELECT ${selected} FROM ${tables.events} WHERE id = ${id}`)
  }
})
