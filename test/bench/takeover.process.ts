import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References } from "effect"
import { Projection, Supervisor } from "effect-strata"
import * as Cluster from "effect-strata/cluster"
import * as Postgres from "effect-strata/postgres"
import { Singleton } from "effect/cluster"

// `takeover.ts` runs this file as a process: `takeover.process.ts <plain|cluster> <url> <schema> <projection> <shards> <port>`.
// It takes part in the projection, and on a cluster in a singleton, too, which notes all the time who runs it.

const [, , mode = "", url = "", schema = "", name = "", shards = "0", port = "0"] = process.argv

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 10 })

const projection = Projection.make({ name, shards: Number(shards), handler: () => Effect.void })

const note = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  yield* Effect.forever(
    Effect.andThen(sql`UPDATE ${sql(schema)}.noted SET process = ${`process ${port}`}`, Effect.sleep("20 millis"))
  )
})

const App =
  mode === "plain"
    ? Projection.layer(projection)
    : Layer.mergeAll(Projection.layerCluster(projection), Singleton.make("note", note)).pipe(
        Layer.provide(Cluster.layer({ host: "127.0.0.1", port: Number(port) }))
      )

await Effect.runPromise(
  Supervisor.launch(
    App.pipe(
      Layer.provide(Postgres.layerStorage({ schema })),
      Layer.provide(Layer.succeed(Projection.ProcessName, `process ${port}`)),
      Layer.provide(Database)
    )
  ).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
)
