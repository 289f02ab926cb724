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
import { Context, Effect, Option, Schedule, Schema, type Stream } from "effect"
import { fromClock } from "./internal/FastPath.ts"
import { Identifier, Int64, ShardNumber } from "./internal/Fields.ts"
import { InvalidInput } from "./InvalidInput.ts"
import type { StateCodec } from "./StateCodec.ts"
import { CorruptRow, StoreError } from "./StoreError.ts"

// Model

export const PersistenceId = Identifier(255)

/** What the bytes of a state are: for a protobuf message its full name, or `google.protobuf.Any`. */
export const Manifest = Identifier(255)

/** How often an entity has changed. eGo counts from 1. */
export const VersionNumber = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/**
 * How large a payload can be. With its other columns a row has to fit in 16 MiB, the largest message that the Postgres
 * driver accepts: a longer one could be written, and not be read again.
 */
export const maxPayloadBytes = 16 * 1024 * 1024 - 4096

export const Payload = Schema.Uint8Array.check(
  Schema.makeFilter(({ length }) =>
    length > maxPayloadBytes ? `Expected at most ${maxPayloadBytes} bytes` : undefined
  )
)

/**
 * The state of an entity.
 *
 * `timestamp` is the time of the write in epoch nanoseconds, by `Clock` unless it is given. `shard` is for those who
 * distribute their entities: 0 unless it is given.
 */
export class DurableState extends Schema.Class<DurableState>("effect-strata/DurableStateStore/DurableState")({
  persistenceId: PersistenceId,
  versionNumber: VersionNumber,
  payload: Payload,
  manifest: Manifest,
  timestamp: Int64.pipe(Schema.withConstructorDefault(fromClock((clock) => clock.currentTimeNanosUnsafe()))),
  shard: ShardNumber.pipe(Schema.withConstructorDefault(Effect.succeed(0)))
}) {}

/** Whether these are the same version of the same state. When they were written does not matter. */
export const isSame = (a: DurableState, b: DurableState): boolean =>
  a.versionNumber === b.versionNumber &&
  a.manifest === b.manifest &&
  a.payload.length === b.payload.length &&
  a.payload.every((byte, index) => byte === b.payload[index])

/** A state to write, and what to do where the very same is stored already. */
export class Write extends Schema.Class<Write>("effect-strata/DurableStateStore/Write")({
  ...DurableState.fields,
  onDuplicate: Schema.optionalKey(Schema.Literals(["ignore", "fail"]))
}) {}

/** One entity. */
export class ById extends Schema.Class<ById>("effect-strata/DurableStateStore/ById")({
  persistenceId: PersistenceId
}) {}

/** Several entities. */
export class ByIds extends Schema.Class<ByIds>("effect-strata/DurableStateStore/ByIds")({
  persistenceIds: Schema.Array(PersistenceId)
}) {}

/** Which states to list. Everything given must hold. */
export class Selection extends Schema.Class<Selection>("effect-strata/DurableStateStore/Selection")({
  shard: Schema.optionalKey(ShardNumber),
  manifest: Schema.optionalKey(Manifest)
}) {}

// Errors

