/** `EventStore` on Postgres. */
import { DateTime, Effect, Layer, Option, Stream } from "effect"
import type { Fragment, Statement } from "effect/sql/Statement"
import {
  AggregateSince,
  Append,
  ById,
  EventNotFound,
  EventStore,
  Query,
  Since,
  type StoredEvent
} from "../EventStore.ts"
import * as Operation from "../Operation.ts"
import type { Reason } from "../StoreError.ts"
import * as Appending from "./Appending.ts"
import { columns, Row, toStoredEvent } from "./EventRow.ts"
import * as EventSequence from "./EventSequence.ts"
import { decodeRows, PostgresDatabase } from "./PostgresDatabase.ts"
import * as Settling from "./Settling.ts"

/** How many events are read at a time, unless a query says otherwise. */
const pageSize = 1000

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql, tables } = database
  const operation = yield* Operation.make("EventStore", "postgres")
  const settling = yield* Settling.make
  const table = tables.events
  const decodeEvents = decodeRows(Row, names.events, ["version"])

  // Once, before the first append or the first read that relies on it.
  let checked = false
  const checkSequence = Effect.suspend(() =>
    checked
      ? Effect.void
      : EventSequence.checkAndWarn.pipe(
          Effect.provideService(PostgresDatabase, database),
          Effect.tap(() => Effect.sync(() => (checked = true)))
        )
  )

  const appending = yield* Appending.make({ appended: Effect.void, prepare: checkSequence })

  // Statements

  const selected = sql.literal(columns)

  const select = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", limit?: number) => sql`
    SELECT ${selected} FROM ${table} WHERE ${sql.and(filters)}
    ORDER BY version ${sql.literal(direction)} ${limit === undefined ? sql.literal("") : sql`LIMIT ${limit}`}`

  const filtersOf = ({ aggregateIds, createdAfter, data, eventTypes, metadata }: Query): ReadonlyArray<Fragment> => [
    ...(aggregateIds === undefined ? [] : [sql`aggregate_id = ANY(${aggregateIds}::text[])`]),
    ...(eventTypes === undefined ? [] : [sql`event_type = ANY(${eventTypes}::text[])`]),
    ...(data === undefined ? [] : [sql`coalesce(data, 'null') @> ${JSON.stringify(data)}::text::jsonb`]),
    ...(metadata === undefined ? [] : [sql`metadata @> ${JSON.stringify(metadata)}::text::jsonb`]),
    // As events are read, in milliseconds: one is not after the time at which it was itself.
    ...(createdAfter === undefined
      ? []
      : [sql`date_trunc('milliseconds', created_at) > ${DateTime.toDateUtc(createdAfter)}::timestamptz`])
  ]

  // Operations

  const eventsOf = (statement: Statement<unknown>) =>
    Effect.map(Effect.flatMap(query(statement), decodeEvents), (rows) => rows.map(toStoredEvent))

  /** The events above `after` up to `last`, as the filters want them, at most `limit`, in pages. */
  const pages = (
    filters: ReadonlyArray<Fragment>,
    direction: "ASC" | "DESC",
    { after, batchSize, last, limit }: Record<"after" | "last", bigint> & Record<"batchSize" | "limit", number>
  ) =>
    Stream.paginate({ after, last, left: limit }, ({ after, last, left }) => {
      const size = Math.min(batchSize, left)
      if (size <= 0) return Effect.succeed([[], Option.none()] as const)
      const range = [...filters, sql`version > ${after}`, sql`version <= ${last}`]
      return Effect.map(eventsOf(select(range, direction, size)), (page) => {
        const end = page.at(-1)?.version
        if (end === undefined || page.length < size) return [page, Option.none()] as const
        const rest = direction === "ASC" ? { after: end, last } : { after, last: end - 1n }
        return [page, Option.some({ ...rest, left: left - size })] as const
      })
    })

  const readAll = (input: Query): Stream.Stream<StoredEvent, Reason> => {
    const { after = 0n, batchSize = pageSize, direction = "forward", limit = Number.POSITIVE_INFINITY } = input
    const filters = filtersOf(input)
    if (limit === 0 || input.aggregateIds?.length === 0 || input.eventTypes?.length === 0) return Stream.empty
    if (direction === "backward") return pages(filters, "DESC", { after, last: 2n ** 63n - 1n, batchSize, limit })
    const forward = Stream.suspend(() => {
      let from = after
      return Stream.flatMap(settling.marks(after), (last) => {
        const page = pages(filters, "ASC", { after: from, last, batchSize, limit })
        from = last
        return page
      })
    })
    return Stream.unwrap(
      Effect.as(checkSequence, limit === Number.POSITIVE_INFINITY ? forward : Stream.take(forward, limit))
    )
  }

  const load = operation.fn("load", Since, ({ since }) => Stream.runCollect(readAll(new Query({ after: since }))))

  const loadByAggregate = operation.fn("loadByAggregate", AggregateSince, ({ aggregateId, since }) =>
    eventsOf(select([sql`aggregate_id = ${aggregateId}`, sql`version > ${since}`], "ASC"))
  )

  const get = operation.fn(
    "get",
    ById,
    Effect.fnUntraced(function* ({ id }) {
      const [event] = yield* eventsOf(sql`SELECT ${selected} FROM ${table} WHERE id = ${id}`)
      return event ?? (yield* new EventNotFound({ id }))
    })
  )

  const appendAll = operation.fn("append", Append, appending.append)
  const read = operation.stream("read", Query, readAll)

  return EventStore.of({
    append: (events, options) => appendAll({ events: Array.isArray(events) ? events : [events], ...options }),
    load: (since = 0n) => load({ since }),
    loadByAggregate: (aggregateId, since = 0n) => loadByAggregate({ aggregateId, since }),
    read: (input = {}) => read(input),
    get: (id) => get({ id }),
    latestVersion: operation.effect("latestVersion", settling.highestVersion),
    ping: operation.effect("ping", Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`)))
  })
})

export const layer: Layer.Layer<EventStore, never, PostgresDatabase> = Layer.effect(EventStore, make)
