/** What a projection is: its name, its settings and its handler. */
import { type Cause, Duration, Effect, Option, Schedule, Schema } from "effect"
import type { DurableStateStore } from "../DurableStateStore.ts"
import { QueryItems } from "../EventQuery.ts"
import { notFunctions, notOneOf, wrongTags } from "../events/FunctionIssues.ts"
import type { TypedItem } from "../events/TypedQuery.ts"
import { itemOf } from "../events/View.ts"
import { type EventStore, Key, type QueryItem, type StoredEvent, type Tagged, Tags, Version } from "../EventStore.ts"
import { check } from "../internal/Arguments.ts"
import { Identifier, ShardNumber } from "../internal/Fields.ts"
import { TimeLimit, timeLimitOf } from "../internal/HandlerTimeout.ts"
import { InvalidInput, type Issue } from "../InvalidInput.ts"
import type { OffsetStore } from "../OffsetStore.ts"
import type { Transactor } from "../Transactor.ts"
import {
  type BatchHandler,
  type ByTag,
  type EventOf,
  type Handle,
  type Handler,
  handleOf,
  type Handlers,
  type ItemOf,
  type KnownTags,
  type ServicesOfTags,
  type ServicesOfView,
  type TagOf,
  type View
} from "./Handlers.ts"
import type { Slot } from "./Slot.ts"

/** What a projection needs besides the services of its handler. */
export type Services = EventStore | OffsetStore | DurableStateStore | Transactor

// Model

/** A projection's name: at most 200 characters, fewer than in an offset, as ids of states are made of the name. */
export const Name = Identifier(200)

/** The parts of a projection that are checked before it runs. */
export class Settings extends Schema.Class<Settings>("effect-strata/Projection/Settings")({
  name: Name,
  shards: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1024 })),
  batchSize: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 })),
  eventTypes: Schema.optionalKey(Schema.Array(Key)),
  aggregateIds: Schema.optionalKey(Schema.Array(Key)),
  tags: Schema.optionalKey(Tags),
  items: Schema.optionalKey(QueryItems),
  onFailure: Schema.Literals(["stop", "skip", "park"]),
  heartbeat: TimeLimit,
  timeout: Schema.optionalKey(TimeLimit)
}) {}

/** Names one projection. */
export class ByName extends Schema.Class<ByName>("effect-strata/Projection/ByName")({ name: Name }) {}

/** Which parked aggregates of a projection are to be retried: all unless given. */
export class Retry extends Schema.Class<Retry>("effect-strata/Projection/Retry")({
  name: Name,
  aggregateIds: Schema.optionalKey(Schema.Array(Key))
}) {}

/** A projection, and a version that it is to be at. */
export class At extends Schema.Class<At>("effect-strata/Projection/At")({ name: Name, version: Version }) {}

/** An event that was not handled, and why, in words. */
export class Failure extends Schema.Class<Failure>("effect-strata/Projection/Failure")({
  shardNumber: ShardNumber,
  version: Version,
  eventId: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  /** The handler's error, or defect, with its stack. */
  error: Schema.String,
  /** When it failed, in epoch milliseconds, by `Clock`. */
  at: Schema.Int
}) {}

// Definition

