/** What a projection is, and what can go wrong with one. */
import { type Cause, Duration, Effect, Option, Schedule, Schema } from "effect"
import type { DurableStateStore } from "../DurableStateStore.ts"
import { type EventStore, Key, type StoredEvent, Version } from "../EventStore.ts"
import { Identifier, ShardNumber } from "../internal/Fields.ts"
import type { OffsetStore } from "../OffsetStore.ts"
import { StoreError } from "../StoreError.ts"
import type { Transactor } from "../Transactor.ts"

/** What a projection needs besides the services of its handler. */
export type Services = EventStore | OffsetStore | DurableStateStore | Transactor

// Model

/** Shorter than an offset's `projectionName`: ids of states are made of it. */
export const Name = Identifier(200)

/**
 * Which of two copies of the read model is meant: a projection that is rebuilt beside the live one fills the other copy.
 * One that is never rebuilt that way has only the blue one.
 */
export const Slot = Schema.Literals(["blue", "green"])
export type Slot = typeof Slot.Type

export const otherSlot = (slot: Slot): Slot => (slot === "blue" ? "green" : "blue")

const Heartbeat = Schema.Duration.check(
  Schema.makeFilter((duration) =>
    Duration.isGreaterThan(duration, Duration.zero) && Duration.isFinite(duration)
      ? undefined
      : "Expected a finite duration above zero"
  )
)

/** The parts of a projection that can be wrong. */
export class Settings extends Schema.Class<Settings>("effect-strata/Projection/Settings")({
  name: Name,
  shards: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1024 })),
  batchSize: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 })),
  eventTypes: Schema.optionalKey(Schema.Array(Key)),
  aggregateIds: Schema.optionalKey(Schema.Array(Key)),
  onFailure: Schema.Literals(["stop", "skip", "park"]),
  heartbeat: Heartbeat
}) {}

/** One projection, by its name. */
export class ByName extends Schema.Class<ByName>("effect-strata/Projection/ByName")({ name: Name }) {}

/** Which of its parked aggregates are to be retried: all unless given. */
export class Retry extends Schema.Class<Retry>("effect-strata/Projection/Retry")({
  name: Name,
  aggregateIds: Schema.optionalKey(Schema.Array(Key))
}) {}

/** The version that a projection is to be at. */
export class At extends Schema.Class<At>("effect-strata/Projection/At")({ name: Name, version: Version }) {}

/** Why an event was not handled, in words. */
export class Failure extends Schema.Class<Failure>("effect-strata/Projection/Failure")({
  shardNumber: ShardNumber,
  version: Version,
  eventId: Schema.String,
  aggregateId: Schema.String,
  eventType: Schema.String,
  /** The handler's error, or defect, with its stack. */
  error: Schema.String,
  /** When, in epoch milliseconds, by `Clock`. */
  at: Schema.Int
}) {}

// Errors

/** An event could not be handled, and the projection stops before it. */
export class ProjectionFailed extends Schema.TaggedError<ProjectionFailed>("effect-strata/Projection/ProjectionFailed")(
  "ProjectionFailed",
  {
    projectionName: Schema.String,
    shardNumber: ShardNumber,
    version: Version,
    eventId: Schema.String,
    aggregateId: Schema.String,
    eventType: Schema.String,
    attempts: Schema.Int,
    /** What the handler failed with. */
    cause: Schema.Defect()
  }
) {
  override get message(): string {
    return (
      `Projection "${this.projectionName}" stopped before event ${this.version} ("${this.eventType}" of ` +
      `"${this.aggregateId}", shard ${this.shardNumber}): the handler failed ${this.attempts} times; nothing of it is ` +
      "stored: mend the handler and run it again, or let it skip or park such events"
    )
  }
}

/** The projection has been run with another number of shards: its offsets would not mean the same events any more. */
export class ShardCountMismatch extends Schema.TaggedError<ShardCountMismatch>(
  "effect-strata/Projection/ShardCountMismatch"
)("ShardCountMismatch", { projectionName: Schema.String, recorded: Schema.Int, requested: Schema.Int }) {
  override get message(): string {
    return (
      `Projection "${this.projectionName}" has ${this.recorded} shards, not ${this.requested}: run it with ` +
      `${this.recorded}, or let Projection.remove forget its offsets and build the read model anew`
    )
  }
}

/** A projection of this name runs in this process already. */
export class DuplicateProjection extends Schema.TaggedError<DuplicateProjection>(
  "effect-strata/Projection/DuplicateProjection"
)("DuplicateProjection", { projectionName: Schema.String }) {
  override get message(): string {
    return `Projection "${this.projectionName}" runs in this process already: give each one a name of its own`
  }
}

/** No projection of this name has ever run on this database. */
export class UnknownProjection extends Schema.TaggedError<UnknownProjection>(
  "effect-strata/Projection/UnknownProjection"
)("UnknownProjection", { projectionName: Schema.String }) {
  override get message(): string {
    return `No projection "${this.projectionName}" has run on this database yet`
  }
}

