/**
 * An append-only log of events.
 *
 * Each event belongs to an aggregate and has a version: its place in the log, which is also how its aggregate's history is
 * ordered. The table `events` is the one of go-sync-kit's Postgres store.
 *
 * **Which reads never skip an event**
 *
 * A version is drawn before the commit that makes its event visible, so a reader can see 12 while 11 is still in flight.
 * Reads that take a cursor and span aggregates (`load`, `read` forward, `subscribe`) stop at such a hole and never pass
 * it: what they return up to a version is all there will ever be up to it. Reads of one aggregate or one id see what is
 * committed.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { EventStore } from "effect-strata"
 *
 * export const program = Effect.gen(function* () {
 *   const events = yield* EventStore.EventStore
 *   yield* events.append(
 *     { aggregateId: "user-123", eventType: "UserCreated", data: { name: "John Doe" } },
 *     { expected: "none" }
 *   )
 *   return yield* events.loadByAggregate("user-123")
 * })
 * ```
 */
import { Context, Effect, type Scope, Stream, SubscriptionRef } from "effect"
import {
  AggregateSince,
  Append,
  type AppendError,
  type AppendOptions,
  ById,
  type Condition,
  type DecidedOptions,
  type DecisionError,
  EventNotFound,
  type EventNotification,
  type Cursor,
  ExactAppend,
  ForDecision,
  type ListenerStatus,
  type LogReplaced,
  type NewEventInput,
  notificationOf,
  Query,
  type QueryItem,
  type ReadOptions,
  Since,
  Stats,
  type Step,
  type StoredEvent,
  Subscription,
  subscriptionTo,
  type TagCounts,
  type TaggedVersion,
  Tagging,
  Topic
} from "./Event.ts"
import * as Origins from "./events/Origins.ts"
import * as TypedView from "./events/TypedView.ts"
import type { LargeIntegers } from "./internal/ExactJson.ts"
import * as Operation from "./internal/Operation.ts"
import type { InvalidInput } from "./InvalidInput.ts"
import type { Reason, StoreError } from "./StoreError.ts"

export {
  type AppendError,
  type AppendOptions,
  Condition,
  ConditionFailed,
  Cursor,
  type DecidedOptions,
  type DecisionError,
  DuplicateEvent,
  EventNotFound,
  EventNotification,
  Expected,
  Filter,
  InvalidVersion,
  Key,
  type ListenerStatus,
  LogReplaced,
  NewEvent,
  type NewEventInput,
  Query,
  QueryItem,
  type ReadOptions,
  Stats,
  type Step,
  StoredEvent,
  Subscription,
  Tag,
  type TagCounts,
  type TaggedVersion,
  Tags,
  Topic,
  Version,
  VersionConflict,
  maxDataBytes,
  maxItems,
  maxMetadataBytes,
  maxTags,
  parseVersion
} from "./Event.ts"

// Service

/** What `readForDecision` gives. */
export interface ReadForDecision {
  /** Every event that matches the query, in order. */
  readonly events: ReadonlyArray<StoredEvent>
  /** For each of the events, the places of the items that it matches, in order. */
  readonly items: ReadonlyArray<ReadonlyArray<number>>
  /** That nothing else has come: for the `append` of what is decided. */
  readonly condition: Condition
}

