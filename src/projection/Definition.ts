/** What a projection is: its name, its settings and its handler. */
import { type Cause, Duration, Effect, Option, Schedule, Schema } from "effect"
import type { DurableStateStore } from "../DurableStateStore.ts"
import { type EventStore, Key, type StoredEvent, Version } from "../EventStore.ts"
import { Identifier, ShardNumber } from "../internal/Fields.ts"
import { TimeLimit, timeLimitOf, withinLimit } from "../internal/HandlerTimeout.ts"
import type { OffsetStore } from "../OffsetStore.ts"
import type { Transactor } from "../Transactor.ts"
import { HandlerFailed } from "./Errors.ts"

/** What a projection needs besides the services of its handler. */
export type Services = EventStore | OffsetStore | DurableStateStore | Transactor

// Model

/** A projection's name: at most 200 characters, fewer than in an offset, as ids of states are made of the name. */
export const Name = Identifier(200)

/**
 * One of the two copies of a read model: a rebuild beside the live copy fills the other one, then they are switched. A
 * projection that is never rebuilt that way has only the blue copy.
 */
export const Slot = Schema.Literals(["blue", "green"])
export type Slot = typeof Slot.Type

export const otherSlot = (slot: Slot): Slot => (slot === "blue" ? "green" : "blue")

/** The parts of a projection that are checked before it runs. */
export class Settings extends Schema.Class<Settings>("effect-strata/Projection/Settings")({
  name: Name,
  shards: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1024 })),
  batchSize: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 })),
  eventTypes: Schema.optionalKey(Schema.Array(Key)),
  aggregateIds: Schema.optionalKey(Schema.Array(Key)),
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

export interface Options {
  /** Its name: the key of its offsets. At most 200 characters. */
  readonly name: string
  /** Into how many shards the events are divided, by their aggregates or by `shardBy`: 1 unless given. The first run records the number. */
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
  /** The types of events that are handled, all unless given: others are read and passed. */
  readonly eventTypes?: ReadonlyArray<string>
  /** The aggregates whose events are handled, all unless given: others are read and passed. */
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
   * silence.
   */
  readonly heartbeat?: Duration.Input
  /**
   * How long a call of the handler may take: as long as it wants unless given. Then the handler is interrupted, and has failed
   * with `HandlerTimeout`: a failure like any other. A `batchHandler` that was too slow gets half of the events next.
   */
  readonly timeout?: Duration.Input
}

/** Handles one event. What the handler writes commits together with the offset. */
export type Handler<E, R> = (event: StoredEvent, slot: Slot) => Effect.Effect<unknown, E, R>

/** Handles the events of one batch, at least one, in order of their versions. */
export type BatchHandler<E, R> = (events: ReadonlyArray<StoredEvent>, slot: Slot) => Effect.Effect<unknown, E, R>

/** A projection, to be run. `R` are the services of its handler. */
export interface Projection<out R = never> {
  readonly name: string
  /** They are checked when the projection runs. */
  readonly settings: (typeof Settings)["~type.make.in"]
  readonly retry: Schedule.Schedule<unknown, Cause.Cause<unknown>>
  readonly shardBy: ((event: StoredEvent) => string) | undefined
  readonly handle: (events: ReadonlyArray<StoredEvent>, slot: Slot) => Effect.Effect<void, HandlerFailed, R>
}

const defaultRetry = Schedule.exponential("100 millis").pipe(Schedule.jittered, Schedule.upTo({ times: 5 }))

/** Turns every failure of the handler into one error: defects, too, and what it throws before it returns an effect. */
const caught = <E, R>(
  handle: () => Effect.Effect<unknown, E, R>,
  timeout: Duration.Duration | undefined,
  index: number | undefined
): Effect.Effect<unknown, HandlerFailed, R> =>
  Effect.catchCause(withinLimit(Effect.suspend(handle), timeout), (cause) =>
    Effect.fail(new HandlerFailed(cause, index))
  )

const oneByOne =
  <E, R>(handler: Handler<E, R>, timeout: Duration.Duration | undefined): Projection<R>["handle"] =>
  (events, slot) => {
    let index = 0
    return Effect.whileLoop({
      while: () => index < events.length,
      body: () => {
        const event = events[index]
        return event === undefined ? Effect.void : caught(() => handler(event, slot), timeout, index)
      },
      step: () => {
        index++
      }
    })
  }

/**
 * Defines a projection. Nothing happens before it runs: `run` fails with `InvalidInput` where the settings are wrong.
 *
 * Give it a `handler`, which gets one event, or a `batchHandler`, which gets all events of a batch: one statement for
 * hundreds of events is what makes a projection fast.
 */
export const make = <E, R>(
  options: Options &
    (
      | { readonly handler: Handler<E, R>; readonly batchHandler?: never }
      | { readonly batchHandler: BatchHandler<E, R>; readonly handler?: never }
    )
): Projection<R> => {
  const { aggregateIds, batchHandler, batchSize = 500, eventTypes, handler, name, onFailure = "stop" } = options
  const { heartbeat = "1 second", retry = defaultRetry, shards = 1 } = options
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
      ...(aggregateIds === undefined ? {} : { aggregateIds })
    },
    retry,
    shardBy: options.shardBy,
    handle:
      batchHandler === undefined
        ? oneByOne(handler, timeout)
        : (events, slot) => Effect.asVoid(caught(() => batchHandler(events, slot), timeout, undefined))
  }
}
