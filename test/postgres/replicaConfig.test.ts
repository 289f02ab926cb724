/** A store that reads from a standby, by the environment. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Layer } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { event } from "./events.harness.ts"
import { pair, untilReplayed } from "./replica.harness.ts"

/** `Postgres.layerReplicaConfig` beside the other stores, in an environment that has these variables and no others. */
const configured = (env: Record<string, string>, options?: Postgres.ReplicaOptions) => {
  const stores = Layer.fresh(Postgres.layerStorageConfig())
  return Layer.build(Layer.provideMerge(Postgres.layerReplicaConfig(options), stores)).pipe(
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
  )
}

const load = (context: Context.Context<EventStore.EventStore>, options?: EventStore.ReadOptions) =>
  Effect.map(Context.get(context, EventStore.EventStore).load(0n, options), (events) => events.map(({ id }) => id))

it.live("layerReplicaConfig reads from where DB_REPLICA_URL leads, or from the primary where it is not set", () =>
  Effect.gen(function* () {
    const { pause, primary, served, standby } = yield* pair()
    const env = { DATABASE_URL: primary.url, DB_SCHEMA: "public", DB_POOL_SIZE: "3" }
    const withReplica = { ...env, DB_REPLICA_URL: standby.url, DB_REPLICA_WAIT: "10 millis" }
    const [replica, patient, alone] = [
      yield* configured(withReplica),
      yield* configured(withReplica, { wait: "5 minutes" }),
      yield* configured(env)
    ]
    const [first] = yield* served.events.append(event("a", "first"))
    const atLeast = first?.version ?? 0n
    for (const context of [replica, patient, alone]) {
      assert.deepStrictEqual(yield* load(context, { atLeast, wait: "5 minutes" }), ["first"])
    }
    yield* untilReplayed(primary, standby)
    yield* pause
    const [second] = yield* served.events.append(event("a", "second"))
    for (const context of [replica, patient]) assert.deepStrictEqual(yield* load(context), ["first"])
    assert.deepStrictEqual(yield* load(alone), ["first", "second"])
    // After the time of the environment the primary is read, and an option counts more.
    const needed = { atLeast: second?.version ?? 0n }
    assert.deepStrictEqual(yield* load(replica, needed), ["first", "second"])
    const waiting = yield* Effect.forkScoped(load(patient, needed))
    yield* Effect.sleep("200 millis")
    assert.isUndefined(waiting.pollUnsafe())
    // All else of the program has the primary.
    const sql = Context.get(replica, PgClient.PgClient)
    assert.deepStrictEqual(yield* sql`SELECT pg_is_in_recovery()`.values, [[false]])
    const wrong = yield* Effect.flip(configured({ ...env, DB_REPLICA_URL: "mysql://host" }))
    assert.match(String(wrong), /Expected a postgres:\/\/ URL[^]*DB_REPLICA_URL/)
  })
)
