/** `EventStore` on Postgres. */
import { Effect, Layer, Schema, Stream, SubscriptionRef } from "effect"
import {
  AggregateSince,
  Append,
  ById,
  EventNotFound,
  EventStore,
  notificationOf,
  Query,
  Since,
  Stats,
  Subscription,
  subscriptionTo,
  Topic
} from "../EventStore.ts"
import * as Operation from "../internal/Operation.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as Appending from "./events/Appending.ts"
import * as EventTable from "./events/EventTable.ts"
import * as Reading from "./events/Reading.ts"
import * as Subscribing from "./events/Subscribing.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

const Connections = Schema.Struct({ open: Schema.Int, idle: Schema.Int })

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, query, sql, tables } = database
  const { status } = yield* Wakeups.Wakeups
  const { inspect } = yield* EventTable.EventTable
  const decodeConnections = decodeRows(Connections, "pg_stat_activity", [])
  const reading = yield* Reading.make
  const follow = yield* Subscribing.make(inspect)
  const appending = yield* Appending.make
  // The last, as it is the first to end: nobody begins anything that has ended already.
  const operation = yield* Operation.make("EventStore", "postgres")

  const read = (input: Query) => Stream.unwrap(Effect.as(inspect, reading.read(input)))

  // Outside of a transaction the one that asks is in use for that only.
  const selectConnections = (inside: boolean) => sql`
    SELECT count(*)::int AS open, count(*) FILTER (
      WHERE state = 'idle' OR pid = pg_backend_pid() AND NOT ${inside}
    )::int AS idle
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
      AND application_name = current_setting('application_name')`

  const stats = Effect.gen(function* () {
    const rows = yield* query(selectConnections(yield* inTransaction))
    const [{ idle, open } = { idle: 0, open: 0 }] = yield* decodeConnections(rows)
    return new Stats({ openConnections: open, inUse: open - idle, idle, subscribers: operation.running() })
  })

  const appendAll = operation.fn("append", Append, appending.append)
  const load = operation.fn("load", Since, ({ since }) => Stream.runCollect(read(new Query({ after: since }))))
  const loadByAggregate = operation.fn("loadByAggregate", AggregateSince, ({ aggregateId, since }) =>
    reading.byAggregate(aggregateId, since)
  )
  const readAll = operation.stream("read", Query, read)
  const notifications = operation.subscription("notifications", Topic, (topic) =>
    Stream.map(follow(subscriptionTo(topic)), notificationOf)
  )
  const get = operation.fn(
    "get",
    ById,
    Effect.fnUntraced(function* ({ id }) {
      const [event] = yield* reading.byId(id)
      return event ?? (yield* new EventNotFound({ id }))
    })
  )

  return EventStore.of({
    append: (input, options) => {
      const events = Array.isArray(input) ? input : [input]
      return appendAll(options === undefined ? { events } : { events, ...options })
    },
    load: (since = 0n) => load({ since }),
    loadByAggregate: (aggregateId, since = 0n) => loadByAggregate({ aggregateId, since }),
    read: (input = {}) => readAll(input),
    subscribe: operation.subscription("subscribe", Subscription, follow),
    notifications: (topic = {}) => notifications(topic),
    listener: { status: SubscriptionRef.get(status), changes: SubscriptionRef.changes(status) },
    get: (id) => get({ id }),
    latestVersion: operation.effect("latestVersion", reading.highestVersion),
    ping: operation.effect("ping", Effect.asVoid(query(sql`SELECT FROM ${tables.events} LIMIT 1`))),
    stats: operation.effect("stats", stats)
  })
})

export const layer: Layer.Layer<EventStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(EventStore, make),
  Layer.mergeAll(EventTable.layer, Wakeups.layer)
)
