/** The operations of a typed view on a store. */
import { Array as Arr, Effect, Result, type Schema, Stream } from "effect"
import type {
  AppendError,
  AppendOptions,
  Cursor,
  DecidedOptions,
  DecisionError,
  EventNotFound,
  Expected,
  LogReplaced,
  NewEventInput,
  ReadOptions,
  StoredEvent
} from "../Event.ts"
import { named } from "../internal/Named.ts"
import { InvalidInput, type Issue } from "../InvalidInput.ts"
import { StoreError } from "../StoreError.ts"
import * as EventCodec from "./EventCodec.ts"
import { type EventsToTag, tagAll, type TagAllOptions, type TagStep } from "./Tagging.ts"
import {
  choiceOf,
  type QueryInput,
  type SubscriptionInput,
  type TypedQuery,
  type TypedSubscription
} from "./TypedQuery.ts"
import { decodeData, type Parts, type TypedEvent, type UnknownEvent, withEvent } from "./View.ts"

// Model

/**
 * An event to append to one of several aggregates, with an id and metadata of its own, and with `tags` beside those that the
 * view derives.
 */
export interface NewTypedEvent<out Event> extends Pick<NewEventInput, "aggregateId" | "id" | "metadata" | "tags"> {
  readonly event: Event
}

/**
 * The events of some classes in the log. `Class` is the union of the classes, `Other` is `UnknownEvent` with `"raw"`, and `Tag` is
 * what the tags of the view look like.
 */
export interface TypedEvents<Class extends EventCodec.Tagged, Other = never, R = never, Tag extends string = string> {
  /**
   * Appends one event, or several, to one aggregate, all or none, and returns them as stored, in their order. See
   * `EventStore.append` for what `expected` promises.
   *
   * **Details**
   *
   * Each of the events gets the `metadata`, in which the key `schemaVersion` is reserved for the view, and the tags that the
   * view derives from it. An event that its schema cannot encode is `InvalidInput`.
   */
  readonly append: (
    aggregateId: string,
    events: Class["Type"] | ReadonlyArray<Class["Type"]>,
    options?: { readonly expected?: Expected; readonly metadata?: Schema.JsonObject }
  ) => Appended<Class>

  /** `append` to several aggregates, of events with an id or metadata of their own, and of what was decided with a condition. */
  readonly appendAll: {
    (
      events: ReadonlyArray<NewTypedEvent<Class["Type"]>>,
      options: DecidedOptions
    ): Appended<Class, DecisionError | Failure>
    (events: ReadonlyArray<NewTypedEvent<Class["Type"]>>, options?: AppendOptions): Appended<Class>
  }

  /** Loads the view's events, as `EventStore.load` does. */
  readonly load: (
    since?: bigint | Cursor,
    options?: ReadOptions
  ) => Effect.Effect<
    ReadonlyArray<TypedEvent<Class["Type"] | Other>>,
    LogReplaced | Failure,
    Class["DecodingServices"] | R
  >

  /** The events of one aggregate above the version, in order. */
  readonly loadByAggregate: (
    aggregateId: string,
    since?: bigint,
    options?: ReadOptions
  ) => Effect.Effect<ReadonlyArray<TypedEvent<Class["Type"] | Other>>, Failure, Class["DecodingServices"] | R>

  /**
   * The state of an aggregate: `step` folds its events into it, one after the other. An append with the returned `expected`
   * conflicts if another append to the aggregate came in between.
   *
   * ```ts
   * import { Effect, Schema } from "effect"
   * import { EventStore } from "effect-strata"
   *
   * class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
   * class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { amount: Schema.Int }) {}
   * const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
   *
   * export const withdraw = Effect.fn(function* (id: string, amount: number) {
   *   const accounts = yield* Accounts
   *   const { expected, state } = yield* accounts.fold(id, 0, (balance, event) =>
   *     event._tag === "Deposited" ? balance + event.amount : balance - event.amount
   *   )
   *   if (state >= amount) yield* accounts.append(id, new Withdrawn({ amount }), { expected })
   * })
   * ```
   */
  readonly fold: <State>(
    aggregateId: string,
    initial: State,
    step: (state: State, event: Class["Type"] | Other) => State
  ) => Effect.Effect<
    { readonly state: State; readonly expected: bigint | "none" },
    Failure,
    Class["DecodingServices"] | R
  >