/** The entity has a newer state, or another one of the same version: somebody else wrote it. Nothing was written. */
export class StaleState extends Schema.TaggedError<StaleState>("effect-strata/DurableStateStore/StaleState")(
  "StaleState",
  {
    persistenceId: Schema.String,
    /** The version that was to be written. */
    attempted: Schema.BigInt,
    /** What is stored. */
    current: DurableState
  }
) {
  override get message(): string {
    return `"${this.persistenceId}" has version ${this.current.versionNumber} already, so version ${this.attempted} was not written`
  }
}

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
     * Writing the same again (version, payload and manifest) succeeds and changes nothing, so a write whose outcome is
     * unknown can be tried again; with `onDuplicate: "fail"` that is `StaleState` too, so that a writer who succeeds knows
     * that it was the one. Versions need not be consecutive. The error does not spoil the transaction it happens in.
     *
     * **Gotchas**
     *
     * eGo's own write is `overwriteState`, so it can go back.
     */
    readonly writeState: (
      state: (typeof DurableState)["~type.make.in"],
      options?: { readonly onDuplicate?: "ignore" | "fail" }
    ) => Effect.Effect<void, StaleState | InvalidInput | StoreError>

    /**
     * Stores the state, whatever was there before: afterwards the entity has exactly this one.
     *
     * **Gotchas**
     *
     * The last writer wins, and may bring back an old version: use `writeState`, unless that is what you want.
     */
    readonly overwriteState: (
      state: (typeof DurableState)["~type.make.in"]
    ) => Effect.Effect<void, InvalidInput | StoreError>

    /** The state of the entity, or `None` if it has none. */
    readonly getLatestState: (
      persistenceId: string
    ) => Effect.Effect<Option.Option<DurableState>, InvalidInput | StoreError>

    /**
     * The states of these entities as they are at one moment, in the order of the ids, each once. An entity that has none
     * is left out.
     */
    readonly getStates: (
      persistenceIds: ReadonlyArray<string>
    ) => Effect.Effect<ReadonlyArray<DurableState>, InvalidInput | StoreError>

    /**
     * Every state, or those of one shard, of one manifest or both. Each that exists throughout is listed exactly once.
     *
     * **Details**
     *
     * Read in pages with bounded memory, by number and by size; states written meanwhile may or may not appear, or appear
     * as they were before.
     *
     * **Gotchas**
     *
     * In the order of the ids as the backend sorts text: on Postgres that is the database's collation.
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
     * Its version is forgotten, too: a writer that was late finds nothing in its way any more.
     */
    readonly deleteState: (persistenceId: string) => Effect.Effect<boolean, InvalidInput | StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>
  }
>()("effect-strata/DurableStateStore") {}

// Values

/** The state of an entity as a value. `versionNumber` is 0n where the entity has none yet. */
export interface State<A> {
  readonly persistenceId: string
  readonly versionNumber: bigint
  readonly value: A
  readonly shard: number
}

/** What `typed` needs to know of the values. */
export interface TypedOptions<A, RD, RE> {
  /** How values become bytes. */
  readonly codec: StateCodec<A, RD, RE>
  /** The value of an entity that has no state yet. */
  readonly initial: (persistenceId: string) => A
  /** The shard of an entity that has no state yet: 0 unless given. */
  readonly shard?: (persistenceId: string) => number
  /** When `modify` tries again after a conflict: after some 5 milliseconds, then ever later, for 10 seconds. */
  readonly retry?: Schedule.Schedule<unknown>
}

/** States as values: see `typed`. */
export interface Typed<A, RD = never, RE = never> {
  /** The state of the entity, or the initial one. */
  readonly read: (persistenceId: string) => Effect.Effect<State<A>, InvalidInput | StoreError, RD>

  /** `writeState` of a value: it has to be newer than what is stored. */
  readonly write: (
    state: Omit<State<A>, "shard"> & { readonly shard?: number }
  ) => Effect.Effect<void, StaleState | InvalidInput | StoreError, RE>

  /**
   * Reads the state, applies the function and writes the result as the next version, which is returned. Of any number of
   * concurrent calls each builds on the one before: none is lost.
   *
   * **Details**
   *
   * Where somebody else has written in between, all of it is done again, by the schedule `retry`; once that has ended, the
   * conflict is the error. What the function fails with is passed on, and nothing is written.
   *
   * **Gotchas**
   *
   * The function may run several times: what it does besides should be harmless to repeat, or part of the same transaction.
   * What others do in between with `overwriteState` or `deleteState` has no newer version, and is not noticed.
   */
  readonly modify: <E = never, R = never>(
    persistenceId: string,
    f: (value: A) => A | Effect.Effect<A, E, R>
  ) => Effect.Effect<State<A>, E | StaleState | InvalidInput | StoreError, RD | RE | R>
}

/** Somebody else has written: as an error of its own, so that one of the caller's function is not mistaken for it. */
class Conflict {
  readonly error: StaleState
  constructor(error: StaleState) {
    this.error = error
  }
}

const store = "DurableStateStore"

const defaultRetry = Schedule.min([Schedule.exponential("5 millis"), Schedule.spaced("500 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "10 seconds" })
)

/**
 * The store as one of values. A value that does not encode is `InvalidInput`; a row that does not decode is a `CorruptRow`
 * that names the entity.
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
          // Two that do the same to the same state write the same bytes: only one of them has done it.
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
