/** How a projection's handlers are called: with stored events, or with those of a typed view. */
import { Cause, Context, type Duration, Effect, type Fiber, Tracer } from "effect"
import type { StoredEvent } from "../Event.ts"
import type { EventView, TypedEvent } from "../events/View.ts"
import { withinLimit } from "../internal/HandlerTimeout.ts"
import { isTraced } from "../internal/Instruments.ts"
import type * as Telemetry from "../internal/Telemetry.ts"
import * as TraceParent from "../internal/TraceParent.ts"
import * as Origin from "../Origin.ts"
import { HandlerFailed } from "./Errors.ts"
import type { Slot } from "./Slot.ts"

// Model

/** Handles one event. What the handler writes commits together with the offset. */
export type Handler<E, R, Event = StoredEvent> = (event: Event, slot: Slot) => Effect.Effect<unknown, E, R>

/** Handles the events of one batch, at least one, in order of their versions. */
export type BatchHandler<E, R, Event = StoredEvent> = (
  events: ReadonlyArray<Event>,
  slot: Slot
) => Effect.Effect<unknown, E, R>

interface Tagged {
  readonly _tag: string
}

/** The view of a projection, if it has one. */
export type View = EventView<Tagged, unknown> | undefined

/**
 * What a handler gets: an event of the view, or a stored event where there is no view. The absent view is asked for first: then
 * the compiler also knows the event inside of `Effect.fn`, where it has not chosen `V` yet.
 */
export type EventOf<V extends View> = [V] extends [undefined]
  ? StoredEvent
  : V extends EventView<infer Event, unknown>
    ? TypedEvent<Event>
    : never

/** A handler for each class of the view, by its tag. */
export type ByTag<V extends View> =
  V extends EventView<infer Event extends Tagged, unknown>
    ? {
        readonly [Tag in Event["_tag"]]: Handler<unknown, unknown, TypedEvent<Extract<Event, { readonly _tag: Tag }>>>
      }
    : never

/** Refuses handlers for tags that the view does not have. */
export type KnownTags<On, V extends View> = { readonly [Tag in Exclude<keyof On, keyof ByTag<V>>]?: never }

/** The services that the view's schemas need. */
export type ServicesOfView<V extends View> = V extends EventView<Tagged, infer R> ? R : never

/** The services that handlers by tag need. */
export type ServicesOfTags<On> = {
  readonly [Tag in keyof On]: On[Tag] extends (...args: never) => Effect.Effect<unknown, unknown, infer R> ? R : never
}[keyof On]

/**
 * The handlers of a projection, of which it has one kind. They are methods, whose parameters the compiler compares in both
 * directions: the types of `make` have made sure that a handler gets the events that it takes.
 */
export interface Handlers<R> {
  readonly events?: EventView<Tagged, R>
  handler?(event: StoredEvent | TypedEvent<Tagged>, slot: Slot): Effect.Effect<unknown, unknown, R>
  batchHandler?(events: ReadonlyArray<StoredEvent | TypedEvent<Tagged>>, slot: Slot): Effect.Effect<unknown, unknown, R>
  readonly on?: Readonly<Record<string, Handler<unknown, R, TypedEvent<Tagged>>>>
}

/** Handles events in order. A failure has the place of the event that has failed, if it is known. */
export type Handle<R> = (events: ReadonlyArray<StoredEvent>, slot: Slot) => Effect.Effect<void, HandlerFailed, R>

// Calling

/** Turns every failure of the handler into one error: defects, too, and what it throws before it returns an effect. */
const caught = <E, R>(
  handle: () => Effect.Effect<unknown, E, R>,
  timeout: Duration.Duration | undefined,
  index: number | undefined
): Effect.Effect<unknown, HandlerFailed, R> =>
  Effect.catchCause(withinLimit(Effect.suspend(handle), timeout), (cause) =>
    Effect.fail(new HandlerFailed(cause, index))
  )

/**
 * Runs the handler of an event. Where spans are collected, and the event names the span that has appended it, the handler has a
 * span that is linked to that one.
 */
const linked = <A, E, R>(
  fiber: Fiber.Fiber<unknown, unknown>,
  event: StoredEvent,
  handled: () => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const writer = isTraced(fiber) ? TraceParent.of(event) : undefined
  if (writer === undefined) return handled()
  const links = [{ span: writer, attributes: {} }]
  return Effect.useSpan("Projection.handle" satisfies Telemetry.SpanName, { kind: "consumer", links }, (span) =>
    Effect.provideService(Effect.suspend(handled), Tracer.ParentSpan, span)
  )
}

/**
 * Handles one event after the other. What a handler writes is caused by its event: the context of the fiber says so, and is
 * changed in place: that takes 0.15 us, where `Effect.provideService` takes 0.5 us.
 */
const oneByOne =
  <R>(handler: Handler<unknown, R>, timeout: Duration.Duration | undefined): Handle<R> =>
  (events, slot) =>
    Effect.withFiber((fiber) => {
      const { context } = fiber
      let index = 0
      const all = Effect.whileLoop({
        while: () => index < events.length,
        body: () => {
          const event = events[index]
          if (event === undefined) return Effect.void
          fiber.setContext(Context.add(context, Origin.Origin, Origin.of(event)))
          return caught(() => linked(fiber, event, () => handler(event, slot)), timeout, index)
        },
        step: () => {
          index++
        }
      })
      return Effect.onExitPrimitive(all, () => {
        fiber.setContext(context)
        return undefined
      })
    })

const inBatches =
  <R>(handler: BatchHandler<unknown, R>, timeout: Duration.Duration | undefined): Handle<R> =>
  (events, slot) =>
    Effect.asVoid(caught(() => handler(events, slot), timeout, undefined))

// With a view

/** Decodes each event before it is handled: one that does not decode has failed, as if its handler had. */
const decodedOneByOne =
  <Event, R>({ decode }: EventView<Event, R>, handler: Handler<unknown, R, TypedEvent<Event>>): Handler<unknown, R> =>
  (stored, slot) =>
    Effect.flatMapEager(decode(stored), (event) => handler(event, slot))

/** Decodes the events of a batch first. The place of one that does not decode is known: the batch need not be halved for it. */
const decodedInBatches = <Event, R>(
  { decode }: EventView<Event, R>,
  handler: BatchHandler<unknown, R, TypedEvent<Event>>,
  timeout: Duration.Duration | undefined
): Handle<R> =>
  Effect.fnUntraced(function* (events, slot) {
    const decoded = yield* Effect.forEach(events, (stored, index) =>
      Effect.mapErrorEager(decode(stored), (error) => new HandlerFailed(Cause.fail(error), index))
    )
    yield* caught(() => handler(decoded, slot), timeout, undefined)
  })

/** Hands each event to the handler of its tag, if there is one. */
const byTag =
  <R>(on: Readonly<Record<string, Handler<unknown, R, TypedEvent<Tagged>>>>): Handler<unknown, R, TypedEvent<Tagged>> =>
  (typed, slot) =>
    on[typed.event._tag]?.(typed, slot) ?? Effect.void

/** How the events of a batch are handled. */
export const handleOf = <R>(
  { batchHandler, events: view, handler, on = {} }: Handlers<R>,
  timeout: Duration.Duration | undefined
): Handle<R> => {
  if (batchHandler !== undefined) {
    return view === undefined ? inBatches(batchHandler, timeout) : decodedInBatches(view, batchHandler, timeout)
  }
  if (view !== undefined) return oneByOne(decodedOneByOne(view, handler ?? byTag(on)), timeout)
  return oneByOne(handler ?? (() => Effect.void), timeout)
}
