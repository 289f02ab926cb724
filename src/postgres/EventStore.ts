/** `EventStore` on Postgres. */
import { Effect, Layer, Schema, Stream } from "effect"
import { EventStore, fromDriver } from "../EventStore.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as Appending from "./events/Appending.ts"
import * as Deciding from "./events/Deciding.ts"
import * as EventTable from "./events/EventTable.ts"
import * as Reading from "./events/Reading.ts"
import * as Subscribing from "./events/Subscribing.ts"
import * as Tagging from "./events/Tagging.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

const Connections = Schema.Struct({ open: Schema.Int, idle: Schema.Int })

export const make = Effect.gen(function* () {
  const { integers, inTransaction, query, sql, tables, traceparent } = yield* PostgresDatabase
  const { status } = yield* Wakeups.Wakeups
  const { inspect } = yield* EventTable.EventTable
  const decodeConnections = decodeRows(Connections, "pg_stat_activity", [])
  const reading = yield* Reading.make
  const { follow, subscribe } = yield* Subscribing.make(inspect)
  const appending = yield* Appending.make
  const deciding = yield* Deciding.make
  const tagging = yield* Tagging.make

  // Outside of a transaction the connection that asks is in use for this statement only, so it counts as idle.
  const selectConnections = (inside: boolean) => sql`
    SELECT count(*)::int AS open, count(*) FILTER (
      WHERE state = 'idle' OR pid = pg_backend_pid() AND NOT ${inside}
    )::int AS idle
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
      AND application_name = current_setting('application_name')`

  const connections = Effect.gen(function* () {
    const rows = yield* query(selectConnections(yield* inTransaction))
    const [{ idle, open } = { idle: 0, open: 0 }] = yield* decodeConnections(rows)
    return { openConnections: open, inUse: open - idle, idle }
  })

  return yield* fromDriver("postgres", {
    append: appending.append,
    readForDecision: (query) => Effect.andThen(inspect, deciding.read(query)),
    tag: (asked) => Effect.andThen(inspect, tagging.tag(asked)),
    read: (input) => Stream.unwrap(Effect.as(inspect, reading.read(input))),
    readAggregate: ({ aggregateId, since }) => reading.byAggregate(aggregateId, since),
    find: ({ id }) => Effect.map(reading.byId(id), ([event]) => event),
    subscribe,
    follow,
    listener: status,
    highestVersion: reading.highestVersion,
    connections,
    largeIntegers: integers,
    traceparent,
    ping: Effect.asVoid(query(sql`SELECT FROM ${tables.events} LIMIT 1`))
  })
})

export const layer: Layer.Layer<EventStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(EventStore, make),
  Layer.mergeAll(EventTable.layer, Wakeups.layer)
)
