/** What the tests of replicas share: a primary with a standby, and an event store that reads from it. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Logger, Redacted } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import * as PostgresServer from "../support/PostgresServer.ts"
import { standbyOf } from "../support/Replicas.ts"
import { serveEvents, type ServedEvents } from "./events.harness.ts"
import { execute, query } from "./harness.ts"

/** An event store that writes to the primary of the other one, and reads from a standby. */
export const replicaOf = Effect.fnUntraced(function* (
  { context, schema }: Pick<ServedEvents, "context" | "schema">,
  standby: string | PgClient.PgPoolConfig,
  options: Postgres.ReplicaOptions = {}
) {
  const client: PgClient.PgPoolConfig =
    typeof standby === "string" ? { url: Redacted.make(standby), maxConnections: 8 } : standby
  const logged: Array<string> = []
  const logger = Logger.make(({ message }) => void logged.push(String(message)))
  const layer = Postgres.layerReplica(PgClient.layer(client), { ...options, schema })
  const built = yield* Layer.build(layer).pipe(Effect.provide(context), Effect.provide(Logger.layer([logger])))
  const events = Context.get(built, EventStore.EventStore)
  return {
    events,
    logged,
    context: Context.merge(context, built),
    watched: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Logger.layer([logger]))
  }
})

/** A primary and its standby, and a store on each way. `settings` are those of the standby. */
export const pair = Effect.fnUntraced(function* (
  options?: Postgres.ReplicaOptions,
  settings?: Readonly<Record<string, string>>
) {
  const primary = yield* PostgresServer.make()
  const served = yield* serveEvents({ url: primary.url, options: { schema: "public" } })
  const standby = yield* standbyOf(primary, settings)
  const replica = yield* replicaOf(served, standby.url, options)
  return {
    primary,
    standby,
    served,
    replica,
    pause: execute(["SELECT pg_wal_replay_pause()"], standby.url),
    resume: execute(["SELECT pg_wal_replay_resume()"], standby.url)
  }
})

/** Waits until the standby has replayed what the primary has written until now. */
export const untilReplayed = Effect.fnUntraced(function* (
  primary: PostgresServer.PostgresServer,
  standby: PostgresServer.PostgresServer
) {
  const [row] = yield* query("SELECT pg_current_wal_lsn()::text", primary.url)
  yield* Effect.repeat(
    query(`SELECT pg_last_wal_replay_lsn() >= '${String(row?.[0])}', pg_sleep(0.01)::text`, standby.url),
    { until: ([found]) => found?.[0] === true }
  )
})