  /**
   * Reads the view's events, or those of some of its classes, as `EventStore.read` does.
   *
   * **Details**
   *
   * Where an event does not decode, the stream gives the events before it, then fails. The `key` of the `CorruptRow` is the
   * version of the event, so a program can go on after it. The filter `data` is compared with the stored data.
   */
  readonly read: <Only extends Class = Class>(
    query?: TypedQuery<Only, Tag>
  ) => Stream.Stream<TypedEvent<Only["Type"] | Other>, LogReplaced | Failure, Class["DecodingServices"] | R>

  /** Follows the view's events, or those of some of its classes, as `EventStore.subscribe` does. It fails as `read` does. */
  readonly subscribe: <Only extends Class = Class>(
    subscription: TypedSubscription<Only, Tag>
  ) => Stream.Stream<TypedEvent<Only["Type"] | Other>, LogReplaced | Failure, Class["DecodingServices"] | R>

  /**
   * Gives events of the view that are in the log the tags that the view derives: those of Go services, and those from before the
   * view had these tags. Emits what it has done after each batch of at most 1,000 events, which is a transaction of its own; see
   * `EventStore.tag`. With `dryRun` it only says what it would do.
   *
   * ```ts
   * import { Console, Effect, Schema, Stream } from "effect"
   * import { EventStore } from "effect-strata"
   *
   * class CourseDefined extends Schema.TaggedClass<CourseDefined>()("CourseDefined", { course: Schema.String }) {}
   * const Courses = EventStore.typed({
   *   events: [CourseDefined],
   *   tags: { CourseDefined: ({ course }) => [`course:${course}`] }
   * })
   *
   * export const program = Effect.gen(function* () {
   *   const courses = yield* Courses
   *   yield* Stream.runForEach(courses.tagAll(), ({ tags, upTo }) => Console.log(`${tags} tags up to ${upTo.version}`))
   * })
   * ```
   *
   * **Details**
   *
   * It may be interrupted, killed, and run again, also in several processes: what has its tags already is only read. Go on `after`
   * the last `upTo` to save that, too. Deploy the view with its tags first, so that no event comes without them meanwhile. An
   * event that does not decode ends the stream with `CorruptRow`.
   */
  readonly tagAll: (
    options?: TagAllOptions & { readonly events?: ReadonlyArray<Class> }
  ) => Stream.Stream<TagStep, EventNotFound | LogReplaced | Failure, Class["DecodingServices"] | R>

  /** The event with this id. An event of an unknown type is a `CorruptRow`, unless `unknown` is `"raw"`. */
  readonly get: (
    id: string
  ) => Effect.Effect<TypedEvent<Class["Type"] | Other>, EventNotFound | Failure, Class["DecodingServices"] | R>
}

type Failure = InvalidInput | StoreError

type Appended<Class extends EventCodec.Tagged, E = AppendError | Failure> = Effect.Effect<
  ReadonlyArray<TypedEvent<Class["Type"]>>,
  E,
  Class["EncodingServices"]
>

const store = "EventStore"

/** The operations of `EventStore` that a view needs. They stand here because `EventStore` imports `TypedView`. */
export interface UntypedEvents {
  readonly append: {
    (
      events: ReadonlyArray<NewEventInput>,
      options: DecidedOptions
    ): Effect.Effect<ReadonlyArray<StoredEvent>, DecisionError | Failure>
    (
      events: ReadonlyArray<NewEventInput>,
      options?: AppendOptions
    ): Effect.Effect<ReadonlyArray<StoredEvent>, AppendError | Failure>
  }
  readonly loadByAggregate: (
    aggregateId: string,
    since?: bigint,
    options?: ReadOptions
  ) => Effect.Effect<ReadonlyArray<StoredEvent>, Failure>
  readonly tag: EventsToTag["tag"]
  readonly read: (query: QueryInput) => Stream.Stream<StoredEvent, LogReplaced | Failure>
  readonly subscribe: (subscription: SubscriptionInput) => Stream.Stream<StoredEvent, LogReplaced | Failure>
  readonly get: (id: string) => Effect.Effect<StoredEvent, EventNotFound | Failure>
}

