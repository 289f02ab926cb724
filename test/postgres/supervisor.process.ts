import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, Schedule, Schema } from "effect"
import { Projection, Spool, Supervisor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"

// The test runs this file as a process: `supervisor.process.ts <url> <schema>`. It is a service as an application would run it:
// a projection that cannot handle the aggregate "broken", and a worker whose handler takes its time.

const [, , url = "", schema = ""] = process.argv

const say = (line: string) => Effect.sync(() => process.stdout.write(`${line}\n`))

const prints = Projection.make({
  name: "prints",
  retry: Schedule.recurs(0),
  handler: ({ aggregateId }) =>
    aggregateId === "broken" ? Effect.fail(new Error("the printer is broken")) : say(`printed ${aggregateId}`)
})

const mails = Spool.make({ name: "mails", payload: Schema.String })

const App = Layer.mergeAll(
  Projection.layer(prints),
  Spool.layer(
    mails,
    (mail) =>
      say(`begun ${mail}`).pipe(Effect.andThen(Effect.sleep("300 millis")), Effect.andThen(say(`sent ${mail}`))),
    { concurrency: 1, buffer: 4 }
  )
)

const Database = PgClient.layer({ url: Redacted.make(url), maxConnections: 5 })

NodeRuntime.runMain(
  Supervisor.launch(App.pipe(Layer.provide(Postgres.layerStorage({ schema })), Layer.provide(Database)))
)