/** The log of events: see the module's documentation. */
export class EventStore extends Context.Service<
  EventStore,
  {
    /**
     * Appends one event, or several, all or none, and returns them as stored, in their order. Of any number of concurrent
     * appends to an aggregate with the same `expected`, exactly one succeeds.
     *
     * **Details**
     *
     * `expected` describes each aggregate before the append. Aggregates that a record names and that get no event do not
     * matter. No event has version 0, so expecting it always conflicts. After a conflict the transaction can go on.
     * With `onDuplicate: "ignore"` an event whose id is in the log already is returned as it is stored, and not compared
     * with `expected`: the same append can be tried again. The same id with other content is always `DuplicateEvent`. The keys of
     * `Origin` are no content.
     *
     * With `condition`, which `readForDecision` has given, it succeeds only if no event has come that the decision would have
     * wanted to know of; where several decide upon the same events, exactly one of them succeeds, and the others fail with
     * `ConditionFailed`. Events that are in the log already are given back before the condition is looked at, and `expected`
     * comes before it, too. Decisions about other tags do not wait for each other.
     *
     * An append of no events does nothing. Appends that are made at once outside of a transaction can share a commit, but
     * each has its own result or failure. Appends to one aggregate happen in the order in which they were made.
     *
     * The metadata also says where the events come from: see `Origin`.
     *
     * **Gotchas**
     *
     * Once a transaction has appended to an aggregate, every append to it with `expected` waits until the transaction has
     * ended; and once it has appended an event with a tag, so does every append whose condition has the tag first in an item.
     * Two transactions that write a tag and then decide upon it end in a deadlock: one of them fails with `Contention`. Plain
     * SQL from elsewhere does not wait: it writes no tags, so it matches no item with tags, but against its events a condition
     * with an item without tags does not hold. A transaction that expects something, or has a condition, or reads forward, has
     * to be READ COMMITTED.
     */
    readonly append: {
      (
        events: NewEventInput | ReadonlyArray<NewEventInput>,
        options: DecidedOptions
      ): Effect.Effect<ReadonlyArray<StoredEvent>, DecisionError | InvalidInput | StoreError>
      (
        events: NewEventInput | ReadonlyArray<NewEventInput>,
        options?: AppendOptions
      ): Effect.Effect<ReadonlyArray<StoredEvent>, AppendError | InvalidInput | StoreError>
    }

    /**
     * Every event that matches one of the items, as it is committed now, and a condition for the append of what is decided
     * upon them.
     *
     * ```ts
     * import { Effect } from "effect"
     * import { EventStore } from "effect-strata"
     *
     * // A user name is taken once, whoever asks for it at the same time.
     * export const register = Effect.fn(function* (user: string, name: string) {
     *   const store = yield* EventStore.EventStore
     *   const { condition, events } = yield* store.readForDecision([{ tags: [`name:${name}`] }])
     *   if (events.length > 0) return "taken"
     *   yield* store.append(
     *     { aggregateId: user, eventType: "Registered", data: { name }, tags: [`name:${name}`] },
     *     { condition }
     *   )
     *   return "registered"
     * })
     * ```
     *
     * **Details**
     *
     * It is one round trip, and never waits for events in flight: the condition knows of them. All events are in memory at
     * once. The first tag of each item is what decisions are serial by, so put the one first that the fewest events have. A
     * decision with an item that has no tags waits for every append that is under way, and keeps others out. `{}` is the whole
     * log. `Decision` folds the events, decides, and tries again.
     */
    readonly readForDecision: (
      query: ReadonlyArray<QueryItem>
    ) => Effect.Effect<ReadForDecision, InvalidInput | StoreError>

    /**
     * Gives events that are in the log tags, beside those that they have: all of the events, or none. With `dryRun` it only says
     * what it would do.
     *
     * **Details**
     *
     * It is for events that came without tags: those of Go services, and those from before their tags were thought of. Tags that an
     * event has already change nothing, so it can be run again. The id has to be that of the event with the version: otherwise it
     * is `EventNotFound`. An event has at most 64 tags, those that it has already counted.
     *
     * Every condition that was read before fails with `ConditionFailed` then, whatever it is about, and its decision is made again.
     * An append that was decided upon one of the tags, and is under way, comes first. `tagAll` of a typed view derives the tags and
     * goes through the log, and so does `strata events tag`.
     *
     * **Gotchas**
     *
     * A subscriber or projection that chooses events by a tag and has passed an event does not go back for it: rebuild it.
     * Appends with the same tags wait until a transaction of yours that has tagged events ends; with more than 250 different
     * tags, all appends do.
     */
    readonly tag: (
      events: ReadonlyArray<TaggedVersion>,
      options?: { readonly dryRun?: boolean }
    ) => Effect.Effect<TagCounts, EventNotFound | InvalidInput | StoreError>

    /**
     * Every settled event above the version (0 unless given), in order: no event can come at or below the last one any more.
     *
     * **Details**
     *
     * Where an open transaction may still fill a hole, `load` waits for it up to `settleTimeout`. Then it returns the events
     * below the hole, and a warning names the holder. All events are in memory at once: use `read` where there may be many.
     * The cursor is compared with the log: see `LogReplaced`. A stored event can be given for it, so that its id is compared.
     */
    readonly load: (
      since?: bigint | Cursor,
      options?: ReadOptions
    ) => Effect.Effect<ReadonlyArray<StoredEvent>, LogReplaced | InvalidInput | StoreError>

    /** The events of one aggregate above the version, in order. */
    readonly loadByAggregate: (
      aggregateId: string,
      since?: bigint,
      options?: ReadOptions
    ) => Effect.Effect<ReadonlyArray<StoredEvent>, InvalidInput | StoreError>

    /**
     * The events that a query describes, in order of their versions, read in pages with bounded memory. Forward, the stream
     * ends where `load` ends: it does not wait for events to come. Each page is compared with what was read before: see
     * `LogReplaced`.
     */
    readonly read: (
      query?: (typeof Query)["~type.make.in"]
    ) => Stream.Stream<StoredEvent, LogReplaced | InvalidInput | StoreError>

    /**
     * The events after a version, first those in the log and then those to come, for ever: in order, each exactly once, and
     * none left out, whatever the writers do and however often the connection is lost.
     *
     * **Details**
     *
     * The stream first reads the log, as `read` does, then hears of new events. All subscribers of a layer share one
     * connection for that, and what arrives on it. A slow subscriber reads the log again to catch up: it delays no other
     * one, and holds at most what it reads at a time. After a lost connection each subscriber goes on at its cursor, by the
     * layer's reconnect schedule. Only the end of that schedule, a `CorruptRow`, `LogReplaced`, or an error that no retry
     * mends ends the stream. An open transaction that may still append below the next event holds that event back, and a warning
     * names the holder.
     *
     * **Gotchas**
     *
     * The stream has only committed events, also inside a transaction. To process each event exactly once, store your cursor
     * in the transaction that does the processing: the stream itself remembers no cursor after it has ended. Keep the
     * event's id beside the version: with both, a log that was set back or replaced meanwhile is found out.
     */
    readonly subscribe: (
      subscription: (typeof Subscription)["~type.make.in"]
    ) => Stream.Stream<StoredEvent, LogReplaced | InvalidInput | StoreError>

    /**
     * As `subscribe`, and says how far the log has been passed: also where none of its events are of the subscription. So a
     * reader that chooses events by a filter can keep a cursor that moves with the log, and the database sends it no others
     * while it catches up.
     *
     * **Gotchas**
     *
     * Keep `upTo` as the cursor once the events of its step are handled. A step can have no events, and steps come in their
     * order, each `upTo` at or above the one before.
     */
    readonly follow: (
      subscription: (typeof Subscription)["~type.make.in"]
    ) => Stream.Stream<Step, LogReplaced | InvalidInput | StoreError>

    /** The events that are appended from now on, as `subscribe` with `"end"` gives them, without their data. */
    readonly notifications: (
      topic?: (typeof Topic)["~type.make.in"]
    ) => Stream.Stream<EventNotification, LogReplaced | InvalidInput | StoreError>

    /** Whether subscribers hear of new events at once: `status` says it now, `changes` emits it now and at each change. */
    readonly listener: {
      readonly status: Effect.Effect<ListenerStatus>
      readonly changes: Stream.Stream<ListenerStatus>
    }

    /** The event with this id. */
    readonly get: (id: string) => Effect.Effect<StoredEvent, EventNotFound | InvalidInput | StoreError>

    /**
     * The highest version that is committed, 0 in an empty log.
     *
     * **Gotchas**
     *
     * Do not use it as a cursor: events with lower versions may still be in flight.
     */
    readonly latestVersion: Effect.Effect<bigint, StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>

    /** The connections and subscriptions of this moment. In memory an open transaction counts as a connection in use. */
    readonly stats: Effect.Effect<Stats, StoreError>
  }
