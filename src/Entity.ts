/**
 * Aggregates that take commands: their state follows from their events, and a command decides which events come next.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Entity, EventStore } from "effect-strata"
 *
 * class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
 * class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { amount: Schema.Int }) {}
 * class Overdrawn extends Schema.TaggedError<Overdrawn>("Overdrawn")("Overdrawn", { balance: Schema.Int }) {}
 *
 * const Account = Entity.make({
 *   name: "account",
 *   events: EventStore.typed({ events: [Deposited, Withdrawn] }),
 *   initial: () => 0,
 *   apply: {
 *     Deposited: (balance, { event }) => balance + event.amount,
 *     Withdrawn: (balance, { event }) => balance - event.amount
 *   }
 * })
 *
 * export const withdraw = Effect.fn(function* (account: string, amount: number, key: string) {
 *   const accounts = yield* Account
 *   const { state } = yield* accounts.execute(
 *     account,
 *     (balance) => (balance < amount ? Effect.fail(new Overdrawn({ balance })) : new Withdrawn({ amount })),
 *     { key }
 *   )
 *   return state
 * })
 * ```
 */
import { Effect, Option, Predicate, type Schedule, Schema, Stream } from "effect"
import { DurableStateStore } from "./DurableStateStore.ts"
import { type DecideFailed, decided, defaultRetry, execute, executedBefore, LostRace } from "./events/Executing.ts"
import { notFunctions, wrongTags } from "./events/FunctionIssues.ts"
import type {
  DuplicateEvent,
  LogReplaced,
  NewTypedEvent,
  Tagged,
  TypedEvent,
  TypedView,
  VersionConflict
} from "./EventStore.ts"
import { check } from "./internal/Arguments.ts"
import { Identifier } from "./internal/Fields.ts"
import { derivedId } from "./internal/Ids.ts"
import { named } from "./internal/Named.ts"
import { InvalidInput, type Issue } from "./InvalidInput.ts"
import type { StateCodec } from "./StateCodec.ts"
import { StoreError } from "./StoreError.ts"
import { Transactor } from "./Transactor.ts"

// Model

/** The state of one aggregate, and the version of the last event in it: 0n where the aggregate has none. */
export interface Loaded<S> {
  readonly state: S
  readonly version: bigint
}

/** An event of an aggregate, and the state after it. */
export interface Step<S, Event> {
  readonly event: TypedEvent<Event>
  readonly state: S
}

/** What came of a command. */
export interface Executed<S, Event> extends Loaded<S> {
  /** The events of the command, as stored: none where it has decided upon none. */
  readonly events: ReadonlyArray<TypedEvent<Event>>
}

/** What a command decides: the event, or the events, that come next. An empty array says that nothing happens. */
export type Decided<Event, E, R> = Event | ReadonlyArray<Event> | Effect.Effect<Event | ReadonlyArray<Event>, E, R>

/** What `execute` of an entity takes beside the command. */
export interface ExecuteOptions {
  /**
   * Names this execution, so that it takes effect once: a call with the same key gives the events of the first success,
   * however often and from wherever it is made. What a client sends with a request that it may repeat is a good key. Put the
   * kind of the command before it: commands of one aggregate that have the same key are one command.
   */
  readonly key?: string
  /** When a command that has lost a race is executed again, instead of as the entity says. */
  readonly retry?: Schedule.Schedule<unknown>
  /** The metadata of the events. */
  readonly metadata?: Schema.JsonObject
}

export interface Snapshots<S, RD, RE> {
  /** Encodes the states. Change its manifest when `apply` changes what it makes of old events. */
  readonly codec: StateCodec<S, RD, RE>
  /** After how many events a snapshot is taken. */
  readonly every: number
}

interface Event {
  readonly _tag: string
}

/** The state after one more event. */
type Apply<S, E> = (state: S, event: TypedEvent<E>) => S

/** A function for each class of a view, by its tag. */
type ApplyByTag<S, E extends Event> = {
  readonly [Tag in E["_tag"]]: Apply<S, Extract<E, { readonly _tag: Tag }>>
}

