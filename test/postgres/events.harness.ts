/** What the tests of the event store share: stores on pools of their own, and sessions that speak plain SQL. */
import { PgClient, PgConnection } from "@effect/sql-pg"
import { Context, Effect, Fiber, Latch, Layer, Logger, Queue, Redacted, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { Reactivity } from "effect/reactivity"
import { connectTimeout } from "../support/connection.ts"
import { postgresUrl } from "../support/database.ts"
import { execute, freshSchema, query, type Settings, unique } from "./harness.ts"

/** The event store on a pool of its own, in a schema of its own unless `options` name one. */
export const serveEvents = Effect.fnUntraced(function* ({
  client,
  layer = Postgres.layer,
  options,
  url = postgresUrl
}: Settings = {}) {
  const schema = options?.schema ?? (yield* freshSchema(url))
  const applicationName = yield* unique
  const logged: Array<string> = []
  const logger = Logger.make(({ message }) => void logged.push(String(message)))
  const pool = PgClient.layer({ url: Redacted.make(url), applicationName, maxConnections: 20, ...client })
  const context = yield* Layer.build(Layer.provideMerge(layer({ ...options, schema }), pool)).pipe(
    Effect.provide(Logger.layer([logger]))
  )
  return {
    context,
    schema,
    applicationName,
    table: `${schema}.${options?.tables?.events ?? "events"}`,
    /** Runs with a logger that keeps what was logged. */
    watched: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Logger.layer([logger])),
    logged,
    events: Context.get(context, EventStore.EventStore),
    sql: Context.get(context, PgClient.PgClient),
    withTransaction: Context.get(context, Transactor.Transactor).withTransaction
  }
})

export type ServedEvents = Effect.Success<ReturnType<typeof serveEvents>>

/** Runs in the background until the scope closes, and keeps the versions of what has come. */
const watch = Effect.fnUntraced(function* <A, E>(stream: Stream.Stream<A, E>, versionOf: (item: A) => bigint) {
  const seen: Array<bigint> = []
  const more = yield* Latch.make()
  const fiber = yield* Effect.forkScoped(
    Stream.runForEachArray(stream, (page) =>
      Effect.suspend(() => {
        for (const item of page) seen.push(versionOf(item))
        return more.open
      })
    ),
    { startImmediately: true }
  )
  const ended = Effect.flatMap(Fiber.join(fiber), () => Effect.die("it has ended"))
  return {
    seen,
    fiber,
    /** Waits until `version` has come, or a later one. */
    until: (version: bigint) =>
      Effect.whileLoop({
        while: () => (seen.at(-1) ?? 0n) < version,
        body: () => Effect.andThen(more.close, Effect.raceFirst(more.await, ended)),
        step: () => {}
      })
  }
})

type Following = Parameters<EventStore.EventStore["Service"]["subscribe"]>[0]

/** Follows the events of a subscription. */
export const follow = ({ events }: Pick<ServedEvents, "events">, subscription: Following) =>
  watch(events.subscribe(subscription), ({ version }) => version)

/** Follows how far the log is passed: what comes are versions up to which every event was given, or left out by the filter. */
export const followSteps = ({ events }: Pick<ServedEvents, "events">, subscription: Following) =>
  watch(events.follow(subscription), ({ upTo }) => upTo.version)

/** The versions that are in the table, in order. */
export const versionsIn = (table: string, where = "true", server: string = postgresUrl) =>
  Effect.map(query(`SELECT version FROM ${table} WHERE ${where} ORDER BY version`, server), (rows) =>
    rows.map(([version]) => BigInt(String(version)))
  )

/** Counts the wake-ups for a table from now on. What it gives is how many have come by the time it is asked. */
export const listening = Effect.fnUntraced(function* (table: string) {
  const [row] = yield* query(`SELECT '${table}'::regclass::oid::text`)
  const connection = yield* PgConnection.make({ url: Redacted.make(postgresUrl) })
  const queue = yield* connection.listen("strata_wakeups")
  const end = yield* Effect.sync(() => `end ${crypto.randomUUID()}`)
  return Effect.gen(function* () {
    yield* execute([`SELECT pg_notify('strata_wakeups', '${end}')`])
    let count = 0
    while (true) {
      const { payload } = yield* Queue.take(queue)
      if (payload === end) return count
      if (payload.split(" ")[0] === row?.[0]) count++
    }
  })
})

/**
 * Waits until so many statements of the application wait for a lock: of the table, or of appends. The wait has a limit, as a
 * statement that does not wait, though it should, is what a test finds.
 */
export const untilBlocked = (count: number, applicationName: string) =>
  query(
    `SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = '${applicationName}'`
  ).pipe(
    Effect.delay(10),
    Effect.repeat({ until: ({ length }) => length === count }),
    Effect.timeoutOrElse({
      duration: "4 minutes",
      orElse: () => Effect.die(new Error(`not ${count} statements of ${applicationName} wait for a lock`))
    })
  )

/** A connection of its own until the scope closes, to be told one statement after the other. */
export const session = Effect.fnUntraced(function* (url: string = postgresUrl) {
  const sql = yield* PgClient.makeClient({ url: Redacted.make(url), connectTimeout }).pipe(
    Effect.provide(Reactivity.layer)
  )
  return (statement: string) => sql.unsafe(statement).unprepared
})

/** What a program that knows nothing of this library inserts. */
export const plainInsert = (table: string, id: string, aggregateId = "plain", data = "{}") =>
  `INSERT INTO ${table} (id, aggregate_id, event_type, data) VALUES ('${id}', '${aggregateId}', 'Plain', '${data}')`

export const event = (aggregateId: string, id?: string) => ({
  aggregateId,
  eventType: "Happened",
  data: { text: aggregateId },
  ...(id === undefined ? {} : { id })
})

/** The table as go-sync-kit creates it, with two events of its own. */
export const goSyncKit = (schema: string, url?: string) =>
  execute(
    [
      `CREATE SCHEMA ${schema}`,
      `CREATE TABLE ${schema}.events (
        version BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL, event_type TEXT NOT NULL,
        data JSONB, metadata JSONB, created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
        stream_name TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED)`,
      ...["aggregate_id", "version", "created_at", "stream_name"].map(
        (column) => `CREATE INDEX idx_events_${column} ON ${schema}.events (${column})`
      ),
      `CREATE INDEX idx_events_type ON ${schema}.events (event_type)`,
      `CREATE INDEX idx_events_data_gin ON ${schema}.events USING GIN (data)`,
      `CREATE INDEX idx_events_metadata_gin ON ${schema}.events USING GIN (metadata)`,
      `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data, metadata)
       VALUES ('go-1', 'user-123', 'UserCreated', '{"name": "John"}', 'null'),
              ('go-2', 'user-123', 'UserRenamed', NULL, '{"by": "go"}')`
    ],
    url
  )

/** A table in two partitions, as somebody else may have made it: the second one begins at this version. */
export const foreignPartitions = (schema: string, second: number) =>
  execute([
    `CREATE SCHEMA ${schema}`,
    `CREATE TABLE ${schema}.events (
      version BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL, aggregate_id TEXT NOT NULL,
      event_type TEXT NOT NULL, data JSONB, metadata JSONB, created_at TIMESTAMPTZ DEFAULT now(),
      stream_name TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED) PARTITION BY RANGE (version)`,
    `CREATE TABLE ${schema}.events_1 PARTITION OF ${schema}.events FOR VALUES FROM (1) TO (${second})`,
    `CREATE TABLE ${schema}.events_2 PARTITION OF ${schema}.events FOR VALUES FROM (${second}) TO (${second + 1000})`
  ])
