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
import { Context, Effect, Option, Schema, type Stream } from "effect"
import { Identifier, Int64, type InvalidInput, isIdentifier, isLiteral } from "./Input.ts"
import { isSafeJson, isSafeJsonObject, SafeJson, SafeJsonObject } from "./Json.ts"
import type { StoreError } from "./StoreError.ts"
import * as TypedEvents from "./TypedEvents.ts"

// Model

const longestKey = 512

/** An id, aggregate id or event type. All three are indexed as text, and an index entry has room for 512 characters. */
export const Key = Identifier(longestKey)

/** A place in the log; 0 is before the first event. */
export const Version = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/** An event to append. Without an `id` it gets a UUIDv7; with one, appending it again can be recognised. */
export class NewEvent extends Schema.Class<NewEvent>("effect-strata/EventStore/NewEvent")({
  id: Schema.optionalKey(Key),
  aggregateId: Key,
  eventType: Key,
  data: SafeJson,
  /** What is known of the event beside its data, for queries and tracing. */
  metadata: Schema.optionalKey(SafeJsonObject)
}) {}

/** An event in the log. `metadata` is null if it was appended without. */
export class StoredEvent extends Schema.Class<StoredEvent>("effect-strata/EventStore/StoredEvent")({
  version: Version,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  data: Schema.Json,
  metadata: Schema.NullOr(Schema.JsonObject),
  /** When the transaction that appended it began, by the database's clock. */
  createdAt: Schema.DateTimeUtc,
  /** `stream_` and the aggregate id, as go-sync-kit names it. */
  streamName: Schema.String
}) {}

/**
 * What must be true of an aggregate for an append to happen: nothing, that it has no events, that it has some, or the
 * version of its last one.
 */
export const Expected = Schema.Union([Schema.Literals(["any", "none", "some"]), Version])
export type Expected = typeof Expected.Type

const distinctIds = Schema.makeFilter((events: ReadonlyArray<NewEvent>) => {
  const ids = events.flatMap(({ id }) => (id === undefined ? [] : [id]))
  return new Set(ids).size === ids.length ? undefined : "Expected each id once"
})

/** Events to append together. */
export class Append extends Schema.Class<Append>("effect-strata/EventStore/Append")({
  events: Schema.Array(NewEvent).check(distinctIds),
  /** For every aggregate among the events, or for each by its id: those that are not named are `"any"`. */
  expected: Schema.optionalKey(Schema.Union([Expected, Schema.Record(Key, Expected)])),
  onDuplicate: Schema.optionalKey(Schema.Literals(["fail", "ignore"]))
}) {
  /** Of one event without an id. */
  static plain(input: unknown): Append | undefined {
    if (!isLiteral(input) || "expected" in input || "onDuplicate" in input) return undefined
    const { events } = input
    if (!Array.isArray(events) || events.length !== 1) return undefined
    const event: unknown = events[0]
    if (!isLiteral(event) || "id" in event) return undefined
    const { aggregateId, data, eventType, metadata } = event
    if (!isIdentifier(aggregateId, longestKey) || !isIdentifier(eventType, longestKey) || !isSafeJson(data))
      return undefined
    if (!("metadata" in event)) return { events: [{ aggregateId, eventType, data }] }
    return isSafeJsonObject(metadata) ? { events: [{ aggregateId, eventType, data, metadata }] } : undefined
  }
}

/** What an append expects of one of its aggregates. */
export const expectedOf = ({ expected = "any" }: Append, aggregateId: string): Expected =>
  typeof expected !== "object"
    ? expected
    : Object.hasOwn(expected, aggregateId)
      ? (expected[aggregateId] ?? "any")
      : "any"

/** Which events are meant. Everything given must hold. */
export class Filter extends Schema.Class<Filter>("effect-strata/EventStore/Filter")({
  aggregateIds: Schema.optionalKey(Schema.Array(Key)),
  eventTypes: Schema.optionalKey(Schema.Array(Key)),
  /** Contained in the event's data, as `jsonb @>` defines it. */
  data: Schema.optionalKey(SafeJson),
  /** Contained in the event's metadata. */
  metadata: Schema.optionalKey(SafeJsonObject),
  createdAfter: Schema.optionalKey(Schema.DateTimeUtc)
}) {}

/** How many events to read at a time: 1,000. */
const BatchSize = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100_000 }))

/** Which events to read. */
export class Query extends Filter.extend<Query>("effect-strata/EventStore/Query")({
  /** Only versions above this one. */
  after: Schema.optionalKey(Version),
  /** `"forward"` unless given. `"backward"` begins with the last event, and sees what is committed, holes or not. */
  direction: Schema.optionalKey(Schema.Literals(["forward", "backward"])),
  /** How many events at most. */
  limit: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
  batchSize: Schema.optionalKey(BatchSize)
}) {}

/** Which events to follow, and from where. */
export class Subscription extends Filter.extend<Subscription>("effect-strata/EventStore/Subscription")({
  /**
   * The version to begin after, `"start"` for every event there is, or `"end"` for none of those: only versions above the
   * `latestVersion` of the moment when the stream starts.
   */
  after: Schema.Union([Schema.Literals(["start", "end"]), Version]),
  batchSize: Schema.optionalKey(BatchSize)
}) {}