/** What aggregates of one kind are: their name, their events, and the state that follows from these. */
export interface Options<S, Class extends Tagged, Other extends Event, R, Id, RD, RE, Tag extends string = string> {
  /** What these aggregates are called. The ids of snapshots are `name/aggregateId`: together at most 255 characters. */
  readonly name: string
  /** The events of the aggregates. */
  readonly events: TypedView<Class, Other, R, Id, Tag>
  /** The state before the first event. */
  readonly initial: (aggregateId: string) => S
  /** The state after one more event: a function for each class of the view, by its tag, or one for all events. */
  readonly apply: ApplyByTag<S, Class["Type"] | Other> | Apply<S, Class["Type"] | Other>
  /** Stores states, so that not every event has to be read each time: never unless given. */
  readonly snapshots?: Snapshots<S, RD, RE>
  /**
   * When a command that has lost a race is executed again: 10 times, after some 2 milliseconds at first and twice as long each
   * time, unless given.
   */
  readonly retry?: Schedule.Schedule<unknown>
}

/** Aggregates of one kind: see `make`. `R` are the services that their schemas and codec need. */
export interface Entity<S, Class extends Tagged, Other = never, R = never> {
  /** What the aggregates are called. */
  readonly name: string

  /** The state as of the last event. */
  readonly load: (aggregateId: string) => Effect.Effect<Loaded<S>, InvalidInput | StoreError, R>

  /**
   * Each event of an aggregate with the state after it, from the first event on and without snapshots: how the state came
   * about. The console shows it.
   */
  readonly history: (
    aggregateId: string
  ) => Stream.Stream<Step<S, Class["Type"] | Other>, InvalidInput | LogReplaced | StoreError, R>

  /**
   * Executes a command: loads the state, lets `decide` say what happens, and appends those events, if no other append to the
   * aggregate came in between. Otherwise it begins again, by the schedule `retry`.
   *
   * **Details**
   *
   * With a `key`, the events get ids that follow from the entity, the aggregate and the key. A call that finds them gives them
   * back, with the state of now, and does not call `decide`: it may have been made at the same time, in another process, or
   * years later. A failure of `decide`, and a decision without events, leave nothing behind: the next call decides anew.
   *
   * In a transaction of the caller it is a part of that: what the caller writes, with the stores or with SQL of its own, commits
   * together with the events. After a lost race the command alone is executed again there, on what others have committed
   * meanwhile; what `decide` itself had written is undone before that. This is right where the caller's own writes do not matter
   * to it: where none of them follows from something that the caller had read, and that others may have changed. Otherwise give
   * `retry: Schedule.recurs(0)`, and run the whole transaction again. What is to be written once for a key belongs into `decide`:
   * what the caller writes beside it is written by each call, also by one that finds the events of another.
   *
   * **Gotchas**
   *
   * `decide` may be called several times, each time on the state of then. What it does beside deciding can happen as often.
   */
  readonly execute: <E = never, R2 = never>(
    aggregateId: string,
    decide: (state: S) => Decided<Class["Type"], E, R2>,
    options?: ExecuteOptions
  ) => Effect.Effect<
    Executed<S, Class["Type"] | Other>,
    E | VersionConflict | DuplicateEvent | InvalidInput | StoreError,
    R | R2
  >
}

const Settings = Schema.Struct({
  name: Identifier(255),
  every: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)))
})

const Execution = Schema.Struct({ key: Schema.optionalKey(Identifier(255)) })

// Snapshots

