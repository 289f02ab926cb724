/** The events of the log, how they are asked for, and what can go wrong: the model of `EventStore`. */
import { type Duration, Effect, Option, Schema } from "effect"
import { type Condition, type ConditionFailed, GivenCondition, Key, QueryItems, Tags } from "./EventQuery.ts"
import type { LargeIntegers } from "./internal/ExactJson.ts"
import { Int64, maxRowBytes, Time, TimeSpan } from "./internal/Fields.ts"
import { SafeJson, SafeJsonObject, safeJsonObjectUpTo, safeJsonUpTo } from "./internal/SafeJson.ts"

export * from "./EventQuery.ts"

// Model

/** How many bytes the metadata of an event can have: see `maxDataBytes`. */
export const maxMetadataBytes = 1024 * 1024

/**
 * How many bytes the data of an event can have, in UTF-8 as Postgres's `jsonb` writes it: with a space after each comma and
 * colon, and with all digits of `1e300`. The row of an event, whose ids and type have up to 8 KiB, has to fit in 16 MiB: see
 * `DurableStateStore.maxPayloadBytes`.
 */
export const maxDataBytes = maxRowBytes - maxMetadataBytes - 16 * 1024

/** A place in the log; 0 is before the first event. */
export const Version = Int64.check(Schema.isGreaterThanOrEqualToBigInt(0n))

/**
 * A place in the log to read from: after the version, as long as the event that has the version is the one with the id. A
 * stored event is one.
 */
export const Cursor = Schema.Struct({ version: Version, id: Schema.optionalKey(Schema.String) })
export type Cursor = typeof Cursor.Type

/** Without the id of the event, it can only be told whether the log still reaches up to the version. */
const After = Schema.Union([Version, Cursor])

const newEvent = (integers: LargeIntegers) => ({
  id: Schema.optionalKey(Key),
  aggregateId: Key,
  eventType: Key,
  data: safeJsonUpTo(maxDataBytes, integers),
  /** What is known of the event besides its data, for queries and tracing. */
  metadata: Schema.optionalKey(safeJsonObjectUpTo(maxMetadataBytes, integers)),
  /**
   * What the event is about, such as `course:c1`: queries find it by these. At most 64 tags of 255 characters, each once.
   *
   * **Details**
   *
   * Tags stand beside the log, so events that are read do not bring them along: reading them would cost every reader.
   */
  tags: Schema.optionalKey(Tags)
})

/** An event to append. Without an `id` it gets a UUIDv7; with one, appending it again can be recognised. */
export class NewEvent extends Schema.Class<NewEvent>("effect-strata/EventStore/NewEvent")(newEvent("fail")) {}

/** The same where large integers are `bigint`. */
class NewExactEvent extends Schema.Class<NewExactEvent>("effect-strata/EventStore/NewEvent")(newEvent("bigint")) {}

/** What `append` takes for an event. */
export type NewEventInput = (typeof NewEvent)["~type.make.in"]

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
 * What must be true of an aggregate for an append to happen: anything, that it has no events, that it has some, or that its
 * last event has this version.
 */
export const Expected = Schema.Union([Schema.Literals(["any", "none", "some"]), Version])
export type Expected = typeof Expected.Type

const distinctIds = Schema.makeFilter((events: ReadonlyArray<NewEvent>) => {
  if (events.length < 2) return undefined
  const ids = events.flatMap(({ id }) => (id === undefined ? [] : [id]))
  return new Set(ids).size === ids.length ? undefined : "Expected each id once"
})

/** What an append may ask for: see `EventStore.append`. */
export interface AppendOptions {
  /**
   * What must be true of the aggregate: `"any"` unless given, `"none"`, `"some"`, or the version of its last event. A record says
   * it of several aggregates, by their ids.
   */
  readonly expected?: Expected | Readonly<Record<string, Expected>>
  /** Whether an event whose id is in the log already fails (`"fail"`, the default), or counts as appended (`"ignore"`). */
  readonly onDuplicate?: "fail" | "ignore"
}

/** What an append asks for that belongs to a decision. */
export interface DecidedOptions extends AppendOptions {
  /**
   * What `readForDecision` has given with the events: that nothing has come since which the decision would have wanted to know
   * of.
   */
  readonly condition: Condition
}