>()("effect-strata/EventStore") {}

// Driver

/**
 * A backend's implementation of the store, on checked values. It fails with an error of the store's own or a bare `Reason`;
 * `fromDriver` does everything else.
 */
export interface Driver {
  readonly append: (append: Append) => Effect.Effect<ReadonlyArray<StoredEvent>, DecisionError | InvalidInput | Reason>
  readonly readForDecision: (query: ForDecision) => Effect.Effect<ReadForDecision, Reason>
  readonly tag: (tagging: Tagging) => Effect.Effect<TagCounts, EventNotFound | InvalidInput | Reason>
  readonly read: (query: Query) => Stream.Stream<StoredEvent, LogReplaced | Reason>
  readonly readAggregate: (since: AggregateSince) => Effect.Effect<ReadonlyArray<StoredEvent>, Reason>
  readonly find: (id: ById) => Effect.Effect<StoredEvent | undefined, Reason>
  /** The events of a subscription, for ever. The stream has to fail with `Closed` by itself when the scope ends. */
  readonly subscribe: (subscription: Subscription) => Stream.Stream<StoredEvent, LogReplaced | Reason>
  /** The same, with how far the log was passed, also where it had no event of the subscription. */
  readonly follow: (subscription: Subscription) => Stream.Stream<Step, LogReplaced | Reason>
  readonly listener: SubscriptionRef.SubscriptionRef<ListenerStatus>
  /** The highest version that is committed. */
  readonly highestVersion: Effect.Effect<bigint, Reason>
  readonly connections: Effect.Effect<Omit<Stats, "subscribers">, Reason>
  /**
   * What becomes of integers beyond 2^53 in JSON: with `"bigint"`, appends take them as `bigint`, and reads give them so. They
   * are `InvalidInput` unless given, and reads fail with `CorruptRow`.
   */
  readonly largeIntegers?: LargeIntegers
  /** `"never"` leaves `traceparent` out of the metadata of events: see `Origin`. */
  readonly traceparent?: "never" | undefined
  readonly ping: Effect.Effect<void, Reason>
}

