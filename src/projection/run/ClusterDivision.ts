/** Lets `effect/cluster` divide the shards of a projection: each shard is a singleton of the cluster. */
import { Effect, type Scope, SubscriptionRef } from "effect"
import { Sharding } from "effect/cluster/Sharding"
import { checked, type Projection, type Services } from "../Definition.ts"
import { runBy, type RunError } from "./ProjectionRunner.ts"

/** Runs the shards that the cluster gives to this runner, which offers to run each of them until the projection ends. */
export const runPlaced = <R>(
  projection: Projection<R>
): Effect.Effect<never, RunError, Sharding | Exclude<R, Scope.Scope> | Services> =>
  Effect.scoped(
    Effect.gen(function* () {
      const { name, shards } = yield* checked(projection, "run")
      const sharding = yield* Sharding
      const own = yield* SubscriptionRef.make<ReadonlyArray<number>>([])
      const take = (shard: number) => SubscriptionRef.update(own, (shards) => [...shards, shard].sort((a, b) => a - b))
      const release = (shard: number) =>
        SubscriptionRef.update(own, (shards) => shards.filter((other) => other !== shard))

      for (let shard = 0; shard < shards; shard++) {
        yield* sharding.registerSingleton(
          `strata/projection/${name}/${shard}`,
          Effect.acquireRelease(take(shard), () => release(shard))
        )
      }
      return yield* runBy(own)(projection)
    })
  )
