/** Shards divided by `effect/cluster`: each is a singleton of the cluster. */
import { Effect, Layer, SubscriptionRef } from "effect"
import { Sharding } from "effect/cluster/Sharding"
import type { Projection, Services } from "../Definition.ts"
import { runBy } from "./Running.ts"

/**
 * Runs a projection on a cluster: its runners divide the shards, instead of the processes by themselves.
 *
 * **Details**
 *
 * Each shard is a singleton, so it is run by the one runner that the cluster has chosen, which reads the log once for all
 * that it has been given. As ever the offset decides: a runner that the cluster has given up, and that does not know it
 * yet, is fenced off. What ends the projection is logged, and ends this layer's part in it: the singletons stay where they
 * are, and do nothing.
 *
 * `NodeClusterSocket.layer` with its SQL storage is such a cluster over several machines. That needs tables of its own, and
 * can share the application's `PgClient`.
 */
export const layerCluster = <R>(projection: Projection<R>): Layer.Layer<never, never, Sharding | R | Services> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const sharding = yield* Sharding
      const given = yield* SubscriptionRef.make<ReadonlyArray<number>>([])
      const take = (shard: number) =>
        SubscriptionRef.update(given, (shards) => [...shards, shard].sort((a, b) => a - b))
      const release = (shard: number) =>
        SubscriptionRef.update(given, (shards) => shards.filter((other) => other !== shard))

      yield* runBy(() =>
        Effect.succeed({
          share: { shards: SubscriptionRef.get(given), changes: SubscriptionRef.changes(given), refresh: Effect.void },
          keep: Effect.never
        })
      )(projection).pipe(
        Effect.tapCause((cause) => Effect.logError(`projection "${projection.name}" has ended`, cause)),
        Effect.forkScoped
      )
      for (let shard = 0; shard < projection.settings.shards; shard++) {
        yield* sharding.registerSingleton(
          `strata/projection/${projection.name}/${shard}`,
          Effect.acquireRelease(take(shard), () => release(shard))
        )
      }
    })
  )
