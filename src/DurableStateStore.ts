/**
 * The latest state of each entity.
 *
 * One row per entity, in the table `states_store`, which eGo's durable state stores read and write too. A state is bytes
 * and a manifest that says what they are; `typed` reads and writes values instead. Writes inside
 * `Transactor.withTransaction` commit with whatever else the transaction does.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { DurableStateStore, StateCodec } from "effect-strata"
 *
 * class Account extends Schema.Class<Account>("Account")({ balance: Schema.Int }) {}
 *
 * export const program = Effect.gen(function* () {
 *   const accounts = yield* DurableStateStore.typed({
 *     codec: StateCodec.json(Account),
 *     initial: () => new Account({ balance: 0 })
 *   })
 *   yield* accounts.modify("account-42", ({ balance }) => new Account({ balance: balance + 100 }))
 *   return yield* accounts.read("account-42")
 * })
 * ```
 */
import { Context, Effect, Option, Schedule, type Scope, type Stream } from "effect"
import type { StaleState } from "./DurableState.ts"
import { ById, ByIds, DurableState, OverwriteAndGet, Selection, Write } from "./DurableState.ts"
import * as Operation from "./internal/Operation.ts"
import { InvalidInput } from "./InvalidInput.ts"
import type { StateCodec } from "./StateCodec.ts"
import { CorruptRow, type Reason, StoreError } from "./StoreError.ts"

export {
  DurableState,
  Manifest,
  Payload,
  PersistenceId,
  StaleState,
  VersionNumber,
  maxPayloadBytes
} from "./DurableState.ts"

// Service

/** The states of entities: see the module's documentation. */
export class DurableStateStore extends Context.Service<
  DurableStateStore,
  {
    /**
     * Stores the state if it is newer than what is stored, else fails with `StaleState`: an entity never goes back. Of any
     * number of concurrent writers of one version with different content, exactly one succeeds.
     *
     * **Details**
     *
     * Writing the same state again (version, payload and manifest) succeeds and changes nothing, so a write whose outcome is
     * unknown can be tried again. With `onDuplicate: "fail"` the same state is `StaleState` too, so that a successful writer
     * knows that the state is its own. Versions need not be consecutive. After a `StaleState` the transaction can go on.
     *
     * **Gotchas**
     *
     * eGo writes as `overwriteState` does, so a state that eGo writes can be older than the stored one.
     */
    readonly writeState: (
      state: (typeof DurableState)["~type.make.in"],
      options?: { readonly onDuplicate?: "ignore" | "fail" }
    ) => Effect.Effect<void, StaleState | InvalidInput | StoreError>

    /**
     * Stores the state and replaces what was there: afterwards the entity has exactly this state.
     *
     * **Gotchas**
     *
     * The last writer wins, and may bring back an old version. Use `writeState` where a state must not go back.
     */
    readonly overwriteState: (
      state: (typeof DurableState)["~type.make.in"]
    ) => Effect.Effect<void, InvalidInput | StoreError>

    /** The state of the entity, or `None` if it has none. */
    readonly getLatestState: (
      persistenceId: string
    ) => Effect.Effect<Option.Option<DurableState>, InvalidInput | StoreError>

    /**
     * The states of these entities as they are at one moment, in the order of the ids, each once. An entity without a state
     * is left out.
     */
    readonly getStates: (
      persistenceIds: ReadonlyArray<string>
    ) => Effect.Effect<ReadonlyArray<DurableState>, InvalidInput | StoreError>

    /**
     * Stores the state as `overwriteState` does, and returns the states of these entities as `getStates` does: in one statement
     * of the backend. The states are those of one moment before the write.
     */
    readonly overwriteAndGet: (
      state: (typeof DurableState)["~type.make.in"],
      persistenceIds: ReadonlyArray<string>
    ) => Effect.Effect<ReadonlyArray<DurableState>, InvalidInput | StoreError>

    /**
     * Every state, or those of one shard, of one manifest or both. A state that exists throughout is listed exactly once.
     *
     * **Details**
     *
     * The stream reads in pages with bounded memory, by number and by size. States that are written meanwhile may appear as
     * they were before, as they are now, or not at all.
     *
     * **Gotchas**
     *
     * The order is that of the ids as the backend sorts text: on Postgres by the database's collation.
     */
    readonly listStates: (selection?: {
      readonly shard?: number
      readonly manifest?: string
    }) => Stream.Stream<DurableState, InvalidInput | StoreError>

    /**
     * Deletes the state of the entity, and returns whether there was one.
     *
     * **Gotchas**
     *
     * The version is forgotten, too: a late writer of an old version succeeds afterwards.
     */
    readonly deleteState: (persistenceId: string) => Effect.Effect<boolean, InvalidInput | StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>
  }
