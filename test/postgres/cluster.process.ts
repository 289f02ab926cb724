import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References } from "effect"
import { Projection } from "effect-strata"
import * as Cluster from "effect-strata/cluster"
import * as Postgres from "effect-strata/postgres"
import { flushCompileCache } from "node:module"

// The tests run this file as a process: `cluster.process.ts <url> <schema> <name> <port>` is a runner of a cluster, on this
// port, which adds up the amounts of each aggregate.

const [, , url = "", schema = "", name = "", port = "0"] = process.argv

// A process that is killed writes no cache at its end, and the next process shall start quickly.
flushCompileCache()

const Database = PgClient.layer({ url: Redacted.make(url), applicationName: `runner ${port}`, maxConnections: 10 })

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

const App = Projection.layerCluster(sums).pipe(
  Layer.provide(Cluster.layer({ host: "127.0.0.1", port: Number(port) })),
  Layer.provide(Postgres.layerStorage({ schema })),
  Layer.provide(Layer.succeed(Projection.ProcessName, `runner ${port}`)),
  Layer.provide(Database)
)

await Effect.runPromise(
  Layer.launch(App).pipe(
    Effect.provide(Database),
    Effect.provideService(References.MinimumLogLevel, process.env["STRATA_TEST_LOG"] === undefined ? "None" : "All")
  )
)
