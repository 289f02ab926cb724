import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"

// The test runs this file as a process with a small heap: `notifications.process.ts <url> <schema> <count>` follows the log from
// its start, and ends after so many events. It prints the data of each.

const [, , url = "", schema = "", count = ""] = process.argv

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 4 })

await Effect.runPromise(
  EventStore.EventStore.use((events) =>
    Stream.runForEach(Stream.take(events.subscribe({ after: "start" }), Number(count)), ({ data }) =>
      Effect.sync(() => process.stdout.write(`${JSON.stringify(data)}\n`))
    )
  ).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
    Effect.provideService(References.MinimumLogLevel, "Warn")
  )
)