/** What a notification tells of an event: all but its data. The fields are those of go-sync-kit's payload. */
export class EventNotification extends Schema.Class<EventNotification>("effect-strata/EventStore/EventNotification")({
  version: Version,
  id: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  streamName: Schema.String,
  createdAt: Schema.DateTimeUtc
}) {}

export const notificationOf = ({
  aggregateId,
  createdAt,
  eventType,
  id,
  streamName,
  version
}: StoredEvent): EventNotification =>
  new EventNotification({ version, id, aggregateId, eventType, streamName, createdAt }, { disableChecks: true })

/** Which events to be notified of: of all, unless an aggregate or a type is given. */
export class Topic extends Schema.Class<Topic>("effect-strata/EventStore/Topic")({
  aggregateId: Schema.optionalKey(Key),
  eventType: Schema.optionalKey(Key)
}) {}

/** The subscription that has the events of a topic. */
export const subscriptionTo = ({ aggregateId, eventType }: Topic): Subscription =>
  new Subscription({
    after: "end",
    ...(aggregateId === undefined ? {} : { aggregateIds: [aggregateId] }),
    ...(eventType === undefined ? {} : { eventTypes: [eventType] })
  })

/**
 * Whether subscribers hear of new events at once. `"stopped"` where there are none, or after their reconnect schedule has
 * ended.
 */
export type ListenerStatus = "connected" | "reconnecting" | "stopped"

/** A cursor of `load`. */
export class Since extends Schema.Class<Since>("effect-strata/EventStore/Since")({ since: Version }) {}

/** One aggregate, from a version on. */
export class AggregateSince extends Schema.Class<AggregateSince>("effect-strata/EventStore/AggregateSince")({
  aggregateId: Key,
  since: Version
}) {}

/** The id of one event. */
export class ById extends Schema.Class<ById>("effect-strata/EventStore/ById")({ id: Key }) {
  static plain(input: unknown): ById | undefined {
    return isLiteral(input) && isIdentifier(input.id, longestKey) ? { id: input.id } : undefined
  }
}

/**
 * What the store has in use. On Postgres connections are those to the server that have the pool's role, database and
 * application name: of other processes, too, unless each has a name of its own. PGlite has none.
 */
export class Stats extends Schema.Class<Stats>("effect-strata/EventStore/Stats")({
  openConnections: Schema.Int,
  /** Running a statement, or in a transaction. */
  inUse: Schema.Int,
  idle: Schema.Int,
  /** Subscriptions to this store that are running. */
  subscribers: Schema.Int
}) {}

// Errors

/** The aggregate is not as the append expected: somebody else appended to it. Nothing was written. */
export class VersionConflict extends Schema.TaggedError<VersionConflict>("effect-strata/EventStore/VersionConflict")(
  "VersionConflict",
  {
    aggregateId: Schema.String,
    expected: Expected,
    /** The version of the aggregate's last event. */
    actual: Schema.Option(Version)
  }
) {
  override get message(): string {
    const actual = Option.match(this.actual, { onNone: () => "no events", onSome: (version) => `version ${version}` })
    return `Aggregate "${this.aggregateId}" has ${actual}, where ${this.expected} was expected`
  }
}

/** An event with this id is in the log already. Nothing was written. */
export class DuplicateEvent extends Schema.TaggedError<DuplicateEvent>("effect-strata/EventStore/DuplicateEvent")(
  "DuplicateEvent",
  { id: Schema.String }
) {
  override get message(): string {
    return `An event with the id "${this.id}" is in the log already`
  }
}

/** No event has this id. */
export class EventNotFound extends Schema.TaggedError<EventNotFound>("effect-strata/EventStore/EventNotFound")(
  "EventNotFound",
  { id: Schema.String }
) {
  override get message(): string {
    return `No event has the id "${this.id}"`
  }
}

/** The text is not a version: not a whole number from 0 to 2^63 - 1. */
export class InvalidVersion extends Schema.TaggedError<InvalidVersion>("effect-strata/EventStore/InvalidVersion")(
  "InvalidVersion",
  { text: Schema.String }
) {
  override get message(): string {
    return `"${this.text}" is not a version: expected a whole number from 0 to 9223372036854775807`
  }
}

/** The version that a text stands for. */
export const parseVersion = (text: string): Effect.Effect<bigint, InvalidVersion> =>
  Effect.suspend(() => {
    const version = /^\d{1,19}$/.test(text) ? BigInt(text) : -1n
    return Schema.is(Version)(version) ? Effect.succeed(version) : Effect.fail(new InvalidVersion({ text }))
  })

// Service