/**
 * Makes the store of a driver: it checks the arguments, turns each `Reason` into a `StoreError`, counts subscribers, and
 * adds spans, metrics and the end with the scope. `backend` is the name of the backend in spans and metrics.
 *
 * **Gotchas**
 *
 * Call it after everything that the driver needs has been acquired: scopes end in the opposite order, and operations must
 * be refused before what they need is gone.
 */
export const fromDriver = (backend: string, driver: Driver): Effect.Effect<EventStore["Service"], never, Scope.Scope> =>
  Effect.map(Operation.make("EventStore", backend), (operation) => {
    const appendAny = operation.fn(
      "append",
      driver.largeIntegers === "bigint" ? ExactAppend : Append,
      Origins.withOrigin(driver.append, driver.traceparent)
    )
    const load = operation.fn("load", Since, ({ since, ...options }) =>
      Stream.runCollect(driver.read(new Query({ after: since, ...options })))
    )
    const loadByAggregate = operation.fn("loadByAggregate", AggregateSince, driver.readAggregate)
    const read = operation.stream("read", Query, driver.read)
    const notifications = operation.subscription("notifications", Topic, (topic) =>
      Stream.map(driver.subscribe(subscriptionTo(topic)), notificationOf)
    )
    const get = operation.fn("get", ById, (by) =>
      Effect.flatMap(driver.find(by), (event) =>
        event === undefined ? Effect.fail(new EventNotFound({ id: by.id })) : Effect.succeed(event)
      )
    )
    const stats = Effect.map(
      driver.connections,
      (connections) => new Stats({ ...connections, subscribers: operation.running() })
    )

    // Without a condition it fails with nothing that belongs to one.
    function append(
      input: NewEventInput | ReadonlyArray<NewEventInput>,
      options: DecidedOptions
    ): Effect.Effect<ReadonlyArray<StoredEvent>, DecisionError | InvalidInput | StoreError>
    function append(
      input: NewEventInput | ReadonlyArray<NewEventInput>,
      options?: AppendOptions
    ): Effect.Effect<ReadonlyArray<StoredEvent>, AppendError | InvalidInput | StoreError>
    function append(input: NewEventInput | ReadonlyArray<NewEventInput>, options?: AppendOptions) {
      const events = Array.isArray(input) ? input : [input]
      return appendAny(options === undefined ? { events } : { events, ...options })
    }

    const readForDecision = operation.fn("readForDecision", ForDecision, driver.readForDecision)
    const tag = operation.fn("tag", Tagging, driver.tag)

    return EventStore.of({
      append,
      readForDecision: (items) => readForDecision({ items }),
      tag: (events, options = {}) => tag({ events, ...options }),
      load: (since = 0n, options = {}) => load({ since, ...options }),
      loadByAggregate: (aggregateId, since = 0n, options = {}) => loadByAggregate({ aggregateId, since, ...options }),
      read: (query = {}) => read(query),
      subscribe: operation.subscription("subscribe", Subscription, driver.subscribe),
      follow: operation.subscription("follow", Subscription, driver.follow),
      notifications: (topic = {}) => notifications(topic),
      listener: { status: SubscriptionRef.get(driver.listener), changes: SubscriptionRef.changes(driver.listener) },
      get: (id) => get({ id }),
      latestVersion: operation.effect("latestVersion", driver.highestVersion),
      ping: operation.effect("ping", driver.ping),
      stats: operation.effect("stats", stats)
    })
  })