>()("effect-strata/DurableStateStore") {}

// Driver

/**
 * A backend's implementation of the store, on checked values. It fails with an error of the store's own or a bare `Reason`;
 * `fromDriver` does everything else.
 */
export interface Driver {
  readonly write: (state: Write) => Effect.Effect<void, StaleState | Reason>
  readonly overwrite: (state: DurableState) => Effect.Effect<void, Reason>
  readonly get: (id: ById) => Effect.Effect<Option.Option<DurableState>, Reason>
  readonly getAll: (ids: ByIds) => Effect.Effect<ReadonlyArray<DurableState>, Reason>
  readonly overwriteAndGet: (both: OverwriteAndGet) => Effect.Effect<ReadonlyArray<DurableState>, Reason>
  readonly list: (selection: Selection) => Stream.Stream<DurableState, Reason>
  readonly remove: (id: ById) => Effect.Effect<boolean, Reason>
  readonly ping: Effect.Effect<void, Reason>
}

const store = "DurableStateStore"

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
): Effect.Effect<DurableStateStore["Service"], never, Scope.Scope> =>
  Effect.map(Operation.make(store, backend), (operation) => {
    const write = operation.fn("writeState", Write, driver.write)
    const get = operation.fn("getLatestState", ById, driver.get)
    const getAll = operation.fn("getStates", ByIds, driver.getAll)
    const overwriteAndGet = operation.fn("overwriteAndGet", OverwriteAndGet, driver.overwriteAndGet)
    const list = operation.stream("listStates", Selection, driver.list)
    const remove = operation.fn("deleteState", ById, driver.remove)

    return DurableStateStore.of({
      writeState: (state, options) => write({ ...state, ...options }),
      overwriteState: operation.fn("overwriteState", DurableState, driver.overwrite),
      getLatestState: (persistenceId) => get({ persistenceId }),
      getStates: (persistenceIds) => getAll({ persistenceIds }),
      overwriteAndGet: (state, persistenceIds) => overwriteAndGet({ ...state, persistenceIds }),
      listStates: (selection = {}) => list(selection),
      deleteState: (persistenceId) => remove({ persistenceId }),
      ping: operation.effect("ping", driver.ping)
    })
  })

// Values

/** The state of an entity as a value. `versionNumber` is 0n for an entity without a state. */
export interface State<A> {
  readonly persistenceId: string
  readonly versionNumber: bigint
  readonly value: A
  readonly shard: number
}

/** What `typed` needs to know about the values. */
export interface TypedOptions<A, RD, RE> {
  /** How values become bytes. */
  readonly codec: StateCodec<A, RD, RE>
  /** The value of an entity that has no state yet. */
  readonly initial: (persistenceId: string) => A
  /** The shard of an entity that has no state yet: 0 unless given. */
  readonly shard?: (persistenceId: string) => number
  /**
   * When `modify` tries again after a conflict. Without it, `modify` tries again after about 5 milliseconds, then after
   * delays that double up to 500 milliseconds, for 10 seconds.
   */
  readonly retry?: Schedule.Schedule<unknown>
}

/** States as values: see `typed`. */
export interface Typed<A, RD = never, RE = never> {
  /** The state of the entity, or the initial one. */
  readonly read: (persistenceId: string) => Effect.Effect<State<A>, InvalidInput | StoreError, RD>

  /** `writeState` with a value: its version has to be higher than the stored one. */
  readonly write: (
    state: Omit<State<A>, "shard"> & { readonly shard?: number }
  ) => Effect.Effect<void, StaleState | InvalidInput | StoreError, RE>

