/**
 * Read models that follow the log: each event takes effect exactly once.
 *
 * A projection hands events to a handler, in order of their versions. What the handler writes, with the stores or with SQL
 * of its own, commits in one transaction with the offset up to which the projection has read. So the two can never disagree,
 * whatever crashes, and however many processes run the same projection.
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
 * The events of an aggregate always belong to the same shard: `shardOf` says to which. Each shard has its own offset, in the
 * `OffsetStore`, and runs by itself. The log is read once per process for all of them. Several processes may run the same
 * projection: they divide the shards, and take over the shards of a process that has died within seconds.
 */
import { Effect, Stream } from "effect"
import { EventStore, type Query, type StoredEvent } from "./EventStore.ts"
import type { Projection, Services } from "./projection/Definition.ts"
import { runBy, type RunError } from "./projection/run/ProjectionRunner.ts"
import { evenly } from "./projection/run/ShardDivision.ts"

export { HandlerTimeout } from "./internal/HandlerTimeout.ts"
export { accept, Accepted, verify } from "./projection/admin/Accepting.ts"
export { pause, remove, reset, resume } from "./projection/admin/Operating.ts"
export { awaitVersion, Progress, progress } from "./projection/admin/Progress.ts"
export { type Rebuild, rebuild, rebuildOf, slot } from "./projection/admin/Rebuilding.ts"
export { Retried, retryParked } from "./projection/admin/Retrying.ts"
export { names, ShardStatus, status } from "./projection/admin/Status.ts"
export { parked, skipped } from "./projection/admin/Unhandled.ts"
export {
  type BatchHandler,
  Failure,
  type Handler,
  make,
  type Options,
  type Projection,
  type Services,
  type Slot
} from "./projection/Definition.ts"
export {
  AwaitTimeout,
  DuplicateProjection,
  HandlerFailed,
  ProjectionFailed,
  ShardCountMismatch,
  UnknownProjection
} from "./projection/Errors.ts"
export { Parked } from "./projection/Records.ts"
export { layerCluster } from "./projection/run/ClusterDivision.ts"
export type { RunError } from "./projection/run/ProjectionRunner.ts"
export { shardOf } from "./projection/Shards.ts"

/**
 * Runs the projection for ever: it handles the events that are there, then those to come. Each takes effect exactly once.
 *
 * **Details**
 *
 * The run waits while the connection is lost. Interrupting the run is safe at any time: a batch that is under way is rolled
 * back. The run ends with `ProjectionFailed` where an event cannot be handled and `onFailure` is `"stop"`. Where the log was
 * set back together with the offsets, as by a failover, the run goes on, and a warning says so; where an offset is ahead of the
 * log, the run ends with `LogReplaced`: see `accept`.
 *
 * **Gotchas**
 *
 * What a handler does beside its transaction (mail, other databases) can happen more often than once: a batch that fails
 * is handled again. Events of other types are read, too, and passed: a row of the log that is no event ends the projection
 * with `CorruptRow`, whatever its type.
 */
export const run: <R>(projection: Projection<R>) => Effect.Effect<never, RunError, R | Services> = runBy(evenly)

/** Runs several projections, until one of them ends. */
export const runAll = <R>(projections: ReadonlyArray<Projection<R>>): Effect.Effect<never, RunError, R | Services> =>
  Effect.andThen(Effect.forEach(projections, run, { concurrency: "unbounded", discard: true }), Effect.never)

/**
 * Folds the events of a query, in order of their versions, with bounded memory: a read model on demand.
 *
 * ```ts
 * import { Projection } from "effect-strata"
 *
 * export const payments = Projection.fold({ eventTypes: ["Paid"] }, 0, (count) => count + 1)
 * ```
 */
export const fold = <S>(query: (typeof Query)["~type.make.in"], initial: S, f: (state: S, event: StoredEvent) => S) =>
  EventStore.use((events) => Stream.runFold(events.read(query), () => initial, f))