const howToAppend = {
  /** What is expected of every aggregate among the events, or of each by its id: an aggregate that is not named is `"any"`. */
  expected: Schema.optionalKey(Schema.Union([Expected, Schema.Record(Key, Expected)])),
  onDuplicate: Schema.optionalKey(Schema.Literals(["fail", "ignore"])),
  /** That nothing has come which the decision about these events would have wanted to know of. */
  condition: Schema.optionalKey(GivenCondition)
}

/** Events to append together. */
export class Append extends Schema.Class<Append>("effect-strata/EventStore/Append")({
  events: Schema.Array(NewEvent).check(distinctIds),
  ...howToAppend
}) {}

/** The same where large integers are `bigint`. */
export class ExactAppend extends Schema.Class<ExactAppend>("effect-strata/EventStore/Append")({
  events: Schema.Array(NewExactEvent).check(distinctIds),
  ...howToAppend
}) {}

/** What an append expects of one of its aggregates. */
export const expectedOf = ({ expected = "any" }: Append, aggregateId: string): Expected =>
  typeof expected !== "object"
    ? expected
    : Object.hasOwn(expected, aggregateId)
      ? (expected[aggregateId] ?? "any")
      : "any"

/**
 * Which events to choose. An event has to match everything that is given.
 *
 * **Details**
 *
 * On Postgres an index finds the events of one aggregate, of up to 8 types, those with tags, and by `createdAfter` those after
 * a time: a page of them costs what it returns, and for several types at most its limit for each. After a time it costs up to
 * 8,192 events more, and a look-up or two for each 4,096 versions that are passed; beside types or tags that for each of these.
 *
 * With the option `index`, what `data` and `metadata` contain is looked up, too, where it is not among the first 4,096 events,
 * and 16 more for each event of the page: up to 32,768 events that contain it. That index knows no order, so of more events no
 * page is made.
 *
 * Everything else is compared event by event, so the log is read until the page is full, and with `createdAfter` what is young
 * enough: several aggregates, more types, `data` and `metadata` without that option, and of more events than it is for. A warning
 * says so once where no index serves a filter, and more than a million events are read. Of one aggregate `createdAfter` is
 * compared so, too.
 */
export class Filter extends Schema.Class<Filter>("effect-strata/EventStore/Filter")({
  aggregateIds: Schema.optionalKey(Schema.Array(Key)),
  eventTypes: Schema.optionalKey(Schema.Array(Key)),
  /** What the event's data must contain, as `jsonb @>` defines it. */
  data: Schema.optionalKey(SafeJson),
  /** What the event's metadata must contain. */
  metadata: Schema.optionalKey(SafeJsonObject),
  /** Times do not rise with versions, as imported events keep theirs, and a time is that at which the transaction began. */
  createdAfter: Schema.optionalKey(Time),
  /** Tags that the event must have, all of them. The events are found by an index, by the first of the tags. */
  tags: Schema.optionalKey(Tags),
  /**
   * Items of a query, of which the event must match one. If each of them has a tag, the events are found by an index;
   * otherwise the log is read.
   */
  items: Schema.optionalKey(QueryItems)
}) {}

/** How many events to read at a time: 1,000 unless given. */
const BatchSize = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100_000 }))

/** How new a read has to be, where it is a standby that is read: see `Postgres.layerReplica`. Elsewhere nothing is older. */
export interface ReadOptions {
  /**
   * A version that the standby must have, such as that of an event that you have just appended: so you read your own writes.
   * `"latest"` reads from the primary.
   */
  readonly atLeast?: bigint | "latest"
  /** How long to wait for the standby, before the primary is read. The layer has a default. */
  readonly wait?: Duration.Input
}

const readOptions = {
  /** A version that the standby must have, if it is one that is read, or `"latest"` for the primary: see `ReadOptions`. */
  atLeast: Schema.optionalKey(Schema.Union([Schema.Literal("latest"), Version])),
  /** How long to wait for the standby, before the primary is read. */
  wait: Schema.optionalKey(TimeSpan)
}

