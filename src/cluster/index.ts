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
import { type Config, Duration, type Layer, Option } from "effect"
import type { MessageStorage } from "effect/cluster/MessageStorage"
import { RunnerAddress } from "effect/cluster/RunnerAddress"
import type { Runners } from "effect/cluster/Runners"
import type { Sharding } from "effect/cluster/Sharding"
import type { ShardingConfig } from "effect/cluster/ShardingConfig"
import type { SocketServerError } from "effect/socket/SocketServer"
import type { SqlClient } from "effect/sql/SqlClient"

export interface Options {
  /** Where the other runners reach this one. */
  readonly host: string
  readonly port: number
  /** Where this runner listens, if that is somewhere else: `0.0.0.0`, for instance. */
  readonly listen?: { readonly host: string; readonly port: number }
  /** Other settings of the cluster, in the place of these. They must be the same in all runners. */
  readonly sharding?: Partial<ShardingConfig["Service"]>
}

/**
 * The settings with which a runner that was killed is missed, and its work taken over, within 5 seconds. With those that
 * `effect/cluster` has unless told it is 33.
 */
export const settings = {
  // A runner says that it lives three times in this time. A lock of a runner that stands still ends with it, too.
  shardLockExpiration: Duration.seconds(3),
  shardLockRefreshInterval: Duration.seconds(1),
  refreshAssignmentsInterval: Duration.millis(500),
  runnerHealthCheckInterval: Duration.seconds(1)
} satisfies Partial<ShardingConfig["Service"]>

/**
 * A runner of the cluster, over sockets. Each runner of a cluster is a process with an address of its own.
 *
 * **Gotchas**
 *
 * The locks are those of a session: give the runner a connection to the server itself, or a pooler in session mode.
 */
export const layer = ({
  host,
  listen,
  port,
  sharding
}: Options): Layer.Layer<Sharding | Runners | MessageStorage, SocketServerError | Config.ConfigError, SqlClient> =>
  NodeClusterSocket.layer({
    storage: "sql",
    shardingConfig: {
      ...settings,
      runnerAddress: Option.some(RunnerAddress.make({ host, port })),
      runnerListenAddress: Option.map(Option.fromUndefinedOr(listen), (address) => RunnerAddress.make(address)),
      ...sharding
    }
  })
