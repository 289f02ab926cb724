import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References, Schedule } from "effect"
import { Projection, Supervisor } from "effect-strata"
import * as Cluster from "effect-strata/cluster"
import * as Postgres from "effect-strata/postgres"
import { Singleton } from "effect/cluster"
import { flushCompileCache } from "node:module"

// The tests run this file as a process: `cluster.process.ts <url> <schema> <name> <port> <advertised port> <time zone>` is a
// runner of a cluster, which listens on the one port, is reached by the other one, and adds up the amounts of each aggregate.
// One of the runners notes in a singleton that it does.

const [, , url = "", schema = "", name = "", port = "0", advertised = "0", TimeZone = "UTC"] = process.argv

// A process that is killed writes no cache at its end, and the next process shall start quickly.
flushCompileCache()

const Database = PgClient.layer({
  url: Redacted.make(url),
  applicationName: `runner ${port}`,
  maxConnections: 10,
  startupParameters: { TimeZone }
})

const sums = Projection.make({
  name,
  shards: 60,
  batchSize: 50,
  batchHandler: Effect.fnUntraced(function* (events) {
    const sql = yield* PgClient.PgClient
    yield* sql`
      INSERT INTO ${sql(schema)}.sums AS s
      SELECT id, sum(amount), count(*) FROM unnest(
        ${events.map(({ aggregateId }) => aggregateId)}::text[], ${events.map(({ data }) => Number(data))}::int[]
      ) AS new (id, amount)
      GROUP BY id ORDER BY id
      ON CONFLICT (id) DO UPDATE SET sum = s.sum + excluded.sum, count = s.count + excluded.count`
  })
})

const note = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  const noted = sql`UPDATE ${sql(schema)}.noted SET runner = ${`runner ${port}`}`
  yield* Effect.forever(Effect.delay(Effect.retry(noted, Schedule.spaced("50 millis")), "50 millis"))
})

const host = "127.0.0.1"

const App = Layer.mergeAll(Projection.layerCluster(sums), Singleton.make("note", note)).pipe(
  Layer.provide(Cluster.layer({ host, port: Number(advertised), listen: { host, port: Number(port) } })),
  Layer.provide(Postgres.layerStorage({ schema })),
  Layer.provide(Layer.succeed(Projection.ProcessName, `runner ${port}`)),
  Layer.provide(Database)
)

await Effect.runPromise(
  Supervisor.launch(App).pipe(
    Effect.provide(Database),
    Effect.provideService(References.MinimumLogLevel, process.env["STRATA_TEST_LOG"] === undefined ? "None" : "All")
  )
)
