/** State from events on demand: of a query, or of one aggregate with snapshots. */
import { Effect, Option, Schema, Stream } from "effect"
import { DurableStateStore } from "./DurableStateStore.ts"
import {
  type DuplicateEvent,
  EventStore,
  type NewEvent,
  type Query,
  type StoredEvent,
  type VersionConflict
} from "./EventStore.ts"
import { check } from "./internal/Arguments.ts"
import { Identifier } from "./internal/Fields.ts"
import type { InvalidInput } from "./InvalidInput.ts"
import type { StateCodec } from "./StateCodec.ts"
import type { StoreError } from "./StoreError.ts"
import { Transactor } from "./Transactor.ts"

/**
 * What the events of a query come to, in order of their versions, with bounded memory.
 *
 * ```ts
 * import { Projection } from "effect-strata"
 *
 * export const payments = Projection.fold({ eventTypes: ["Paid"] }, 0, (count) => count + 1)
 * ```
 */
export const fold = <S>(query: (typeof Query)["~type.make.in"], initial: S, f: (state: S, event: StoredEvent) => S) =>
  EventStore.use((events) => Stream.runFold(events.read(query), () => initial, f))

/** The state of one aggregate, and the version of the last event in it: 0n where it has none. */
export interface Loaded<S> {
  readonly state: S
  readonly version: bigint
}

/** An event of the aggregate that is decided about. */
export type Decided = Omit<(typeof NewEvent)["~type.make.in"], "aggregateId">

export interface EntityOptions<S, RD, RE> {
  /** Snapshots are the states `name/aggregateId`: together at most 255 characters. */
  readonly name: string
  readonly codec: StateCodec<S, RD, RE>
  readonly initial: (aggregateId: string) => S
  readonly apply: (state: S, event: StoredEvent) => S
  /** After how many events a snapshot is taken: never unless given. */
  readonly snapshotEvery?: number
}

/** Aggregates of one kind: see `entity`. */
export interface Entity<S, RD = never, RE = never> {
  /** The state as of the last event. */
  readonly load: (aggregateId: string) => Effect.Effect<Loaded<S>, InvalidInput | StoreError, RD>

  /**
   * Loads the state, lets `decide` say what happens, and appends that if nobody else has appended to the aggregate in
   * between, else it fails with `VersionConflict`: to be retried, if what was decided may be decided again. No events are
   * fine, too. Returns the state that comes of them.
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

const Options = Schema.Struct({
  name: Identifier(255),
  snapshotEvery: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)))
})

/**
 * Aggregates whose state follows from their events.
 *
 * **Details**
 *
 * With `snapshotEvery`, the state is stored in the `DurableStateStore` after so many events, and loading reads only those
 * after it. A snapshot is only ever a shortcut: one that does not decode any more is not looked at, and one that could not
 * be written is left out. Change the codec's manifest when `apply` changes what it makes of old events.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Projection, StateCodec } from "effect-strata"
 *
 * class Account extends Schema.Class<Account>("Account")({ balance: Schema.Int }) {}
 *
 * class Overdrawn extends Schema.TaggedError<Overdrawn>("Overdrawn")("Overdrawn", {}) {}
 *
 * export const withdraw = Effect.fn(function* (account: string, amount: number) {
 *   const accounts = yield* Projection.entity({
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
export const entity = Effect.fnUntraced(function* <S, RD = never, RE = never>(options: EntityOptions<S, RD, RE>) {
  const { apply, codec, initial, name, snapshotEvery } = options
  yield* check(Options, "Projection", "entity", snapshotEvery === undefined ? { name } : { name, snapshotEvery })
  const log = yield* EventStore
  const states = yield* DurableStateStore
  const { withTransaction } = yield* Transactor
  const idOf = (aggregateId: string) => `${name}/${aggregateId}`

  /** The last snapshot that can be read, and where it was taken. */
  const snapshot = Effect.fnUntraced(function* (aggregateId: string) {
    const none = () => ({ state: initial(aggregateId), version: 0n })
    if (snapshotEvery === undefined) return none()
    const stored = yield* states.getLatestState(idOf(aggregateId))
    if (Option.isNone(stored)) return none()
    const decoded = yield* Effect.option(codec.decode(stored.value))
    return Option.match(decoded, {
      onNone: none,
      onSome: (state) => ({ state, version: stored.value.versionNumber })
    })
  })

  const loadAll = Effect.fnUntraced(function* (aggregateId: string) {
    const base = yield* snapshot(aggregateId)
    const events = yield* log.loadByAggregate(aggregateId, base.version)
    return { base, events, state: events.reduce(apply, base.state), version: events.at(-1)?.version ?? base.version }
  })

  /** In a transaction of its own, so that its failure is not that of the caller's. */
  const keep = (aggregateId: string, { state, version }: Loaded<S>) =>
    Effect.flatMap(codec.encode(state), (encoded) =>
      states.writeState({ persistenceId: idOf(aggregateId), versionNumber: version, ...encoded })
    ).pipe(
      withTransaction,
      Effect.catchTag("StaleState", () => Effect.void),
      Effect.ignore({ log: "Debug" })
    )

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
        yield* keep(aggregateId, next)
      }
      return { ...next, events }
    })
  }
  return self
})