type Decoded<Class extends EventCodec.Tagged> = TypedEvent<Class["Type"] | UnknownEvent>

// Decoding

/** The events of a page, decoded up to the first that fails, and the error of that failure. */
const decodePage = Effect.fnUntraced(function* <Class extends EventCodec.Tagged, R>(
  view: Parts<Class, R>,
  operation: string,
  page: ReadonlyArray<StoredEvent>
) {
  const decoded: Array<Decoded<Class>> = []
  for (const stored of page) {
    if (view.unknown === "skip" && !view.codec.has(stored.eventType)) continue
    const decoding = decodeData(view, stored)
    const result = EventCodec.resultOf(decoding) ?? (yield* Effect.result(decoding))
    if (Result.isFailure(result)) {
      return { decoded, error: new StoreError({ store, operation, reason: result.failure }) }
    }
    decoded.push(withEvent(stored, result.success))
  }
  return { decoded, error: undefined }
})

const decodeAll = Effect.fnUntraced(function* <Class extends EventCodec.Tagged, R>(
  view: Parts<Class, R>,
  operation: string,
  all: ReadonlyArray<StoredEvent>
) {
  const { decoded, error } = yield* decodePage(view, operation, all)
  return error === undefined ? decoded : yield* error
})

const decodeStream = <Class extends EventCodec.Tagged, R, E>(
  view: Parts<Class, R>,
  operation: string,
  stream: Stream.Stream<StoredEvent, E>
) =>
  Stream.transformPull(stream, (pull) =>
    Effect.sync(() => {
      let failed: StoreError | undefined
      return Effect.gen(function* () {
        while (true) {
          if (failed !== undefined) return yield* failed
          const { decoded, error } = yield* decodePage(view, operation, yield* pull)
          failed = error
          if (Arr.isReadonlyArrayNonEmpty(decoded)) return decoded
        }
      })
    })
  )

// Choosing

/** The store has left out all other events: this predicate is for the compiler. */
const isOf = <Class extends EventCodec.Tagged, Only extends Class>(only: ReadonlyArray<Only> | undefined) => {
  const tags = new Set(only?.map(EventCodec.tagOf))
  return (decoded: Decoded<Class>): decoded is TypedEvent<Only["Type"] | UnknownEvent> =>
    only === undefined || tags.has(decoded.event._tag)
}

// Appending

/** The tags of both, each once. */
const union = (derived: ReadonlyArray<string>, given: ReadonlyArray<string> = []): ReadonlyArray<string> =>
  derived.length + given.length < 2 ? [...derived, ...given] : [...new Set([...derived, ...given])]

/** The events as the store takes them, or what is wrong with them. */
const encodeAll = Effect.fnUntraced(function* <Class extends EventCodec.Tagged, R>(
  { codec, tagsOf }: Parts<Class, R>,
  added: ReadonlyArray<NewTypedEvent<Class["Type"]>>
) {
  const encoded: Array<NewEventInput> = []
  const issues: Array<Issue> = []
  for (const [index, { event, ...envelope }] of added.entries()) {
    const encoding = codec.encode(event, envelope.metadata)
    const result = EventCodec.resultOf(encoding) ?? (yield* Effect.result(encoding))
    if (Result.isSuccess(result)) {
      const tags = union(tagsOf(event), envelope.tags)
      encoded.push(tags.length === 0 ? { ...envelope, ...result.success } : { ...envelope, ...result.success, tags })
    } else {
      issues.push(...result.failure.map(({ field, message }) => ({ field: `events.${index}.${field}`, message })))
    }
  }
  return issues.length > 0 ? yield* new InvalidInput({ store, operation: "append", issues }) : encoded
})

