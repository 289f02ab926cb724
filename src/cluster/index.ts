/**
 * A cluster of `effect/cluster` that takes over in seconds, for projections and for other work of which one process at a time
 * is to do each part.
 *
 * ```ts
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Console, Layer } from "effect"
 * import { Projection, Supervisor } from "effect-strata"
 * import * as Cluster from "effect-strata/cluster"
 * import * as Postgres from "effect-strata/postgres"
 *
 * const heads = Projection.make({ name: "heads", shards: 8, handler: ({ version }) => Console.log(version) })
 *
 * const App = Projection.layerCluster(heads).pipe(
 *   Layer.provide(Cluster.layer({ host: "10.0.0.7", port: 34431 })),
 *   Layer.provide(Postgres.layerConfig())
 * )
 *
 * NodeRuntime.runMain(Supervisor.launch(App))
 * ```
 *
 * **Details**
 *
 * The cluster keeps its runners and locks in tables of its own, `cluster_runners` and others, on the application's `PgClient`. Each
 * runner has one connection of the pool for its locks. `Singleton.make(name, effect)` of `effect/cluster` places any other
 * work: a worker of a spool that must be the only one, for instance.
 */
import { NodeClusterSocket } from "@effect/platform-node"
import { type Config, Duration, Effect, Layer, Option } from "effect"
import type { MessageStorage } from "effect/cluster/MessageStorage"
import { RunnerAddress } from "effect/cluster/RunnerAddress"
import type { Runners } from "effect/cluster/Runners"
import type { Sharding } from "effect/cluster/Sharding"
import type { ShardingConfig } from "effect/cluster/ShardingConfig"
import type { SocketServerError } from "effect/socket/SocketServer"
import { SqlClient } from "effect/sql/SqlClient"

/** What the layer of a runner takes. */
export interface Options {
  /** Where the other runners reach this one. */
  readonly host: string
  /** The port at which they do. */
  readonly port: number
  /** Where this runner listens, if that is somewhere else: `0.0.0.0`, for instance. */
  readonly listen?: { readonly host: string; readonly port: number }
  /** Other settings of the cluster, in the place of these. They must be the same in all runners. */
  readonly sharding?: Partial<ShardingConfig["Service"]>
}

/**
 * The settings with which a runner that was killed is missed, and its work taken over, within 5 seconds. With those that
 * `effect/cluster` has unless told it is 33.
 *
 * **Details**
 *
 * So soon a runner is given up that only stands still, too. One that does nothing for 3 seconds, as its event loop is blocked
 * or its machine was suspended, loses its locks: others begin its work, and it ends its own when it goes on. And where the
 * database does not answer a runner for a second, the runner ends all of its work, and begins it again when it has its locks.
 * For the shards of a projection either is a pause. Where other work is dear to begin again, and may stand still for longer
 * after a death, give all runners a longer `shardLockExpiration`: work is taken over after about that time, and a runner waits
 * for the database for the `shardLockRefreshInterval`, or a third of the expiration where that is less.
 */
export const settings = {
  // A runner says that it lives three times in this time. A lock of a runner that stands still ends with it, too.
  shardLockExpiration: Duration.seconds(3),
  shardLockRefreshInterval: Duration.seconds(1),
  refreshAssignmentsInterval: Duration.millis(500),
  runnerHealthCheckInterval: Duration.seconds(1)
} satisfies Partial<ShardingConfig["Service"]>

/**
 * Gives the cluster's times a time zone. Without one a runner that has died would live on for hours where sessions differ in
 * their `TimeZone`, or where it dies in the hour that comes twice when summer time ends.
 */
const zoneTimes = Effect.gen(function* () {
  const sql = (yield* SqlClient).withoutTransforms()
  const changes = yield* sql<{ readonly change: string }>`
    SELECT format('ALTER TABLE %s ALTER %I TYPE timestamptz', attrelid::regclass, attname) AS change FROM pg_attribute
    WHERE attrelid IN (to_regclass('cluster_runners'), to_regclass('cluster_locks'))
      AND atttypid = 'timestamp'::regtype AND attnum > 0 AND NOT attisdropped`
  yield* Effect.forEach(changes, ({ change }) =>
    Effect.catch(sql.unsafe(change).unprepared, (error) =>
      Effect.logWarning(
        `the cluster's times have no time zone, so a runner that dies may be missed hours later; the owner can run: ${change}`,
        error
      )
    )
  )
}).pipe(
  Effect.catch((error) => Effect.logWarning("it is not known whether the cluster's times have a time zone", error)),
  Effect.withTracerEnabled(false)
)

/**
 * A runner of the cluster, over sockets. Each runner of a cluster is a process with an address of its own.
 *
 * **Details**
 *
 * Who lives is decided in the database: runners that do not hear each other, and reach the database, keep what they run. Where
 * pings go on failing, the runners that cannot be reached lose their work, and get it again once they can. One of them keeps it
 * all where none can be reached.
 *
 * **Gotchas**
 *
 * - The locks are those of a session: give the runner a connection to the server itself, or a pooler in session mode.
 * - A runner that stood still does not know yet that others have taken over, and goes on for a moment. The offset keeps a
 *   projection exact. What other work writes needs a fence, too: `expected` of an append, `OffsetStore.advanceOffset`, or the
 *   version of a state.
 * - A second runner with the same address has nothing to do until the first one has gone.
 */
export const layer = ({
  host,
  listen,
  port,
  sharding
}: Options): Layer.Layer<Sharding | Runners | MessageStorage, SocketServerError | Config.ConfigError, SqlClient> =>
  Layer.effectDiscard(zoneTimes).pipe(
    Layer.provideMerge(
      NodeClusterSocket.layer({
        storage: "sql",
        shardingConfig: {
          ...settings,
          runnerAddress: Option.some(RunnerAddress.make({ host, port })),
          runnerListenAddress: Option.map(Option.fromUndefinedOr(listen), (address) => RunnerAddress.make(address)),
          ...sharding
        }
      })
    )
  )
