import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References } from "effect"
import { Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { flushCompileCache } from "node:module"

// The tests run this file as a process: `projection.process.ts <url> <schema> <name>` adds up the amounts of each aggregate.
// Each printed line is a batch that was handled, and is not committed yet.

const [, , url = "", schema = "", name = ""] = process.argv

// A process that is killed writes no cache at its end, and the next process shall start quickly.
flushCompileCache()

const Database = PgClient.layer({
  url: Redacted.make(url),
  applicationName: process.env["PGAPPNAME"],
  maxConnections: 10
})

const sums = Projection.make({
  name,
  shards: 6,
  batchSize: 200,
  heartbeat: "100 millis",
  batchHandler: Effect.fnUntraced(function* (events) {
    const sql = yield* PgClient.PgClient
    yield* sql`
      INSERT INTO ${sql(schema)}.sums AS s
      SELECT id, sum(amount), count(*) FROM unnest(
        ${events.map(({ aggregateId }) => aggregateId)}::text[], ${events.map(({ data }) => Number(data))}::int[]
      ) AS new (id, amount)
      GROUP BY id ORDER BY id
      ON CONFLICT (id) DO UPDATE SET sum = s.sum + excluded.sum, count = s.count + excluded.count`
    process.stdout.write(`${events.length}\n`)
  })
})

await Effect.runPromise(
  Projection.run(sums).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