/** Which events to read. */
export class Query extends Filter.extend<Query>("effect-strata/EventStore/Query")({
  /**
   * Only versions above this one. If it is given as `{ version, id }`, as any stored event is, a forward read fails with
   * `LogReplaced` where another event has the version.
   */
  after: Schema.optionalKey(After),
  /** `"forward"` unless given. `"backward"` begins with the last event and sees what is committed: it does not stop at holes. */
  direction: Schema.optionalKey(Schema.Literals(["forward", "backward"])),
  /** How many events at most. With 0 a forward read only compares `after` with the log. */
  limit: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
  batchSize: Schema.optionalKey(BatchSize),
  ...readOptions
}) {}

/** Which events to follow, and from where. */
export class Subscription extends Filter.extend<Subscription>("effect-strata/EventStore/Subscription")({
  /**
   * The version to begin after, `"start"` for every event in the log, or `"end"` for none of them: then only versions above
   * the `latestVersion` at the moment when the stream starts. A version that is given as `{ version, id }`, as any stored
   * event is, is compared with the log: see `LogReplaced`.
   */
  after: Schema.Union([Schema.Literals(["start", "end"]), Version, Cursor]),
  batchSize: Schema.optionalKey(BatchSize)
}) {}

/** A part of the log that a subscription has passed. */
export interface Step {
  /** Every event of the subscription in this part that there will ever be, in order: often none. */
  readonly events: ReadonlyArray<StoredEvent>
  /** Where this part ends, and the next one begins: with the id of the event there, if it is known. */
  readonly upTo: Cursor
}

/** An event without its data. The fields are those of go-sync-kit's notification payload. */
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

/** Which events to be notified of: all events, unless an aggregate or a type is given. */
export class Topic extends Schema.Class<Topic>("effect-strata/EventStore/Topic")({
  aggregateId: Schema.optionalKey(Key),
  eventType: Schema.optionalKey(Key)
}) {}

/** The subscription to the events of a topic. */
export const subscriptionTo = ({ aggregateId, eventType }: Topic): Subscription =>
  new Subscription({
    after: "end",
    ...(aggregateId === undefined ? {} : { aggregateIds: [aggregateId] }),
    ...(eventType === undefined ? {} : { eventTypes: [eventType] })
  })

/**
 * Whether subscribers hear of new events at once. `"stopped"` where there are no subscribers, or after their reconnect
 * schedule has ended.
 */
export type ListenerStatus = "connected" | "reconnecting" | "stopped"

/** A cursor of `load`. */
export class Since extends Schema.Class<Since>("effect-strata/EventStore/Since")({
  since: After,
  ...readOptions
}) {}

/** One aggregate, from a version on. */
export class AggregateSince extends Schema.Class<AggregateSince>("effect-strata/EventStore/AggregateSince")({
  aggregateId: Key,
  since: Version,
  ...readOptions
}) {}

/** Events that are in the log, and tags that they are to have. */
export class Tagging extends Schema.Class<Tagging>("effect-strata/EventStore/Tagging")({
  events: Schema.Array(Schema.Struct({ version: Version, id: Schema.String, tags: Tags })),
  dryRun: Schema.optionalKey(Schema.Boolean)
}) {}

/** An event that is in the log, such as a stored event, and tags that it is to have. */
export type TaggedVersion = Tagging["events"][number]

/** What came of a tagging. */
export interface TagCounts {
  /** How many events had not had all of the tags. */
  readonly events: number
  /** How many tags they had not had. */
  readonly tags: number
}

/** The id of one event. */
export class ById extends Schema.Class<ById>("effect-strata/EventStore/ById")({ id: Key }) {}

/**
 * What the store has in use. On Postgres the connections are those to the server with the pool's role, database and
 * application name. They include other processes' connections unless each process has an application name of its own.
 * PGlite has none.
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

/**
 * The aggregate is not as the append expected: another append to it came first. Nothing was written.
 *
 * **Remedy**
 *
 * Load the aggregate and decide again: `Entity.execute` does both. Or tell the caller that somebody else was faster.
 */
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

/**
 * An event with this id is in the log already. Nothing was written.
 *
 * **Remedy**
 *
 * Append with `onDuplicate: "ignore"` where the same event may come again; otherwise give another id.
 */
export class DuplicateEvent extends Schema.TaggedError<DuplicateEvent>("effect-strata/EventStore/DuplicateEvent")(
  "DuplicateEvent",
  { id: Schema.String }
) {
  override get message(): string {
    return `An event with the id "${this.id}" is in the log already`
  }
}

