import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, References, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"

// The test runs this file as a process with a small heap: `pageSize.process.ts <url> <schema> <count>` follows the log from its
// start, and ends after so many events. Each printed line is the version of an event.

const [, , url = "", schema = "", count = ""] = process.argv

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 4 })

await Effect.runPromise(
  EventStore.EventStore.use((events) =>
    Stream.runForEach(Stream.take(events.subscribe({ after: "start" }), Number(count)), ({ version }) =>
      Effect.sync(() => process.stdout.write(`${version}\n`))
    )
  ).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), Database)),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
