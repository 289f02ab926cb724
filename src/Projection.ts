/**
 * Read models that follow the log: each event takes effect exactly once.
 *
 * A projection hands events to a handler, in order of their versions. What the handler writes, with the stores or with SQL
 * of its own, commits in one transaction with the offset of how far it has read, so they can never disagree, whatever
 * crashes and whoever runs it twice.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { EventStore, Projection } from "effect-strata"
 * import { SqlClient } from "effect/sql"
 *
 * const balances = Projection.make({
 *   name: "balances",
 *   eventTypes: ["Paid"],
 *   handler: Effect.fn(function* ({ aggregateId, data }) {
 *     const sql = yield* SqlClient.SqlClient
 *     yield* sql`
 *       INSERT INTO balances AS b VALUES (${aggregateId}, (${JSON.stringify(data)}::jsonb ->> 'amount')::bigint)
 *       ON CONFLICT (account) DO UPDATE SET balance = b.balance + excluded.balance`
 *   })
 * })
 *
 * export const program = Effect.gen(function* () {
 *   yield* Effect.forkScoped(Projection.run(balances))
 *   const events = yield* EventStore.EventStore
 *   const [paid] = yield* events.append({ aggregateId: "anna", eventType: "Paid", data: { amount: 100 } })
 *   if (paid !== undefined) yield* Projection.awaitVersion("balances", paid.version, "5 seconds")
 *   // .. the balances have it now ..
 * })
 * ```
 *
 * **Details**
 *
 * The events of an aggregate always belong to the same shard, `shardOf` says to which; each shard has its own offset, in
 * the `OffsetStore`, and runs by itself. The log is read once per process for all of them. Several processes may run the
 * same projection: they divide the shards, and take over those of one that has died within seconds.
 */
import { Effect } from "effect"
import type { Projection, Services } from "./projection/Definition.ts"
import { runBy, type RunError } from "./projection/run/Running.ts"
import { evenly } from "./projection/run/Sharing.ts"

export { layerCluster } from "./projection/run/Clustering.ts"
export {
  AwaitTimeout,
  type BatchHandler,
  DuplicateProjection,
  Failure,
  type Handler,
  HandlerFailed,
  make,
  type Options,
  type Projection,
  ProjectionFailed,
  type Services,
  ShardCountMismatch,
  type Slot,
  UnknownProjection
} from "./projection/Definition.ts"
export { type Decided, type Entity, entity, type EntityOptions, fold, type Loaded } from "./Entity.ts"
export { parked, pause, remove, reset, resume, skipped } from "./projection/admin/Operating.ts"
export { Progress, progress, type Rebuild, rebuild, rebuildOf, slot } from "./projection/admin/Rebuilding.ts"
export { Parked } from "./projection/Records.ts"
export { awaitVersion, names, ShardStatus, status } from "./projection/admin/Status.ts"
export { Retried, retryParked } from "./projection/admin/Retrying.ts"
export type { RunError } from "./projection/run/Running.ts"
export { shardOf } from "./projection/Shards.ts"

/**
 * Runs the projection for ever: the events that are there, then those to come. Each takes effect exactly once.
 *
 * **Details**
 *
 * A connection that is lost is waited for. Interrupting it is safe at any time: a batch that is under way is rolled back.
 * It ends with `ProjectionFailed` where an event cannot be handled and `onFailure` is `"stop"`.
 *
 * **Gotchas**
 *
 * What a handler does beside its transaction (mail, other databases) can happen more often than once: a batch that fails
 * is handled again. Events of other types are read, too, to know that they are none of its own: a row of the log that is
 * no event ends the projection with `CorruptRow`, whatever its type.
 */
export const run: <R>(projection: Projection<R>) => Effect.Effect<never, RunError, R | Services> = runBy(evenly)

/** Runs several projections, until one of them ends. */
export const runAll = <R>(projections: ReadonlyArray<Projection<R>>): Effect.Effect<never, RunError, R | Services> =>
  Effect.andThen(Effect.forEach(projections, run, { concurrency: "unbounded", discard: true }), Effect.never)
