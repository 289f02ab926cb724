/** `EventStore` on Postgres. */
import { Effect, Layer, Schema, Stream } from "effect"
import { EventStore, fromDriver } from "../EventStore.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as Appending from "./events/Appending.ts"
import * as Deciding from "./events/Deciding.ts"
import * as EventTable from "./events/EventTable.ts"
import * as Reading from "./events/Reading.ts"
import * as ReplicaReading from "./events/ReplicaReading.ts"
import * as Subscribing from "./events/Subscribing.ts"
import * as Tagging from "./events/Tagging.ts"
import * as Wakeups from "./wakeups/Wakeups.ts"

const Connections = Schema.Struct({ open: Schema.Int, idle: Schema.Int })

/** The store, with reads that end by `readingOf`, which is given those of this database. */
const makeBy = Effect.fnUntraced(function* <R>(
  readingOf: (primary: Reading.Reading) => Effect.Effect<Reading.Reading, never, R>
) {
  const { integers, inTransaction, query, sql, tables, traceparent } = yield* PostgresDatabase
  const { status } = yield* Wakeups.Wakeups
  const { inspect } = yield* EventTable.EventTable
  const decodeConnections = decodeRows(Connections, "pg_stat_activity", [])
  const reading = yield* Effect.flatMap(Reading.make, readingOf)
  const { follow, subscribe } = yield* Subscribing.make(inspect, reading)
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
    readAggregate: reading.byAggregate,
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

export const make = makeBy(Effect.succeed)

const layerShared = Layer.mergeAll(EventTable.layer, Wakeups.layer)

export const layer: Layer.Layer<EventStore, never, PostgresDatabase> = Layer.provide(
  Layer.effect(EventStore, make),
  layerShared
)

/** The same store, which reads from a standby what it can. */
export const layerReplica: Layer.Layer<EventStore, never, PostgresDatabase | ReplicaReading.Replica> = Layer.provide(
  Layer.effect(EventStore, makeBy(ReplicaReading.make)),
  layerShared
)