/** Somebody else has moved the offset, or changed what runners go by: look again at everything. */
export class Outdated {
  readonly _tag = "Outdated"
}

/** The database could not be used just now: to be waited for. */
export const isTransient = (error: unknown): error is StoreError => error instanceof StoreError && error.isRetryable

/** The projection has not handled the version in time. */
export class AwaitTimeout extends Schema.TaggedError<AwaitTimeout>("effect-strata/Projection/AwaitTimeout")(
  "AwaitTimeout",
  {
    projectionName: Schema.String,
    version: Version,
    /** How far its slowest shard is; none where it has never run. */
    reached: Schema.Option(Version)
  }
) {
  override get message(): string {
    const reached = Option.match(this.reached, { onNone: () => "has not run yet", onSome: (at) => `is at ${at}` })
    return `Projection "${this.projectionName}" has not handled version ${this.version} in time: it ${reached}`
  }
}

/** The handler failed. `index` is that of the event among those it was given, if that is known. */
export class HandlerFailed {
  readonly _tag = "HandlerFailed"
  readonly cause: Cause.Cause<unknown>
  readonly index: number | undefined
  constructor(cause: Cause.Cause<unknown>, index: number | undefined) {
    this.cause = cause
    this.index = index
  }
}

// Definition

export interface Options {
  /** Its name: the key of its offsets. At most 200 characters. */
  readonly name: string
  /** Into how many parts the events are divided, by their aggregates: 1 unless given. It is recorded at the first run. */
  readonly shards?: number
  /** Only events of these types; others are read and passed. */
  readonly eventTypes?: ReadonlyArray<string>
  /** Only events of these aggregates; others are read and passed. */
  readonly aggregateIds?: ReadonlyArray<string>
  /** How many events are handled in one transaction, at most: 500 unless given. */
  readonly batchSize?: number
  /**
   * When to try again to handle an event that has failed: after some 100 milliseconds, then ever later, 5 times, unless
   * given. It gets the `Cause` of the failure.
   */
  readonly retry?: Schedule.Schedule<unknown, Cause.Cause<unknown>>
  /**
   * What to do once that has ended: `"stop"` before the event, which is the default; `"skip"` it, and record that; or
   * `"park"` its aggregate, which waits for `retryParked` while the others go on.
   */
  readonly onFailure?: "stop" | "skip" | "park"
  /** How often a process says that it lives: every second unless given. After three silent ones others take its shards. */
  readonly heartbeat?: Duration.Input
}

/** Handles one event. What it writes commits together with the offset. */
export type Handler<E, R> = (event: StoredEvent, slot: Slot) => Effect.Effect<unknown, E, R>

/** Handles the events of one batch, in order of their versions: at least one. */
export type BatchHandler<E, R> = (events: ReadonlyArray<StoredEvent>, slot: Slot) => Effect.Effect<unknown, E, R>

/** A projection, to be run. `R` are the services of its handler. */
export interface Projection<out R = never> {
  readonly name: string
  /** Not looked at before it runs. */
  readonly settings: (typeof Settings)["~type.make.in"]
  readonly retry: Schedule.Schedule<unknown, Cause.Cause<unknown>>
  readonly handle: (events: ReadonlyArray<StoredEvent>, slot: Slot) => Effect.Effect<void, HandlerFailed, R>
}

const defaultRetry = Schedule.exponential("100 millis").pipe(Schedule.jittered, Schedule.upTo({ times: 5 }))

/** Whatever becomes of the handler is a failure: defects too, and whatever it throws before there is an effect. */
const caught = <E, R>(
  handle: () => Effect.Effect<unknown, E, R>,
  index: number | undefined
): Effect.Effect<unknown, HandlerFailed, R> =>
  Effect.catchCause(Effect.suspend(handle), (cause) => Effect.fail(new HandlerFailed(cause, index)))

const oneByOne =
  <E, R>(handler: Handler<E, R>): Projection<R>["handle"] =>
  (events, slot) => {
    let index = 0
    return Effect.whileLoop({
      while: () => index < events.length,
      body: () => {
        const event = events[index]
        return event === undefined ? Effect.void : caught(() => handler(event, slot), index)
      },
      step: () => {
        index++
      }
    })
  }

/**
 * Defines a projection; nothing happens before it runs. Wrong settings are an `InvalidInput` of `run`.
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
  return {
    name,
    settings: {
      name,
      shards,
      batchSize,
      onFailure,
      heartbeat: Option.getOrElse(Duration.fromInput(heartbeat), () => Duration.zero),
      ...(eventTypes === undefined ? {} : { eventTypes }),
      ...(aggregateIds === undefined ? {} : { aggregateIds })
    },
    retry,
    handle:
      batchHandler === undefined
        ? oneByOne(handler)
        : (events, slot) => Effect.asVoid(caught(() => batchHandler(events, slot), undefined))
  }
}