type NewEventInput = (typeof NewEvent)["~type.make.in"]

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
     * `expected` is about each aggregate before the append (a record may name others, too: they do not matter); version 0
     * is that of no event, so it always conflicts. A conflict does not spoil the transaction it happens in.
     * With `onDuplicate: "ignore"` an event whose id is in the log already is returned as it is stored, and not compared
     * with `expected`: the same append can be tried again. The same id with other content is always `DuplicateEvent`.
     * No events do nothing. Appends that are made at once outside of a transaction can share a commit, but no result and no
     * failure; to one aggregate they happen in the order in which they were made.
     *
     * **Gotchas**
     *
     * Until a transaction that appends to an aggregate has ended, others wait that append to it with `expected`. Plain SQL
     * from elsewhere does not wait. A transaction that expects something, or reads forward, has to be READ COMMITTED.
     */
    readonly append: (
      events: NewEventInput | ReadonlyArray<NewEventInput>,
      options?: {
        readonly expected?: Expected | Readonly<Record<string, Expected>>
        readonly onDuplicate?: "fail" | "ignore"
      }
    ) => Effect.Effect<ReadonlyArray<StoredEvent>, VersionConflict | DuplicateEvent | InvalidInput | StoreError>

    /**
     * Every event above the version, 0 unless given, in order, and none that another one could still come before.
     *
     * **Details**
     *
     * Where a transaction that appends is in the way, it is waited for, up to `settleTimeout`; then what is certain is
     * returned, and a warning says who holds up the rest. All of it is in memory: use `read` where there may be much.
     */
    readonly load: (since?: bigint) => Effect.Effect<ReadonlyArray<StoredEvent>, InvalidInput | StoreError>

    /** The events of one aggregate above the version, in order. */
    readonly loadByAggregate: (
      aggregateId: string,
      since?: bigint
    ) => Effect.Effect<ReadonlyArray<StoredEvent>, InvalidInput | StoreError>

    /**
     * The events that a query describes, in order of their versions, read in pages with bounded memory. Forward, it ends
     * where `load` ends; it does not wait for events to come.
     */
    readonly read: (query?: (typeof Query)["~type.make.in"]) => Stream.Stream<StoredEvent, InvalidInput | StoreError>

    /**
     * The events after a version, those that are there and then those to come, for ever: in order, each exactly once, and
     * none left out, whatever the writers do and however often the connection is lost.
     *
     * **Details**
     *
     * It first reads the log, as `read` does, then hears of new events. All subscribers of a layer share one connection for
     * that, and what arrives on it. One that is slow reads the log again to catch up: it delays nobody, and holds at most
     * what it reads at a time. After a lost connection everybody goes on where they were, by the layer's reconnect
     * schedule; only the end of that, a `CorruptRow` or an error that no retry mends ends the stream. An open transaction
     * that may append before the next event holds it back, and a warning says who that is.
     *
     * **Gotchas**
     *
     * It sees only what is committed, also inside a transaction. To process each event exactly once, keep your cursor in
     * the transaction that does the processing: the stream alone starts again where you tell it to.
     */
    readonly subscribe: (
      subscription: (typeof Subscription)["~type.make.in"]
    ) => Stream.Stream<StoredEvent, InvalidInput | StoreError>

    /** What is appended from now on, as `subscribe` with `"end"` gives it, without the data. */
    readonly notifications: (
      topic?: (typeof Topic)["~type.make.in"]
    ) => Stream.Stream<EventNotification, InvalidInput | StoreError>

    /** Whether subscribers hear of new events at once: now, and as a stream that begins with now. */
    readonly listener: {
      readonly status: Effect.Effect<ListenerStatus>
      readonly changes: Stream.Stream<ListenerStatus>
    }

    /** The event with this id. */
    readonly get: (id: string) => Effect.Effect<StoredEvent, EventNotFound | InvalidInput | StoreError>

    /**
     * The highest version that is committed, 0 where there is none.
     *
     * **Gotchas**
     *
     * Not a cursor: events with lower versions may still be on their way.
     */
    readonly latestVersion: Effect.Effect<bigint, StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>

    /** Connections and subscriptions, as they are now. In memory an open transaction counts as a connection in use. */
    readonly stats: Effect.Effect<Stats, StoreError>
  }
>()("effect-strata/EventStore") {}

// The typed view

export { type Tagged, type Upcast, upcast } from "./EventCodec.ts"
export {
  type NewTypedEvent,
  type TypedEvent,
  type TypedEvents,
  type TypedQuery,
  type TypedSubscription,
  UnknownEvent
} from "./TypedEvents.ts"

/**
 * The log as the events of some classes: what is appended is encoded by its schema, and what is read comes back as an
 * instance of its class.
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
 * The tag of a class is the event type, and its other fields, as JSON, are the data: whoever writes such data, in
 * whatever language, writes such events. `upcast` says how older forms are read. An event of these types that does not
 * decode is a `StoreError` whose `CorruptRow` has the version as its key. Services that the schemas need stay in `R`.
 *
 * `unknown` says what becomes of events of other types: `"fail"` fails with `CorruptRow` wherever it meets one, `"skip"`
 * leaves them out (they are not asked for), `"raw"` gives each as an `UnknownEvent`. Unless it is given, what reads the
 * log leaves them to other views, but what names its aggregates fails: a history is only right as a whole.
 *
 * **Gotchas**
 *
 * With `"skip"`, a process that does not know a new class yet takes an aggregate for what it would be without its events.
 */
export const typed = TypedEvents.over(EventStore)