const withEnvelopes = <Event>(added: ReadonlyArray<NewTypedEvent<Event>>, stored: ReadonlyArray<StoredEvent>) =>
  added.flatMap(({ event }, index) => {
    const envelope = stored[index]
    return envelope === undefined ? [] : [withEvent(envelope, event)]
  })

/** How a view appends to a store. */
const appending = <Class extends EventCodec.Tagged, R>(
  events: UntypedEvents,
  view: Parts<Class, R>,
  operation: "append" | "appendAll"
): TypedEvents<Class>["appendAll"] => {
  type Added = ReadonlyArray<NewTypedEvent<Class["Type"]>>
  function appendAll(added: Added, options: DecidedOptions): Appended<Class, DecisionError | Failure>
  function appendAll(added: Added, options?: AppendOptions): Appended<Class>
  function appendAll(added: Added, options?: AppendOptions) {
    const appended = Effect.flatMap(encodeAll(view, added), (encoded) =>
      Effect.map(events.append(encoded, options), (stored) => withEnvelopes(added, stored))
    )
    // The store names its errors so already where this is `append`.
    return operation === "append" ? appended : Effect.mapError(appended, named(store, operation))
  }
  return appendAll
}

// The operations

export const make = <Class extends EventCodec.Tagged, R>(
  events: UntypedEvents,
  view: Parts<Class, R>
): TypedEvents<Class, UnknownEvent, R> => {
  const append = appending(events, view, "append")

  const read = <Only extends Class = Class>(input: TypedQuery<Only> = {}) => {
    const { events: only, items: _items, tags: _tags, ...query } = input
    return Stream.filter(
      decodeStream(view, "read", events.read({ ...query, ...choiceOf(view, input) })),
      isOf<Class, Only>(only)
    )
  }

  const subscribe = <Only extends Class = Class>(input: TypedSubscription<Only>) => {
    const { events: only, items: _items, tags: _tags, ...subscription } = input
    return Stream.filter(
      decodeStream(view, "subscribe", events.subscribe({ ...subscription, ...choiceOf(view, input) })),
      isOf<Class, Only>(only)
    )
  }

  return {
    append: (aggregateId, added, { metadata, ...rest } = {}) => {
      const envelope = metadata === undefined ? { aggregateId } : { aggregateId, metadata }
      return append(
        (Array.isArray(added) ? added : [added]).map((event) => Object.assign({ event }, envelope)),
        rest
      )
    },
    appendAll: appending(events, view, "appendAll"),
    load: (since = 0n, options = {}) =>
      Effect.mapError(Stream.runCollect(read({ after: since, ...options })), named(store, "load")),
    loadByAggregate: (aggregateId, since, options) =>
      Effect.flatMap(events.loadByAggregate(aggregateId, since, options), (all) =>
        decodeAll(view, "loadByAggregate", all)
      ),
    fold: (aggregateId, initial, step) =>
      Effect.gen(function* () {
        const latest = events.loadByAggregate(aggregateId, 0n, { atLeast: "latest" })
        const all = yield* Effect.mapError(latest, named(store, "fold"))
        const decoded = yield* decodeAll(view, "fold", all)
        return {
          state: decoded.reduce((state, { event }) => step(state, event), initial),
          // The version of the last event that there is, whether it is of this view or not.
          expected: all.at(-1)?.version ?? ("none" as const)
        }
      }),
    read,
    subscribe,
    tagAll: ({ events: only = view.classes, ...options } = {}) =>
      tagAll(
        events,
        view.codec.typesOf(only.map(EventCodec.tagOf)),
        (stored) =>
          Effect.mapBoth(view.codec.decode(stored), {
            onSuccess: view.tagsOf,
            onFailure: (reason) => new StoreError({ store, operation: "tagAll", reason })
          }),
        options
      ).pipe(Stream.mapError(named(store, "tagAll"))),
    get: (id) =>
      Effect.flatMap(events.get(id), (stored) =>
        Effect.mapBoth(decodeData(view, stored), {
          onSuccess: (event) => withEvent(stored, event),
          onFailure: (reason) => new StoreError({ store, operation: "get", reason })
        })
      )
  }
}