/** The snapshots of one kind of aggregates. */
const makeSnapshots = Effect.fnUntraced(function* <S, RD, RE>(name: string, snapshots?: Snapshots<S, RD, RE>) {
  const states = yield* DurableStateStore
  const { withTransaction } = yield* Transactor
  const idOf = (aggregateId: string) => `${name}/${aggregateId}`

  return {
    /** The last snapshot that decodes, if there is one. */
    load: Effect.fnUntraced(function* (aggregateId: string) {
      if (snapshots === undefined) return Option.none<Loaded<S>>()
      const stored = yield* states.getLatestState(idOf(aggregateId))
      if (Option.isNone(stored)) return Option.none<Loaded<S>>()
      const decoded = yield* Effect.option(snapshots.codec.decode(stored.value))
      return Option.map(decoded, (state): Loaded<S> => ({ state, version: stored.value.versionNumber }))
    }),

    /** Takes a snapshot, if so many events are due for one. */
    take: Effect.fnUntraced(
      function* (aggregateId: string, { state, version }: Loaded<S>, eventsSinceLast: number) {
        if (snapshots === undefined || eventsSinceLast < snapshots.every) return
        const encoded = yield* snapshots.codec.encode(state)
        yield* states.writeState({ persistenceId: idOf(aggregateId), versionNumber: version, ...encoded })
      },
      // In a transaction of its own, so that its failure is none of the caller's transaction.
      withTransaction,
      Effect.catchTag("StaleState", () => Effect.void),
      Effect.ignore({ log: "Debug" })
    )
  }
})

// Commands that were executed already

/** The id of an event of a keyed command. */
const idOf = (name: string, aggregateId: string, key: string, index: number) =>
  derivedId(["effect-strata/Entity", name, aggregateId, key, String(index)])

// The entity

/** What an attempt to execute a command fails with, besides `StoreError` and lost races. */
type Ended<E> = DecideFailed<E> | VersionConflict | DuplicateEvent | InvalidInput

/** Fails with the error, as one of all that an attempt can fail with. */
const lost = <E>(
  error: LostRace<Ended<E>> | Ended<E> | StoreError
): Effect.Effect<never, LostRace<Ended<E>> | Ended<E> | StoreError> => Effect.fail(error)

/**
 * Functions by tags as one for all events. They are methods, whose parameters the compiler compares in both directions: the
 * types of `Options` have made sure that each gets the events that it takes.
 */
interface Applying<S> {
  apply(state: S, event: TypedEvent<Event>): S
}

type AnyApply<S> = Applying<S>["apply"] | Readonly<Record<string, Applying<S>["apply"]>>

const applyOf =
  <S>(apply: AnyApply<S>): Applying<S>["apply"] =>
  (state, event) => {
    const step = typeof apply === "function" ? apply : apply[event.event._tag]
    return step === undefined ? state : step(state, event)
  }

/** What is wrong with the functions: an event that none of them takes would leave the state as it is. */
const wrongFunctions = <S, Class extends Tagged, Other extends Event, R, Id, RD, RE, Tag extends string>(
  options: Options<S, Class, Other, R, Id, RD, RE, Tag>
): ReadonlyArray<Issue> => {
  const { apply, events, initial } = options
  const ofApply =
    Predicate.isObject(apply) && typeof apply !== "function"
      ? wrongTags("apply", apply, events, false)
      : notFunctions(options, { apply })
  return [...notFunctions(options, { initial }), ...ofApply]
}

/**
 * Aggregates of one kind, whose state follows from their events.
 *
 * **Details**
 *
 * With `snapshots`, the state is stored in the `DurableStateStore` after so many events, and loading reads only the events
 * after it. A snapshot is only a shortcut: one that does not decode any more is not used, and one that cannot be written is
 * left out.
 */
