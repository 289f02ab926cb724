/** A projection for the tests of the command: it keeps the balances of the accounts that exist. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, Schedule } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"

/** The client of a database: a DSN, or the directory of an embedded one. */
export const clientOf = (database: string) =>
  database.startsWith("postgres")
    ? PgClient.layer({ url: Redacted.make(database), maxConnections: 5 })
    : Pglite.layer({ dataDir: database })

/** An event of an account that does not exist fails, and its aggregate is parked. */
const balancesIn = (schema: string) =>
  Projection.make({
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
  yield* Projection.awaitVersion("balances", yield* latestVersion, "4 minutes")
})

const storesOn = (database: string, schema: string) =>
  Layer.fresh(Layer.provideMerge(Postgres.layerStorage({ schema }), clientOf(database)))

/** Keeps the balances for ever. */
export const keepBalances = (database: string, schema: string) =>
  Effect.provide(Projection.run(balancesIn(schema)), storesOn(database, schema))

/** Keeps the balances until all events that are in the log have been handled. */
export const keepBalancesOnce = (database: string, schema: string) =>
  Effect.raceFirst(Projection.run(balancesIn(schema)), caughtUp).pipe(Effect.provide(storesOn(database, schema)))