// The typed view

export { type Tagged, type Upcast, upcast } from "./events/EventCodec.ts"
export { type NewTypedEvent, type TypedEvents } from "./events/TypedEvents.ts"
export { type TypedView } from "./events/TypedView.ts"
export { type TagAllOptions, type TagStep } from "./events/Tagging.ts"
export { type TagsByClass, type TypedItem, type TypedQuery, type TypedSubscription } from "./events/TypedQuery.ts"
export { type EventView, type TypedEvent, UnknownEvent } from "./events/View.ts"

/**
 * The log as events of some classes: `append` encodes each event by its schema, and reads give instances of the classes.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { EventStore } from "effect-strata"
 *
 * class UserCreated extends Schema.TaggedClass<UserCreated>()("UserCreated", { name: Schema.String }) {}
 * class UserRenamed extends Schema.TaggedClass<UserRenamed>()("UserRenamed", { name: Schema.String }) {}
 * const Users = EventStore.typed({ events: [UserCreated, UserRenamed] })
 *
 * export const program = Effect.gen(function* () {
 *   const users = yield* Users
 *   yield* users.append("user-123", new UserCreated({ name: "John" }), { expected: "none" })
 *   const history = yield* users.loadByAggregate("user-123")
 *   return history.map(({ event, version }) => `${version}: ${event._tag} ${event.name}`)
 * })
 * ```
 *
 * **Details**
 *
 * The tag of a class is the event type, and its other fields, as JSON, are the data: a program in any language that writes
 * such data writes such events. `upcast` says how older forms are read. An event of these types that does not decode is a
 * `StoreError` whose `CorruptRow` has the version as its key. Services that the schemas need stay in `R`.
 *
 * `tags` says what the events of a class are about: appends of the view give them these tags.
 *
 * ```ts
 * import { Schema } from "effect"
 * import { EventStore } from "effect-strata"
 *
 * class StudentSubscribed extends Schema.TaggedClass<StudentSubscribed>()("StudentSubscribed", {
 *   course: Schema.String,
 *   student: Schema.String
 * }) {}
 *
 * export const Courses = EventStore.typed({
 *   events: [StudentSubscribed],
 *   tags: { StudentSubscribed: ({ course, student }) => [`course:${course}`, `student:${student}`] }
 * })
 * ```
 *
 * `unknown` says what becomes of events of other types: `"fail"` fails with `CorruptRow` at the first of them, `"skip"`
 * leaves them out (the store is not asked for them), `"raw"` gives each as an `UnknownEvent`. Where it is not given, reads
 * across the log leave such events to other views, and reads that name aggregates fail: a history is only right as a whole.
 *
 * **Gotchas**
 *
 * With `"skip"`, a process that does not know a new class yet sees an aggregate as if it had no events of that class.
 */
export const typed = TypedView.over(EventStore)