export const make = Effect.fnUntraced(function* <
  S,
  Class extends Tagged,
  Other extends Event,
  R,
  Id,
  RD = never,
  RE = never,
  Tag extends string = string
>(options: Options<S, Class, Other, R, Id, RD, RE, Tag>) {
  const wrong = wrongFunctions(options)
  if (wrong.length > 0) return yield* new InvalidInput({ store: "Entity", operation: "make", issues: wrong })
  const apply = applyOf<S>(options.apply)
  const { initial, name, retry = defaultRetry } = options
  const every = options.snapshots?.every
  yield* check(Settings, "Entity", "make", every === undefined ? { name } : { name, every })
  const { inTransaction, withTransaction } = yield* Transactor
  const log = yield* options.events
  const snapshots = yield* makeSnapshots(name, options.snapshots)

  const load = Effect.fnUntraced(function* (aggregateId: string) {
    const snapshot = yield* snapshots.load(aggregateId)
    const base = Option.getOrElse(snapshot, (): Loaded<S> => ({ state: initial(aggregateId), version: 0n }))
    const events = yield* log.loadByAggregate(aggregateId, base.version, { atLeast: "latest" })
    return { events, state: events.reduce(apply, base.state), version: events.at(-1)?.version ?? base.version }
  })

  const executed = (aggregateId: string, key: string) =>
    executedBefore(log, (index) => idOf(name, aggregateId, key, index))

  const append = Effect.fnUntraced(function* (
    aggregateId: string,
    events: ReadonlyArray<Class["Type"]>,
    { version }: Loaded<S>,
    { key, metadata }: ExecuteOptions
  ) {
    const added = yield* Effect.forEach(events, (event, index) =>
      Effect.map(
        key === undefined ? Effect.succeed({}) : Effect.map(idOf(name, aggregateId, key, index), (id) => ({ id })),
        (identity): NewTypedEvent<Class["Type"]> => ({
          aggregateId,
          event,
          ...identity,
          ...(metadata === undefined ? {} : { metadata })
        })
      )
    )
    return yield* log.appendAll(added, { expected: version === 0n ? "none" : version }).pipe(
      Effect.catchTags({
        VersionConflict: (error) => Effect.fail(new LostRace(error)),
        DuplicateEvent: (error) => Effect.fail(new LostRace(error))
      })
    )
  })

  const once = Effect.fnUntraced(function* <E, R2>(
    aggregateId: string,
    decide: (state: S) => Decided<Class["Type"], E, R2>,
    options: ExecuteOptions
  ) {
    // The state is loaded first: then it cannot have events of this command that the search does not find.
    const { events: before, ...loaded } = yield* load(aggregateId)
    const { key } = options
    if (key !== undefined) {
      const found = yield* executed(aggregateId, key)
      const last = found.at(-1)
      if (last !== undefined) {
        const { state, version } = last.version > loaded.version ? yield* load(aggregateId) : loaded
        return { state, version, events: found }
      }
    }
    const added = yield* decided(decide(loaded.state))
    const events = yield* append(aggregateId, Array.isArray(added) ? added : [added], loaded, options)
    const next = { state: events.reduce(apply, loaded.state), version: events.at(-1)?.version ?? loaded.version }
    yield* snapshots.take(aggregateId, next, events.length === 0 ? 0 : before.length + events.length)
    return { ...next, events }
  })

  const attempt = Effect.fnUntraced(function* <E, R2>(
    aggregateId: string,
    decide: (state: S) => Decided<Class["Type"], E, R2>,
    options: ExecuteOptions
  ) {
    const { key } = options
    const deciding = once(aggregateId, decide, options)
    // In a transaction each attempt is a savepoint: what `decide` has written goes with it.
    const attempted = (yield* inTransaction) ? withTransaction(deciding) : deciding
    if (key === undefined) return yield* attempted
    // A failure may come from what the same command has written at the same time: the next attempt finds that.
    return yield* Effect.catch(attempted, (error) => {
      if (error instanceof LostRace || error instanceof StoreError) return lost<E>(error)
      return Effect.flatMap(executed(aggregateId, key), ({ length }) =>
        lost<E>(length === 0 ? error : new LostRace(error))
      )
    })
  })

  const self: Entity<S, Class, Other, R | RD | RE | Class["DecodingServices"] | Class["EncodingServices"]> = {
    name,
    history: (aggregateId) =>
      log.read({ aggregateIds: [aggregateId] }).pipe(
        Stream.mapAccum(
          () => initial(aggregateId),
          (before, event) => {
            const state = apply(before, event)
            return [state, [{ event, state }]] as const
          }
        ),
        Stream.mapError(named("Entity", "history"))
      ),
    load: (aggregateId) =>
      Effect.mapBoth(load(aggregateId), {
        onSuccess: ({ state, version }) => ({ state, version }),
        onFailure: named("Entity", "load")
      }),
    execute: (aggregateId, decide, options = {}) =>
      Effect.andThen(
        check(Execution, "Entity", "execute", options.key === undefined ? {} : { key: options.key }),
        execute("Entity", attempt(aggregateId, decide, options), options.retry ?? retry)
      )
  }
  return self
})
