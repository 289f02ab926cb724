import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, Schedule } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"

// What the tests run as a process of its own: `projection.process.ts <url or directory> <schema> [once]` keeps the balances
// of the accounts that are there: for ever, or until it has handled all that is in the log. An event of another account
// fails.

const [, , database = "", schema = "", once] = process.argv

const client = database.startsWith("postgres")
  ? PgClient.layer({ url: Redacted.make(database), maxConnections: 5 })
  : Pglite.layer({ dataDir: database })

const balances = Projection.make({
  name: "balances",
  heartbeat: "100 millis",
  shards: 2,
  retry: Schedule.recurs(0),
  onFailure: "park",
  handler: Effect.fnUntraced(function* ({ aggregateId, data }) {
    const sql = yield* PgClient.PgClient
    const updated = yield* sql`
      UPDATE ${sql(schema)}.accounts SET balance = balance + ${Number(data)}, payments = payments || ${Number(data)}::int
      WHERE id = ${aggregateId} RETURNING id`
    if (updated.length === 0) return yield* Effect.fail(new Error(`no account ${aggregateId}`))
  })
})

const caughtUp = Effect.gen(function* () {
  const { latestVersion } = yield* EventStore.EventStore
  yield* Projection.awaitVersion("balances", yield* latestVersion, "1 minute")
})

await Effect.runPromise(
  Effect.raceFirst(Projection.run(balances), once === "once" ? caughtUp : Effect.never).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layerStorage({ schema }), client))
  )
)
