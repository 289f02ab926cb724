/** `EventStore` on Postgres. */
import { Effect, Layer, Option, Schema, Stream, SubscriptionRef } from "effect"
import type { Statement } from "effect/sql/Statement"
import {
  AggregateSince,
  Append,
  ById,
  DuplicateEvent,
  EventNotFound,
  EventStore,
  expectedOf,
  idGenerator,
  notificationOf,
  Query,
  Since,
  StoredEvent,
  Subscription,
  subscriptionTo,
  Topic,
  VersionConflict
} from "../EventStore.ts"
import * as Operation from "../Operation.ts"
import { Contention, type Reason, Unexpected } from "../StoreError.ts"
import { toStoredEvent } from "./EventRow.ts"
import * as EventSequence from "./EventSequence.ts"
import { qualify } from "./Identifier.ts"
import { decodeRows, PostgresDatabase } from "./PostgresDatabase.ts"
import { isUniqueViolation } from "./Reasons.ts"
import * as Following from "./Following.ts"
import * as Reading from "./Reading.ts"
import * as Wakeups from "./Wakeups.ts"

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
  const reading = yield* Reading.make
  const { announce, status } = yield* Wakeups.Wakeups
  const random = yield* idGenerator
  const table = tables.events
  const appendFunction = sql.literal(qualify(schema, `${names.events}_append`))
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

  const follow = yield* Following.make(reading, checkSequence)

  // Statements

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

  // Operations

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
    yield* sql.afterCommit(announce("events"))
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

  /** For reads that rely on the order in which versions are drawn. */
  const relying = <A>(stream: Stream.Stream<A, Reason>) => Stream.unwrap(Effect.as(checkSequence, stream))

  const load = operation.fn("load", Since, ({ since }) =>
    Stream.runCollect(relying(reading.read(new Query({ after: since }))))
  )

  const loadByAggregate = operation.fn("loadByAggregate", AggregateSince, ({ aggregateId, since }) =>
    reading.byAggregate(aggregateId, since)
  )

  const get = operation.fn(
    "get",
    ById,
    Effect.fnUntraced(function* ({ id }) {
      const [event] = yield* reading.byId(id)
      return event ?? (yield* new EventNotFound({ id }))
    })
  )

  const appendAll = operation.fn("append", Append, append)
  const read = operation.stream("read", Query, (query) => relying(reading.read(query)))

  const subscribe = operation.subscription("subscribe", Subscription, (subscription) => follow(subscription))

  const notifications = operation.subscription("notifications", Topic, (topic) =>
    Stream.map(follow(subscriptionTo(topic)), notificationOf)
  )

  return EventStore.of({
    append: (events, options) => appendAll({ events: Array.isArray(events) ? events : [events], ...options }),
    load: (since = 0n) => load({ since }),
    loadByAggregate: (aggregateId, since = 0n) => loadByAggregate({ aggregateId, since }),
    read: (input = {}) => read(input),
    subscribe,
    notifications: (topic = {}) => notifications(topic),
    listener: { status: SubscriptionRef.get(status), changes: SubscriptionRef.changes(status) },
    get: (id) => get({ id }),
    latestVersion: operation.effect("latestVersion", reading.highestVersion),
    ping: operation.effect("ping", Effect.asVoid(query(sql`SELECT FROM ${table} LIMIT 1`)))
  })
})

export const layer: Layer.Layer<EventStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(EventStore, make),
  Wakeups.layer
)
