/** `EventStore` on Postgres. */
import { DateTime, Effect, Layer, Option, Schema, Stream } from "effect"
import type { Fragment, Statement } from "effect/sql/Statement"
import {
  AggregateSince,
  Append,
  ById,
  DuplicateEvent,
  EventNotFound,
  EventStore,
  expectedOf,
  idGenerator,
  Query,
  Since,
  StoredEvent,
  VersionConflict
} from "../EventStore.ts"
import * as Operation from "../Operation.ts"
import { Contention, type Reason, Unexpected } from "../StoreError.ts"
import { columns, eventDecoder, toStoredEvent } from "./EventRow.ts"
import * as EventSequence from "./EventSequence.ts"
import { qualify } from "./Identifier.ts"
import { decodeRows, PostgresDatabase } from "./PostgresDatabase.ts"
import { isUniqueViolation } from "./Reasons.ts"
import * as Settling from "./Settling.ts"

/** How many events are read at a time, unless a query says otherwise. */
const pageSize = 1000

/** What came of one event of an append, or of all of them. See `resources/postgres/0002_events.sql`. */
const Outcome = Schema.Union([
  Schema.Struct({
    outcome: Schema.Literal("stored"),
    id: Schema.String,
    version: StoredEvent.fields.version,
    createdAt: Schema.DateTimeUtcFromDate,
    streamName: Schema.String
  }),
  Schema.Struct({ outcome: Schema.Literal("duplicate"), id: Schema.String }),
  Schema.Struct({
    outcome: Schema.Literal("conflict"),
    id: Schema.String,
    version: Schema.NullOr(StoredEvent.fields.version)
  }),
  Schema.Struct({ outcome: Schema.Literal("isolation") })
])

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, schema, sql, tables } = database
  const operation = yield* Operation.make("EventStore", "postgres")
  const settling = yield* Settling.make
  const random = yield* idGenerator
  const table = tables.events
  const appendFunction = sql.literal(qualify(schema, `${names.events}_append`))
  const decodeEvents = eventDecoder(names.events)
  const decodeOutcomes = decodeRows(Outcome, names.events, ["id"])

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

  // Statements

  const selected = sql.literal(columns)

  const insert = (append: Append, ids: ReadonlyArray<string>) => {
    const { events, onDuplicate = "fail" } = append
    const aggregateIds = [...new Set(events.map(({ aggregateId }) => aggregateId))].sort()
    const expecting = aggregateIds.filter((id) => expectedOf(append, id) !== "any")
    return sql`
      SELECT outcome, event_id AS id, event_version AS version, event_created_at AS "createdAt", event_stream AS "streamName"
      FROM ${appendFunction}(
        ${ids}::text[],
        ${events.map(({ aggregateId }) => aggregateId)}::text[],
        ${events.map(({ eventType }) => eventType)}::text[],
        ${events.map(({ data }) => JSON.stringify(data))}::text[],
        ${events.map(({ metadata }) => JSON.stringify(metadata ?? null))}::text[],
        ${events.flatMap(({ id }) => id ?? [])}::text[],
        ${aggregateIds.filter((id) => expectedOf(append, id) === "any")}::text[],
        ${expecting}::text[],
        ${expecting.map((id) => String(expectedOf(append, id)))}::text[],
        ${onDuplicate === "ignore"}
      )`
  }

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
    Effect.flatMap(query(statement), (rows) => {
      const { corrupt, events } = decodeEvents(rows)
      return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
    })

  /**
   * The appending itself. Somebody who does not take its locks can still write an id between its look and its INSERT; the
   * next attempt sees that event. Inside a transaction there is none: the error has ended it.
   */
  const write = (statement: Statement<unknown>) =>
    Effect.catchIf(
      Effect.retry(query(statement), {
        times: 2,
        while: (reason: Reason) => Effect.map(inTransaction, (inside) => !inside && isUniqueViolation(reason))
      }),
      isUniqueViolation,
      (reason) =>
        Effect.flatMap(inTransaction, (inside) =>
          inside
            ? new Contention({
                message: `another transaction has stored the same event: ${reason.message}; run the transaction again`,
                cause: reason.cause
              })
            : Effect.fail(reason)
        )
    )

  const append = Effect.fnUntraced(function* (input: Append) {
    const { events } = input
    if (events.length === 0) return []
    yield* checkSequence
    const ids = yield* Effect.forEach(events, ({ id }) => (id === undefined ? random.uuidV7() : Effect.succeed(id)))
    const outcomes = yield* Effect.flatMap(write(insert(input, ids)), decodeOutcomes)
    const stored = new Map<string, Extract<typeof Outcome.Type, { readonly outcome: "stored" }>>()
    for (const outcome of outcomes) {
      switch (outcome.outcome) {
        case "stored":
          stored.set(outcome.id, outcome)
          break
        case "duplicate":
          return yield* new DuplicateEvent({ id: outcome.id })
        case "conflict":
          return yield* new VersionConflict({
            aggregateId: outcome.id,
            expected: expectedOf(input, outcome.id),
            actual: Option.fromNullishOr(outcome.version)
          })
        case "isolation":
          return yield* new Unexpected({
            message:
              "what an append expects cannot be checked against what others have committed meanwhile; " +
              "run the transaction with isolation level READ COMMITTED"
          })
      }
    }
    return events.flatMap((event, index) => {
      const row = stored.get(ids[index] ?? "")
      if (row === undefined) return []
      const { outcome: _, ...written } = row
      // As it is read: nobody shares its parts with the caller.
      const data: Schema.Json = JSON.parse(JSON.stringify(event.data))
      const metadata: Schema.JsonObject | null = JSON.parse(JSON.stringify(event.metadata ?? null))
      const { aggregateId, eventType } = event
      return [toStoredEvent({ ...written, aggregateId, eventType, data, metadata })]
    })
  })

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

  const appendAll = operation.fn("append", Append, append)
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
