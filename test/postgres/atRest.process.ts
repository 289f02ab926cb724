import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References } from "effect"
import { Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { flushCompileCache } from "node:module"

// The tests run this file as a process: `atRest.process.ts <url> <schema> <count>` runs so many projections of one shard, for
// ever, with the settings that they have unless others are given.

const [, , url = "", schema = "", count = "0"] = process.argv

// A process that is killed writes no cache at its end, and the next process shall start quickly.
flushCompileCache()

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 10, idleTimeout: "2 seconds" })

const projections = Array.from({ length: Number(count) }, (_, index) =>
  Projection.make({ name: `projection ${index}`, handler: () => Effect.void })
)

await Effect.runPromise(
  Projection.runAll(projections).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
