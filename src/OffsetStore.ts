/**
 * How far each shard of each projection has read.
 *
 * One row per projection and shard, in the table `offsets_store`, which eGo's offset stores read and write too. Writes
 * inside `Transactor.withTransaction` commit with whatever else the transaction does, so a read model and its offset can
 * never disagree.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { OffsetStore } from "effect-strata"
 *
 * export const program = Effect.gen(function* () {
 *   const offsets = yield* OffsetStore.OffsetStore
 *   yield* offsets.writeOffset({ projectionName: "accounts", shardNumber: 0, value: 42n })
 *   return yield* offsets.getCurrentOffset({ projectionName: "accounts", shardNumber: 0 })
 * })
 * ```
 */
import type { Option } from "effect"
import { Context, Effect, type Scope, type Stream } from "effect"
import * as Operation from "./internal/Operation.ts"
import type { InvalidInput } from "./InvalidInput.ts"
import type { OffsetConflict } from "./Offset.ts"
import { Offset, Projection, ProjectionId, Reset, Selection, Step } from "./Offset.ts"
import type { Reason, StoreError } from "./StoreError.ts"

export { Offset, OffsetConflict, ProjectionId, ProjectionName } from "./Offset.ts"

// Service

/** Projection offsets: see the module's documentation. */
export class OffsetStore extends Context.Service<
  OffsetStore,
  {
    /**
     * Stores the offset and replaces what was there: afterwards the shard has exactly this offset.
     *
     * **Gotchas**
     *
     * The last writer wins. Two runners of one shard that both write can move it backwards: use `advanceOffset`.
     */
    readonly writeOffset: (offset: (typeof Offset)["~type.make.in"]) => Effect.Effect<void, InvalidInput | StoreError>

    /**
     * Moves the shard from the offset that the caller last saw to the next, and returns what is stored now. Of any
     * number of concurrent callers with the same `from`, exactly one succeeds.
     *
     * **Details**
     *
     * `advanceOffset` is the fence under projections: a runner that lost its shard fails with `OffsetConflict`, and the
     * transaction that holds its read model's writes rolls back with it. A program that catches the conflict can go on in
     * the same transaction.
     *
     * **Example**
     *
     * ```ts
     * import { Effect, Option } from "effect"
     * import { OffsetStore } from "effect-strata"
     *
     * export const step = Effect.gen(function* () {
     *   const offsets = yield* OffsetStore.OffsetStore
     *   const id = { projectionName: "accounts", shardNumber: 0 }
     *   const seen = yield* offsets.getCurrentOffset(id)
     *   yield* offsets.advanceOffset(id, { from: Option.map(seen, (offset) => offset.value), to: 43n })
     * })
     * ```
     */
    readonly advanceOffset: (
      id: (typeof ProjectionId)["~type.make.in"],
      step: { readonly from: Option.Option<bigint>; readonly to: bigint }
    ) => Effect.Effect<Offset, OffsetConflict | InvalidInput | StoreError>

    /** The offset of the shard, or `None` if it has none. */
    readonly getCurrentOffset: (
      id: (typeof ProjectionId)["~type.make.in"]
    ) => Effect.Effect<Option.Option<Offset>, InvalidInput | StoreError>

    /**
     * Every offset, of one projection or of all, ordered by name (by code point) and shard. Each offset that exists
     * throughout is listed exactly once.
     *
     * **Details**
     *
     * The stream reads in pages with bounded memory. Offsets that are written meanwhile may or may not appear.
     */
    readonly listOffsets: (projectionName?: string) => Stream.Stream<Offset, InvalidInput | StoreError>

    /**
     * Sets every shard of the projection to `value`, all or none, with the time of now, and returns how many shards there
     * were: 0 for a projection without offsets.
     *
     * **Details**
     *
     * A runner in the middle of a batch is fenced off: its `advanceOffset` fails.
     */
    readonly resetOffset: (projectionName: string, value: bigint) => Effect.Effect<number, InvalidInput | StoreError>

    /** Deletes every offset of the projection, all or none, and returns how many there were. */
    readonly deleteOffsets: (projectionName: string) => Effect.Effect<number, InvalidInput | StoreError>

    /**
     * Emits once it listens, and then whenever offsets may have changed, in any process: a hint to look at them.
     *
     * **Details**
     *
     * Several changes may be one element, and an element may come without a change. After a lost connection the stream emits
     * again, by the layer's reconnect schedule. It does not hear of programs that write to the table with SQL of their own.
     */
    readonly changes: Stream.Stream<void, StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>
  }
>()("effect-strata/OffsetStore") {}

// Driver

/**
 * A backend's implementation of the store, on checked values. It fails with an error of the store's own or a bare `Reason`;
 * `fromDriver` does everything else.
 */
export interface Driver {
  readonly write: (offset: Offset) => Effect.Effect<void, Reason>
  readonly advance: (step: Step) => Effect.Effect<Offset, OffsetConflict | Reason>
  readonly get: (id: ProjectionId) => Effect.Effect<Option.Option<Offset>, Reason>
  readonly list: (selection: Selection) => Stream.Stream<Offset, Reason>
  readonly reset: (reset: Reset) => Effect.Effect<number, Reason>
  readonly remove: (projection: Projection) => Effect.Effect<number, Reason>
  /** Emits once it listens, and then after each change. `fromDriver` ends it with the scope. */
  readonly changes: Stream.Stream<void, Reason>
  readonly ping: Effect.Effect<void, Reason>
}

/**
 * Makes the store of a driver: it checks the arguments, turns each `Reason` into a `StoreError`, and adds spans, metrics
 * and the end with the scope. `backend` is the name of the backend in spans and metrics.
 *
 * **Gotchas**
 *
 * Call it after everything that the driver needs has been acquired: scopes end in the opposite order, and operations must
 * be refused before what they need is gone.
 */
export const fromDriver = (
  backend: string,
  driver: Driver
): Effect.Effect<OffsetStore["Service"], never, Scope.Scope> =>
  Effect.map(Operation.make("OffsetStore", backend), (operation) => {
    const advance = operation.fn("advanceOffset", Step, driver.advance)
    const list = operation.stream("listOffsets", Selection, driver.list)
    const reset = operation.fn("resetOffset", Reset, driver.reset)
    const remove = operation.fn("deleteOffsets", Projection, driver.remove)

    return OffsetStore.of({
      writeOffset: operation.fn("writeOffset", Offset, driver.write),
      advanceOffset: (id, { from, to }) => advance({ ...id, from, to }),
      getCurrentOffset: operation.fn("getCurrentOffset", ProjectionId, driver.get),
      listOffsets: (projectionName) => list(projectionName === undefined ? {} : { projectionName }),
      resetOffset: (projectionName, value) => reset({ projectionName, value }),
      deleteOffsets: (projectionName) => remove({ projectionName }),
      changes: operation.endless("changes", driver.changes),
      ping: operation.effect("ping", driver.ping)
    })
  })
