/**
 * Aggregates whose state follows from their events: loaded, decided upon, and appended to if no other append was faster.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Entity, StateCodec } from "effect-strata"
 *
 * class Account extends Schema.Class<Account>("Account")({ balance: Schema.Int }) {}
 *
 * class Overdrawn extends Schema.TaggedError<Overdrawn>("Overdrawn")("Overdrawn", {}) {}
 *
 * export const withdraw = Effect.fn(function* (account: string, amount: number) {
 *   const accounts = yield* Entity.make({
 *     name: "account",
 *     codec: StateCodec.json(Account),
 *     initial: () => new Account({ balance: 0 }),
 *     apply: ({ balance }, { data }) => new Account({ balance: balance + Number(data) }),
 *     snapshotEvery: 100
 *   })
 *   return yield* accounts
 *     .append(account, ({ balance }) =>
 *       balance < amount ? Effect.fail(new Overdrawn()) : Effect.succeed([{ eventType: "Paid", data: -amount }])
 *     )
 *     .pipe(Effect.retry({ while: ({ _tag }) => _tag === "VersionConflict" }))
 * })
 * ```
 */
import { Effect, Option, Schema } from "effect"
import { DurableStateStore } from "./DurableStateStore.ts"
import { type DuplicateEvent, EventStore, type NewEvent, type StoredEvent, type VersionConflict } from "./EventStore.ts"
import { check } from "./internal/Arguments.ts"
import { Identifier } from "./internal/Fields.ts"
import type { InvalidInput } from "./InvalidInput.ts"
import type { StateCodec } from "./StateCodec.ts"
import type { StoreError } from "./StoreError.ts"
import { Transactor } from "./Transactor.ts"

/** The state of one aggregate, and the version of the last event in it: 0n where the aggregate has none. */
export interface Loaded<S> {
  readonly state: S
  readonly version: bigint
}

/** An event of the aggregate that is decided upon. */
export type Decided = Omit<(typeof NewEvent)["~type.make.in"], "aggregateId">

export interface Options<S, RD, RE> {
  /** The ids of the snapshots' states are `name/aggregateId`: together at most 255 characters. */
  readonly name: string
  readonly codec: StateCodec<S, RD, RE>
  readonly initial: (aggregateId: string) => S
  readonly apply: (state: S, event: StoredEvent) => S
  /** After how many events a snapshot is taken: never unless given. */
  readonly snapshotEvery?: number
}

/** Aggregates of one kind: see `make`. */
export interface Entity<S, RD = never, RE = never> {
  /** The state as of the last event. */
  readonly load: (aggregateId: string) => Effect.Effect<Loaded<S>, InvalidInput | StoreError, RD>

  /**
   * Loads the state, lets `decide` say what happens, and appends those events if nobody else has appended to the aggregate in
   * between. Returns the state that comes of them.
   *
   * Otherwise it fails with `VersionConflict`: then it can be retried, and decides anew. `decide` may return no event.
   */
  readonly append: <E = never, R = never>(
    aggregateId: string,
    decide: (state: S) => ReadonlyArray<Decided> | Effect.Effect<ReadonlyArray<Decided>, E, R>
  ) => Effect.Effect<
    Loaded<S> & { readonly events: ReadonlyArray<StoredEvent> },
    E | VersionConflict | DuplicateEvent | InvalidInput | StoreError,
    R | RD | RE
  >
}

const Settings = Schema.Struct({
  name: Identifier(255),
  snapshotEvery: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)))
})

/** The snapshots of one kind of aggregates: there are none without `snapshotEvery`. */
const makeSnapshots = Effect.fnUntraced(function* <S, RD, RE>(options: Options<S, RD, RE>) {
  const { codec, initial, name, snapshotEvery } = options
  const states = yield* DurableStateStore
  const { withTransaction } = yield* Transactor
  const idOf = (aggregateId: string) => `${name}/${aggregateId}`

  return {
    /** The last snapshot that decodes, or the state before the first event. */
    load: Effect.fnUntraced(function* (aggregateId: string) {
      const none = (): Loaded<S> => ({ state: initial(aggregateId), version: 0n })
      if (snapshotEvery === undefined) return none()
      const stored = yield* states.getLatestState(idOf(aggregateId))
      if (Option.isNone(stored)) return none()
      const decoded = yield* Effect.option(codec.decode(stored.value))
      return Option.match(decoded, {
        onNone: none,
        onSome: (state): Loaded<S> => ({ state, version: stored.value.versionNumber })
      })
    }),

    /** Takes a snapshot, in a transaction of its own: its failure is no failure of the caller's transaction. */
    take: (aggregateId: string, { state, version }: Loaded<S>) =>
      Effect.flatMap(codec.encode(state), (encoded) =>
        states.writeState({ persistenceId: idOf(aggregateId), versionNumber: version, ...encoded })
      ).pipe(
        withTransaction,
        Effect.catchTag("StaleState", () => Effect.void),
        Effect.ignore({ log: "Debug" })
      )
  }
})

/**
 * Aggregates of one kind, whose state follows from their events.
 *
 * **Details**
 *
 * With `snapshotEvery`, the state is stored in the `DurableStateStore` after so many events, and loading reads only the
 * events after it. A snapshot is only a shortcut: one that does not decode any more is not used, and one that cannot be
 * written is left out. Change the codec's manifest when `apply` changes what it makes of old events.
 */
export const make = Effect.fnUntraced(function* <S, RD = never, RE = never>(options: Options<S, RD, RE>) {
  const { apply, name, snapshotEvery } = options
  yield* check(Settings, "Entity", "make", snapshotEvery === undefined ? { name } : { name, snapshotEvery })
  const log = yield* EventStore
  const snapshots = yield* makeSnapshots(options)

  const loadAll = Effect.fnUntraced(function* (aggregateId: string) {
    const base = yield* snapshots.load(aggregateId)
    const events = yield* log.loadByAggregate(aggregateId, base.version)
    return { events, state: events.reduce(apply, base.state), version: events.at(-1)?.version ?? base.version }
  })

  const self: Entity<S, RD, RE> = {
    load: (aggregateId) => Effect.map(loadAll(aggregateId), ({ state, version }) => ({ state, version })),
    append: Effect.fnUntraced(function* (aggregateId, decide) {
      const { events: before, state, version } = yield* loadAll(aggregateId)
      const result = decide(state)
      const decided = Effect.isEffect(result) ? yield* result : result
      const events = yield* log.append(
        decided.map((event) => Object.assign({ aggregateId }, event)),
        { expected: version === 0n ? "none" : version }
      )
      const next = { state: events.reduce(apply, state), version: events.at(-1)?.version ?? version }
      if (snapshotEvery !== undefined && events.length > 0 && before.length + events.length >= snapshotEvery) {
        yield* snapshots.take(aggregateId, next)
      }
      return { ...next, events }
    })
  }
  return self
})
