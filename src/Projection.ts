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
 * The events of an aggregate always belong to the same shard, unless `shardBy` gives another key: `shardOf` says to which. Each
 * shard has its own offset, in the `OffsetStore`, and runs by itself. The log is read once per process for all of them. Several
 * processes may run the same projections: they divide the shards of all of them evenly, and take over the shards of a process
 * that has died within seconds.
 */
import { Effect, Layer, type Scope, Stream } from "effect"
import type { Sharding } from "effect/cluster/Sharding"
import {
  EventStore,
  type EventView,
  type LogReplaced,
  type Query,
  type StoredEvent,
  type Tagged,
  type TypedEvent
} from "./EventStore.ts"
import { named } from "./internal/Named.ts"
import { InvalidInput } from "./InvalidInput.ts"
import type { Projection, Services } from "./projection/Definition.ts"
import type { EventOf, ServicesOfView, View } from "./projection/Handlers.ts"
import { runPlaced } from "./projection/run/ClusterDivision.ts"
import { runBy, type RunError } from "./projection/run/ProjectionRunner.ts"
import { StoreError } from "./StoreError.ts"
import { Supervisor, type Options as SupervisorOptions } from "./Supervisor.ts"

export { ProcessName } from "./internal/Host.ts"
export { HandlerTimeout } from "./internal/HandlerTimeout.ts"
export { accept, Accepted, verify } from "./projection/admin/Accepting.ts"
export { pause, remove, reset, resume } from "./projection/admin/Operating.ts"
export { awaitVersion, Progress, progress } from "./projection/admin/Progress.ts"
export { askRebuild, type Rebuild, rebuild, rebuildOf, slot } from "./projection/admin/Rebuilding.ts"
export { Retried, retryParked } from "./projection/admin/Retrying.ts"
export { idPrefix } from "./projection/Records.ts"
export { names, processes, status, statuses } from "./projection/admin/Status.ts"
export { parked, skipped } from "./projection/admin/Unhandled.ts"
export { Failure, make, type Options, type Projection, type Services } from "./projection/Definition.ts"
export {
  AwaitTimeout,
  DuplicateProjection,
  ProjectionFailed,
  RebuildRefused,
  ShardCountMismatch,
  UnknownProjection
} from "./projection/Errors.ts"
export type { BatchHandler, Handler } from "./projection/Handlers.ts"
export { Parked } from "./projection/Records.ts"
export type { RunError } from "./projection/run/ProjectionRunner.ts"
export { shardOf } from "./projection/Shards.ts"
export { type ProjectionStatus, RunningProcess, ShardStatus } from "./projection/Survey.ts"
export type { Slot } from "./projection/Slot.ts"

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
 * is handled again. A row of the log that is no event ends the projection with `CorruptRow`, unless it is of another type or
 * aggregate than those of the projection.
 */
export const run: <R>(projection: Projection<R>) => Effect.Effect<never, RunError, R | Services> = runBy()

/**
 * Runs the projection in the background, for as long as the layer lives. The `Supervisor` watches over it: `Supervisor.launch`
 * ends the process when the projection ends, unless `options` say otherwise.
 */
export const layer = <R>(
  projection: Projection<R>,
  options?: SupervisorOptions
): Layer.Layer<never, never, Exclude<R, Scope.Scope> | Services | Supervisor> =>
  Layer.effectDiscard(
    Supervisor.use((supervisor) => supervisor.run(`projection "${projection.name}"`, run(projection), options))
  )

/**
 * Runs the projection in the background on a cluster, whose runners divide the shards, for as long as the layer lives. The
 * `Supervisor` watches over it as over that of `layer`.
 *
 * **Details**
 *
 * Each shard is a singleton: the one runner that the cluster has chosen for it runs it. A runner reads the log once for all
 * shards that it was given. The offset decides as ever: a runner that the cluster has given up, and that does not know it yet,
 * cannot commit. Where the projection has ended in a runner that goes on all the same, by `onEnd: "report"`, the shards of that
 * runner stand still.
 *
 * `Cluster.layer` of `effect-strata/cluster` is a runner of such a cluster, on several machines, whose work is taken over
 * within 5 seconds of its death.
 */
export const layerCluster = <R>(
  projection: Projection<R>,
  options?: SupervisorOptions
): Layer.Layer<never, never, Sharding | Exclude<R, Scope.Scope> | Services | Supervisor> =>
  Layer.effectDiscard(
    Supervisor.use((supervisor) => supervisor.run(`projection "${projection.name}"`, runPlaced(projection), options))
  )

/** Runs several projections, until one of them ends. */
export const runAll = <R>(projections: ReadonlyArray<Projection<R>>): Effect.Effect<never, RunError, R | Services> =>
  Effect.forEach(projections, run, { concurrency: "unbounded", discard: true }).pipe(
    Effect.mapError(named("Projection", "runAll")),
    Effect.andThen(Effect.never)
  )

type QueryInput = Exclude<(typeof Query)["~type.make.in"], void>

/** Which events to read: those of the view, where there is one, decoded. */
interface ViewQuery<V extends View> extends QueryInput {
  readonly events?: V
}

const inFold = { store: "Projection", operation: "fold" } as const

function read<V extends View>(
  query: ViewQuery<V>
): Stream.Stream<EventOf<V>, InvalidInput | LogReplaced | StoreError, EventStore | ServicesOfView<V>>
function read<R>({
  events: view,
  ...query
}: ViewQuery<EventView<Tagged["Type"], R> | undefined>): Stream.Stream<
  StoredEvent | TypedEvent<Tagged["Type"]>,
  InvalidInput | LogReplaced | StoreError,
  EventStore | R
> {
  const stored = (query: QueryInput) => Stream.unwrap(EventStore.use((events) => Effect.succeed(events.read(query))))
  if (view === undefined) return stored(query)
  if (view.issues.length > 0) return Stream.fail(new InvalidInput({ ...inFold, issues: view.issues }))
  const eventTypes = query.eventTypes ?? view.typesOf()
  return Stream.mapEffect(stored(eventTypes === undefined ? query : { ...query, eventTypes }), (event) =>
    Effect.mapErrorEager(view.decode(event), (reason) => new StoreError({ ...inFold, reason }))
  )
}

/**
 * Folds the events of a query, in order of their versions, with bounded memory: a read model on demand. With `events` they
 * are those of a typed view.
 *
 * ```ts
 * import { Schema } from "effect"
 * import { EventStore, Projection } from "effect-strata"
 *
 * class Paid extends Schema.TaggedClass<Paid>()("Paid", { amount: Schema.Int }) {}
 * const Payments = EventStore.typed({ events: [Paid] })
 *
 * export const count = Projection.fold({ eventTypes: ["Paid"] }, 0, (count) => count + 1)
 * export const sum = Projection.fold({ events: Payments }, 0, (sum, { event }) => sum + event.amount)
 * ```
 */
export const fold = <S, V extends View = undefined>(
  query: ViewQuery<V>,
  initial: S,
  f: (state: S, event: EventOf<V>) => S
): Effect.Effect<S, InvalidInput | LogReplaced | StoreError, EventStore | ServicesOfView<V>> =>
  Effect.mapError(
    Stream.runFold(read(query), () => initial, f),
    named(inFold.store, inFold.operation)
  )