/** What `Projection.make` takes beside what handles the events. */
export interface Options {
  /** Its name: the key of its offsets. At most 200 characters. */
  readonly name: string
  /**
   * Into how many shards the events are divided, by their aggregates or by `shardBy`: 1 unless given. The first run records the
   * number.
   */
  readonly shards?: number
  /**
   * The key by which events are divided into shards: the id of the aggregate unless given. Let it name what the rows of the read
   * model are for. Shards by order that write one row for each customer wait for each other, and end in deadlocks: one of them
   * is rolled back and tried again, and a warning says so. Shards by customer do not.
   *
   * **Order.** The events of a key are handled in order of their versions. Events of an aggregate that have different keys may be
   * handled at the same time, and in another order. An event that fails with `onFailure: "park"` parks its aggregate, in the shard
   * of the event: other aggregates with the same key go on.
   *
   * **Gotchas**
   *
   * An event must have the same key always and everywhere. To give other keys, reset the projection and build the read model anew:
   * otherwise events are left out, or handled twice. If the function throws, the projection stops before the event.
   */
  readonly shardBy?: (event: StoredEvent) => string
  /** The types of events that are handled, all unless given: others are passed. */
  readonly eventTypes?: ReadonlyArray<string>
  /** The aggregates whose events are handled, all unless given: others are passed. */
  readonly aggregateIds?: ReadonlyArray<string>
  /** How many events a batch has, at most: 500 unless given. A batch is handled in one transaction. */
  readonly batchSize?: number
  /**
   * When an event whose handler has failed is tried again: 5 times, after some 100 milliseconds at first and twice as long
   * each time, unless given. The schedule gets the `Cause` of the failure.
   */
  readonly retry?: Schedule.Schedule<unknown, Cause.Cause<unknown>>
  /**
   * What happens when `retry` has ended: the projection stops before the event (`"stop"`, the default), skips the event and
   * records that (`"skip"`), or parks its aggregate, which waits for `retryParked` while the others go on (`"park"`).
   */
  readonly onFailure?: "stop" | "skip" | "park"
  /**
   * How often a process says that it lives: every second unless given. Others take its shards after three such times of
   * silence. A process says so once for all of its projections, as often as the shortest of their heartbeats.
   */
  readonly heartbeat?: Duration.Input
  /**
   * How long a call of the handler may take: as long as it wants unless given. Then the handler is interrupted, and has failed
   * with `HandlerTimeout`: a failure like any other. A `batchHandler` that was too slow gets half of the events next.
   */
  readonly timeout?: Duration.Input
}

/** Which events are handled, by what they are about. */
interface About<V extends View> {
  /**
   * Tags that the handled events have, all of them: others are passed. While the projection catches up, its events are found by an
   * index.
   *
   * **Gotchas**
   *
   * An event that gets a tag after the projection has passed it is not handled: rebuild the read model.
   */
  readonly tags?: ReadonlyArray<TagOf<NoInfer<V>>>
  /**
   * Items of a query, of which a handled event matches one: with `events`, by classes of the view, as in
   * `{ events: [StudentSubscribed], tags: ["course:c1"] }`, and without, by `eventTypes`.
   */
  readonly items?: ReadonlyArray<ItemOf<NoInfer<V>>>
}

/** What empties a read model. */
interface Clearing<R> {
  /**
   * Empties a copy of the read model. With it `askRebuild`, and so `strata projections rebuild`, has the processes that run the
   * projection build the read model anew, in the transaction in which that begins.
   */
  readonly clear?: (slot: Slot) => Effect.Effect<unknown, unknown, R>
}

/** A projection, to be run. `R` are the services of its handler. */
export interface Projection<out R = never> {
  readonly name: string
  /** They are checked when the projection runs. */
  readonly settings: (typeof Settings)["~type.make.in"]
  readonly retry: Schedule.Schedule<unknown, Cause.Cause<unknown>>
  readonly shardBy: ((event: StoredEvent) => string) | undefined
  /** What is wrong with the classes of its view: also checked when the projection runs. */
  readonly issues: ReadonlyArray<Issue>
  readonly handle: Handle<R>
  readonly clear: ((slot: Slot) => Effect.Effect<unknown, unknown, R>) | undefined
}

/** What handles the events: one of these. The compiler tells of the last one where there is none. */
type Handling<R, V extends View, On> =
  | {
      /** A handler for some classes of the view, by their tags. */
      readonly on: On & Partial<ByTag<V>> & KnownTags<On, V>
      /** Passes events of the other classes. */
      readonly otherwise: "pass"
      readonly handler?: never
      readonly batchHandler?: never
    }
  | {
      /** A handler for each class of the view, by its tag. */
      readonly on: On & ByTag<V>
      readonly otherwise?: never
      readonly handler?: never
      readonly batchHandler?: never
    }
  | {
      readonly batchHandler: BatchHandler<unknown, R, EventOf<V>>
      readonly handler?: never
      readonly on?: never
      readonly otherwise?: never
    }
  | {
      readonly handler: Handler<unknown, R, EventOf<V>>
      readonly batchHandler?: never
      readonly on?: never
      readonly otherwise?: never
    }

/** Which events of the log a projection handles. */
export const filterOf = ({ aggregateIds, eventTypes, items, tags }: Settings) => ({
  ...(aggregateIds === undefined ? {} : { aggregateIds }),
  ...(eventTypes === undefined ? {} : { eventTypes }),
  ...(tags === undefined ? {} : { tags }),
  ...(items === undefined ? {} : { items })
})

