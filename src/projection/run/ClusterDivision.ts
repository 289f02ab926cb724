/** Lets `effect/cluster` divide the shards of a projection: each shard is a singleton of the cluster. */
import { Effect, Layer, SubscriptionRef } from "effect"
import { Sharding } from "effect/cluster/Sharding"
import type { Projection, Services } from "../Definition.ts"
import { runBy } from "./ProjectionRunner.ts"

/**
 * Runs a projection on a cluster, whose runners divide the shards.
 *
 * **Details**
 *
 * Each shard is a singleton: the one runner that the cluster has chosen for it runs it. A runner reads the log once for all
 * shards that it was given. The offset decides as ever: a runner that the cluster has given up, and that does not know it
 * yet, cannot commit. An error that ends the projection is logged, and ends this layer's part in it: the singletons stay
 * where they are, and do nothing.
 *
 * `Cluster.layer` of `effect-strata/cluster` is a runner of such a cluster, on several machines, whose work is taken over within 5
 * seconds of its death.
 */
export const layerCluster = <R>(projection: Projection<R>): Layer.Layer<never, never, Sharding | R | Services> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const sharding = yield* Sharding
      const own = yield* SubscriptionRef.make<ReadonlyArray<number>>([])
      const take = (shard: number) => SubscriptionRef.update(own, (shards) => [...shards, shard].sort((a, b) => a - b))
      const release = (shard: number) =>
        SubscriptionRef.update(own, (shards) => shards.filter((other) => other !== shard))

      yield* Effect.forkScoped(runBy(own)(projection))
      for (let shard = 0; shard < projection.settings.shards; shard++) {
        yield* sharding.registerSingleton(
          `strata/projection/${projection.name}/${shard}`,
          Effect.acquireRelease(take(shard), () => release(shard))
        )
      }
    })
  )