/**
 * The log is not the one that was read up to here: it was set back, and draws versions again, or another log has taken its
 * place. Nothing is read, because events below the cursor may be others than those that were seen.
 *
 * **Details**
 *
 * A log is set back by a failover to a server that lagged, by a restored backup, by a crash with `synchronous_commit = off`,
 * and by `TRUNCATE .. RESTART IDENTITY`. Events that are deleted end no reader that runs on the same server. One that starts where
 * the newest were deleted, beyond the end of the log, cannot tell: append an event before. A reader that is running compares what
 * it has seen with each page. A cursor that you keep is compared if you keep the event's id beside it; without the id it can only
 * be told that the log ends before it, and an event that is missing below the end counts as deleted.
 *
 * A log is not cut at one version: an event that was committed late can be gone below others that are still there.
 * A running reader remembers its last 128 events one by one, and `lastAgreed` is below the first of them that is gone; of
 * what is further back, `get` tells whether it is still there.
 *
 * **Remedy**
 *
 * Undo what was made of the events above `lastAgreed`, and read again after it; or build everything anew from
 * `"start"`. The runbook "Postgres fails over" has the steps.
 */
export class LogReplaced extends Schema.TaggedError<LogReplaced>("effect-strata/EventStore/LogReplaced")(
  "LogReplaced",
  {
    /** The version that was seen last. */
    version: Version,
    /** The id of the event that was seen there, if it is known. */
    id: Schema.Option(Schema.String),
    /** The id of the event that is there now, if there is one. */
    foundId: Schema.Option(Schema.String),
    /** The highest version that the log has now. */
    latest: Version,
    /** The last version that is known to have the same event as before; `None` where nobody can tell. */
    lastAgreed: Schema.Option(Version)
  }
) {
  override get message(): string {
    const seen = Option.match(this.id, {
      onNone: () => `was read up to version ${this.version}`,
      onSome: (id) => `had the event "${id}" at version ${this.version}`
    })
    const found = Option.match(this.foundId, {
      onNone: () => `has nothing there now, and ends at version ${this.latest}`,
      onSome: (id) => `has the event "${id}" there now`
    })
    const [agreed, from] = Option.match(this.lastAgreed, {
      onNone: () => ["", "from the start"],
      onSome: (version) => [`; both agree up to version ${version}`, `after version ${version}`]
    })
    return (
      `The log was set back or replaced: it ${seen}, and ${found}${agreed}. A failover to a server that lagged, a restored ` +
      "backup, a crash with synchronous_commit = off or TRUNCATE .. RESTART IDENTITY does this: look which of them it was, " +
      `undo what was made of events that are gone, and read again ${from}`
    )
  }
}

/** Why an append was refused. */
export type AppendError = VersionConflict | DuplicateEvent

/** Why an append with a condition was refused. */
export type DecisionError = AppendError | ConditionFailed | LogReplaced

/**
 * No event has this id.
 *
 * **Remedy**
 *
 * Look whether the id is right, and whether the event was deleted.
 */
export class EventNotFound extends Schema.TaggedError<EventNotFound>("effect-strata/EventStore/EventNotFound")(
  "EventNotFound",
  { id: Schema.String }
) {
  override get message(): string {
    return `No event has the id "${this.id}"`
  }
}

/**
 * The text is not a version: not a whole number from 0 to 2^63 - 1.
 *
 * **Remedy**
 *
 * Tell whoever sent the text: `parseVersion` takes what `String(version)` gives.
 */
export class InvalidVersion extends Schema.TaggedError<InvalidVersion>("effect-strata/EventStore/InvalidVersion")(
  "InvalidVersion",
  { text: Schema.String }
) {
  override get message(): string {
    return `"${this.text}" is not a version: expected a whole number from 0 to 9223372036854775807`
  }
}

/** Reads a version from text. */
export const parseVersion = (text: string): Effect.Effect<bigint, InvalidVersion> =>
  Effect.suspend(() => {
    const version = /^\d{1,19}$/.test(text) ? BigInt(text) : -1n
    return Schema.is(Version)(version) ? Effect.succeed(version) : Effect.fail(new InvalidVersion({ text }))
  })
