/** The stores in memory: for tests, prototypes, and data that may end with the process. */
import { Effect, Layer } from "effect"
import type * as States from "../DurableStateStore.ts"
import type * as Events from "../EventStore.ts"
import type * as Offsets from "../OffsetStore.ts"
import type * as Spools from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"
import * as DurableStateStore from "./DurableStateStore.ts"
import * as EventStore from "./EventStore.ts"
import * as MemoryDatabase from "./MemoryDatabase.ts"
import * as OffsetStore from "./OffsetStore.ts"
import * as SpoolStore from "./SpoolStore.ts"

export * as DurableStateStore from "./DurableStateStore.ts"
export * as EventStore from "./EventStore.ts"
export * as MemoryDatabase from "./MemoryDatabase.ts"
export * as OffsetStore from "./OffsetStore.ts"
export * as SpoolStore from "./SpoolStore.ts"

/** What an application can set of the memory backend. */
export interface Options {
  /**
   * `"bigint"` gives integers beyond 2^53 in events and payloads as `bigint`, and takes them so: see the option of the same
   * name on Postgres.
   */
  readonly largeIntegers?: "bigint"
  /** `"never"` leaves `traceparent` out of the metadata of events: see the option of the same name on Postgres. */
  readonly traceparent?: "never"
}

/** What every backend provides. */
export type Stores = Events.EventStore | Offsets.OffsetStore | Spools.SpoolStore | States.DurableStateStore | Transactor

const layerTransactor = Layer.effect(
  Transactor,
  MemoryDatabase.MemoryDatabase.use(({ transactor }) => Effect.succeed(transactor))
)

/**
 * The stores on the database that they are given. A program that uses two databases builds them twice: layers are remembered by
 * their value, so without `fresh` the second one would get the stores of the first.
 */
const layerStores: Layer.Layer<Stores, never, MemoryDatabase.MemoryDatabase> = Layer.fresh(
  Layer.mergeAll(layerTransactor, DurableStateStore.layer, EventStore.layer, OffsetStore.layer, SpoolStore.layer)
)

/**
 * Every store on an empty database of its own, and that database, to inject faults.
 *
 * **Gotchas**
 *
 * Layers are shared: all parts of a program that are given this value use one database. `Layer.fresh(Memory.layer)` is
 * another one.
 */
export const layer: Layer.Layer<Stores | MemoryDatabase.MemoryDatabase> = Layer.provideMerge(
  layerStores,
  MemoryDatabase.layer
)

/** `layer` with options. Each call gives another layer, so another database. */
export const layerWith = (options: Options): Layer.Layer<Stores | MemoryDatabase.MemoryDatabase> =>
  Layer.unwrap(Effect.map(MemoryDatabase.make, (database) => layerShared(database, options)))

/**
 * Every store on a database that you hold, so that records outlive the layer: build it again and they are still there.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { OffsetStore } from "effect-strata"
 * import * as Memory from "effect-strata/memory"
 *
 * export const restarted = Effect.gen(function* () {
 *   const database = yield* Memory.MemoryDatabase.make
 *   const offset = { projectionName: "accounts", shardNumber: 0, value: 15n }
 *   yield* OffsetStore.OffsetStore.use((offsets) => offsets.writeOffset(offset)).pipe(
 *     Effect.provide(Memory.layerShared(database))
 *   )
 *   return yield* OffsetStore.OffsetStore.use((offsets) => offsets.getCurrentOffset(offset)).pipe(
 *     Effect.provide(Memory.layerShared(database))
 *   )
 * })
 * ```
 */
export const layerShared = (
  database: MemoryDatabase.MemoryDatabase["Service"],
  options: Options = {}
): Layer.Layer<Stores | MemoryDatabase.MemoryDatabase> =>
  Layer.provideMerge(
    layerStores,
    Layer.succeed(MemoryDatabase.MemoryDatabase, {
      ...database,
      largeIntegers: options.largeIntegers ?? "fail",
      traceparent: options.traceparent
    })
  )
