/** The events of some classes, apart from any store: which stored events they are, and how they are decoded. */
import { Effect, Schema } from "effect"
import type { QueryItem, StoredEvent } from "../Event.ts"
import type { Issue } from "../InvalidInput.ts"
import type { CorruptRow } from "../StoreError.ts"
import * as EventCodec from "./EventCodec.ts"

// Model

/** A stored event with its data decoded. `eventType` is the stored one, which may be an old type of an event that was upcast. */
export interface TypedEvent<out Event> extends Pick<StoredEvent, Exclude<keyof StoredEvent, "data">> {
  readonly event: Event
}

/** An event of a type that the view does not know, as a view with `unknown: "raw"` gives it. */
export class UnknownEvent extends Schema.TaggedClass<UnknownEvent>("effect-strata/EventStore/UnknownEvent")(
  "UnknownEvent",
  { eventType: Schema.String, data: Schema.Json }
) {}

/** What becomes of events of types that a view does not know. */
export type Unknown = "fail" | "skip" | "raw"

/**
 * What a typed view is to a reader: `Projection.make` and `Entity.make` take one, and so does a program of your own that
 * reads rows in another way. `R` are the services that decoding needs.
 */
export interface EventView<out Event, out R = never> {
  /** What is wrong with the classes and upcasts: such a view decodes nothing, and its users fail with `InvalidInput`. */
  readonly issues: ReadonlyArray<Issue>

  /**
   * The stored types that become events with these tags: with all tags of the view unless given. Nothing where events of all
   * types are to be decoded.
   */
  readonly typesOf: (tags?: ReadonlyArray<string>) => ReadonlyArray<string> | undefined

  /**
   * The stored event as an event of the view. It is a `CorruptRow` with the event's version where the data does not fit the
   * class, and where the type is unknown, unless the view's `unknown` is `"raw"`.
   */
  readonly decode: (stored: StoredEvent) => Effect.Effect<TypedEvent<Event>, CorruptRow, R>
}

/** A view's classes and codec, with what becomes of events of other types. */
export interface Parts<Class extends EventCodec.Tagged, R> {
  readonly classes: ReadonlyArray<Class>
  readonly codec: EventCodec.EventCodec<Class, R>
  readonly unknown: Unknown | undefined
  /** What an event is about. */
  readonly tagsOf: (event: Class["Type"]) => ReadonlyArray<string>
}

/** An item of a query by classes, as the store knows it: by event types, old ones included. */
export const itemOf = (
  { typesOf }: Pick<EventView<unknown, unknown>, "typesOf">,
  { events, tags }: { readonly events?: ReadonlyArray<EventCodec.Tagged>; readonly tags?: ReadonlyArray<string> }
): QueryItem => {
  const eventTypes = typesOf(events?.map(EventCodec.tagOf))
  return { ...(eventTypes === undefined ? {} : { eventTypes }), ...(tags === undefined ? {} : { tags }) }
}

// Decoding

/** Part by part, which takes a third of the time of a spread. */
export const withEvent = <Event>(stored: StoredEvent, event: Event): TypedEvent<Event> => ({
  version: stored.version,
  id: stored.id,
  aggregateId: stored.aggregateId,
  eventType: stored.eventType,
  event,
  metadata: stored.metadata,
  createdAt: stored.createdAt,
  streamName: stored.streamName
})

/** The event alone, without the rest of the stored one. */
export const decodeData = <Class extends EventCodec.Tagged, R>(
  { codec, unknown }: Parts<Class, R>,
  stored: StoredEvent
): Effect.Effect<Class["Type"] | UnknownEvent, CorruptRow, Class["DecodingServices"] | R> =>
  unknown === "raw" && !codec.has(stored.eventType)
    ? Effect.succeed(new UnknownEvent({ eventType: stored.eventType, data: stored.data }, { disableChecks: true }))
    : codec.decode(stored)

/**
 * The view of these parts. Events of other types are decoded where they have to be given raw, or to fail; where nothing was
 * chosen they are left to other views.
 */
export const make = <Class extends EventCodec.Tagged, R>(
  parts: Parts<Class, R>
): EventView<Class["Type"] | UnknownEvent, Class["DecodingServices"] | R> => {
  const { classes, codec, unknown } = parts
  return {
    issues: codec.issues,
    typesOf: (tags) => {
      const needsAll = tags === undefined ? unknown === "raw" || unknown === "fail" : tags.includes(UnknownEvent.name)
      return needsAll ? undefined : codec.typesOf(tags ?? classes.map(EventCodec.tagOf))
    },
    decode: (stored) => Effect.mapEager(decodeData(parts, stored), (event) => withEvent(stored, event))
  }
}
