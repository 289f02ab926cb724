import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References, Schema, Stream } from "effect"
import { EventStore, Projection, Spool, Supervisor } from "effect-strata"
import * as Cluster from "effect-strata/cluster"
import * as Postgres from "effect-strata/postgres"
import { flushCompileCache } from "node:module"

// The tests run this file as a process: `atRest.process.ts <url> <schema> <projections> [<subscribers> <workers> <port>]` runs
// so many projections of one shard, subscribers and workers, for ever, with the settings that they have unless others are
// given. With a port it is a runner of a cluster, which divides the projections.

const [, , url = "", schema = "", projections = "0", subscribers = "0", workers = "0", port] = process.argv

// A process that is killed writes no cache at its end, and the next process shall start quickly.
flushCompileCache()

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 10, idleTimeout: "2 seconds" })

const all = Array.from({ length: Number(projections) }, (_, index) =>
  Projection.make({ name: `projection ${index}`, handler: () => Effect.void })
)

const subscribed = EventStore.EventStore.use((events) => Stream.runDrain(events.subscribe({ after: "end" })))

const worked = (index: number) => Spool.make({ name: `queue ${index}`, payload: Schema.Unknown }).run(() => Effect.void)

const projected =
  port === undefined
    ? Projection.runAll(all)
    : Supervisor.launch(
        Layer.mergeAll(Layer.empty, ...all.map((projection) => Projection.layerCluster(projection))).pipe(
          Layer.provide(Cluster.layer({ host: "127.0.0.1", port: Number(port) }))
        )
      )

await Effect.runPromise(
  Effect.all(
    [
      projected,
      ...Array.from({ length: Number(subscribers) }, () => subscribed),
      ...Array.from({ length: Number(workers) }, (_, index) => worked(index))
    ],
    { concurrency: "unbounded" }
  ).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