/** The settings of a projection, if they and its view are right. */
export const checked = <R>(
  { issues, settings }: Projection<R>,
  operation: string
): Effect.Effect<Settings, InvalidInput> =>
  issues.length > 0
    ? Effect.fail(new InvalidInput({ store: "Projection", operation, issues }))
    : check(Settings, "Projection", operation, settings)

/** What is wrong with the handlers: a projection without one would pass every event. */
const wrongHandlers = <R>(options: Handlers<R> & { readonly otherwise?: "pass" }): ReadonlyArray<Issue> => {
  const { batchHandler, events, handler, on, otherwise } = options
  const issues = notOneOf(options, { handler, batchHandler, on })
  if (issues.length > 0) return issues
  if (handler !== undefined) return notFunctions(options, { handler })
  if (batchHandler !== undefined) return notFunctions(options, { batchHandler })
  return events === undefined
    ? [{ field: "events", message: "Expected a typed view, for whose classes `on` has handlers" }]
    : wrongTags("on", on, events, otherwise === "pass")
}

const defaultRetry = Schedule.exponential("100 millis").pipe(Schedule.jittered, Schedule.upTo({ times: 5 }))

/**
 * Defines a projection. Nothing happens before it runs: `run` fails with `InvalidInput` where the settings are wrong, or where
 * there is no handler.
 *
 * Give it a `handler`, which gets one event, or a `batchHandler`, which gets all events of a batch: one statement for
 * hundreds of events is what makes a projection fast.
 *
 * **Events of a typed view**
 *
 * With `events`, handlers get events of the view: decoded, upcast, and with the classes' types. `on` has a handler for each
 * class, and the compiler says which one is missing; with `otherwise: "pass"` it has handlers for some, and the others are
 * passed. An event that does not decode has failed, as if its handler had: `onFailure` says what becomes of it.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { EventStore, Projection } from "effect-strata"
 * import { SqlClient } from "effect/sql"
 *
 * class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
 * class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { amount: Schema.Int }) {}
 * const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
 *
 * const add = Effect.fn(function* (account: string, amount: number) {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`INSERT INTO balances AS b VALUES (${account}, ${amount})
 *     ON CONFLICT (account) DO UPDATE SET balance = b.balance + excluded.balance`
 * })
 *
 * export const balances = Projection.make({
 *   name: "balances",
 *   events: Accounts,
 *   on: {
 *     Deposited: ({ aggregateId, event }) => add(aggregateId, event.amount),
 *     Withdrawn: ({ aggregateId, event }) => add(aggregateId, -event.amount)
 *   }
 * })
 * ```
 */
export function make<V extends View = undefined, R = never, On = Record<never, never>, RC = never>(
  options: Options & About<V> & Clearing<RC> & { readonly events?: V } & Handling<R, V, On>
): Projection<R | RC | ServicesOfView<V> | ServicesOfTags<On>>
export function make<R>(
  options: Options &
    Clearing<R> &
    Handlers<R> & {
      readonly otherwise?: "pass"
      readonly tags?: ReadonlyArray<string>
      readonly items?: ReadonlyArray<QueryItem & TypedItem<Tagged>>
    }
): Projection<R> {
  const { aggregateIds, batchSize = 500, events, items, name, on, onFailure = "stop", tags } = options
  const { heartbeat = "1 second", retry = defaultRetry, shards = 1 } = options
  const eventTypes = options.eventTypes ?? events?.typesOf(on && Object.keys(on))
  const timeout = timeLimitOf(options.timeout)
  return {
    name,
    settings: {
      name,
      shards,
      batchSize,
      onFailure,
      heartbeat: Option.getOrElse(Duration.fromInput(heartbeat), () => Duration.zero),
      ...(timeout === undefined ? {} : { timeout }),
      ...(eventTypes === undefined ? {} : { eventTypes }),
      ...(aggregateIds === undefined ? {} : { aggregateIds }),
      ...(tags === undefined ? {} : { tags }),
      ...(items === undefined
        ? {}
        : { items: events === undefined ? items : items.map((item) => itemOf(events, item)) })
    },
    issues: [...(events?.issues ?? []), ...wrongHandlers(options)],
    retry,
    shardBy: options.shardBy,
    handle: handleOf(options, timeout),
    clear: options.clear
  }
}