  /**
   * Reads the state, applies the function, writes the result as the next version, and returns it. Each of any number of
   * concurrent calls builds on the result of the one before: no change is lost.
   *
   * **Details**
   *
   * Where another writer came in between, `modify` reads, applies and writes again, by the schedule `retry`. Once the
   * schedule has ended, the conflict is the error. Where the function fails, nothing is written and its error is passed on.
   *
   * **Gotchas**
   *
   * The function may run several times: its other effects should be harmless to repeat, or part of the same transaction.
   * `modify` does not notice an `overwriteState` or `deleteState` in between that leaves no newer version.
   */
  readonly modify: <E = never, R = never>(
    persistenceId: string,
    f: (value: A) => A | Effect.Effect<A, E, R>
  ) => Effect.Effect<State<A>, E | StaleState | InvalidInput | StoreError, RD | RE | R>
}

/** A conflict of `modify` itself, as an error of its own, so that a `StaleState` of the caller's function is not retried. */
class Conflict {
  readonly error: StaleState
  constructor(error: StaleState) {
    this.error = error
  }
}

const defaultRetry = Schedule.min([Schedule.exponential("5 millis"), Schedule.spaced("500 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "10 seconds" })
)

/**
 * The store as a store of values. A value that does not encode is `InvalidInput`; a row that does not decode is a
 * `CorruptRow` that names the entity.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { DurableStateStore, StateCodec } from "effect-strata"
 *
 * class Account extends Schema.Class<Account>("Account")({ owner: Schema.String, balance: Schema.Int }) {}
 *
 * class Overdrawn extends Schema.TaggedError<Overdrawn>("Overdrawn")("Overdrawn", { missing: Schema.Int }) {}
 *
 * export const withdraw = Effect.fn(function* (account: string, amount: number) {
 *   const accounts = yield* DurableStateStore.typed({
 *     codec: StateCodec.json(Account),
 *     initial: (owner) => new Account({ owner, balance: 0 })
 *   })
 *   return yield* accounts.modify(account, ({ balance, owner }) =>
 *     balance < amount
 *       ? Effect.fail(new Overdrawn({ missing: amount - balance }))
 *       : Effect.succeed(new Account({ owner, balance: balance - amount }))
 *   )
 * })
 * ```
 */
export const typed = <A, RD, RE>(
  options: TypedOptions<A, RD, RE>
): Effect.Effect<Typed<A, RD, RE>, never, DurableStateStore> =>
  Effect.map(DurableStateStore, (states) => {
    const { codec, initial, retry = defaultRetry, shard: shardOf = () => 0 } = options

    const read = (operation: string, persistenceId: string) =>
      Effect.flatMap(
        states.getLatestState(persistenceId),
        Option.match({
          onNone: () =>
            Effect.sync(() => ({
              persistenceId,
              versionNumber: 0n,
              value: initial(persistenceId),
              shard: shardOf(persistenceId)
            })),
          onSome: (state) =>
            Effect.mapBoth(codec.decode(state), {
              onSuccess: (value) => ({ persistenceId, versionNumber: state.versionNumber, value, shard: state.shard }),
              onFailure: (cause) => {
                const message = `the state of "${persistenceId}" does not decode: ${cause.message}; mend or delete it`
                const reason = new CorruptRow({ table: "states_store", key: persistenceId, message, cause })
                return new StoreError({ store, operation, reason })
              }
            })
        })
      )

    const encode = (operation: string, value: A) =>
      Effect.mapError(
        codec.encode(value),
        ({ message }) => new InvalidInput({ store, operation, issues: [{ field: "value", message }] })
      )

    return {
      read: (persistenceId) => read("read", persistenceId),
      write: ({ persistenceId, shard = shardOf(persistenceId), value, versionNumber }) =>
        Effect.flatMap(encode("write", value), (encoded) =>
          states.writeState({ persistenceId, versionNumber, shard, ...encoded })
        ),
      modify: (persistenceId, f) =>
        Effect.gen(function* () {
          const { shard, value: before, versionNumber } = yield* read("modify", persistenceId)
          const result = f(before)
          const value = Effect.isEffect(result) ? yield* result : result
          const next = { persistenceId, versionNumber: versionNumber + 1n, shard }
          const encoded = yield* encode("modify", value)
          // Two calls that make the same change write the same bytes. With "fail" only one of them succeeds.
          yield* Effect.mapError(states.writeState({ ...next, ...encoded }, { onDuplicate: "fail" }), (error) =>
            error._tag === "StaleState" ? new Conflict(error) : error
          )
          return { ...next, value }
        }).pipe(
          Effect.retry({ schedule: retry, while: (error) => error instanceof Conflict }),
          Effect.mapError((error) => (error instanceof Conflict ? error.error : error))
        )
    }
  })
