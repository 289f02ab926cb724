import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References, Schema, Stream } from "effect"
import { EventStore, Projection, Spool } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { flushCompileCache } from "node:module"

// The tests run this file as a process: `atRest.process.ts <url> <schema> <projections> [<subscribers> <workers>]` runs so many
// projections of one shard, subscribers and workers, for ever, with the settings that they have unless others are given.

const [, , url = "", schema = "", projections = "0", subscribers = "0", workers = "0"] = process.argv

// A process that is killed writes no cache at its end, and the next process shall start quickly.
flushCompileCache()

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 10, idleTimeout: "2 seconds" })

const all = Array.from({ length: Number(projections) }, (_, index) =>
  Projection.make({ name: `projection ${index}`, handler: () => Effect.void })
)

const subscribed = EventStore.EventStore.use((events) => Stream.runDrain(events.subscribe({ after: "end" })))

const worked = (index: number) => Spool.make({ name: `queue ${index}`, payload: Schema.Unknown }).run(() => Effect.void)

await Effect.runPromise(
  Effect.all(
    [
      Projection.runAll(all),
      ...Array.from({ length: Number(subscribers) }, () => subscribed),
      ...Array.from({ length: Number(workers) }, (_, index) => worked(index))
    ],
    { concurrency: "unbounded" }
  ).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
