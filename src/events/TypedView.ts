/** A typed view: what `EventStore.typed` gives. */
import { Effect, Effectable } from "effect"
import { InvalidInput, type Issue } from "../InvalidInput.ts"
import * as EventCodec from "./EventCodec.ts"
import { make, type TypedEvents, type UntypedEvents } from "./TypedEvents.ts"
import type { TagAmong, TagsByClass, TagsOf } from "./TypedQuery.ts"
import { type EventView, make as makeView, type Unknown, type UnknownEvent } from "./View.ts"

type ServicesOf<Upcasts> = Upcasts extends EventCodec.Upcast<unknown, infer R> ? R : never

/** Refuses upcasts to classes that the view does not have, in words that name the class. */
type IntoView<Upcasts, Event extends EventCodec.Tagged["Type"]> = {
  readonly [Index in keyof Upcasts]: Upcasts[Index] extends EventCodec.Upcast<
    infer To extends EventCodec.Tagged["Type"],
    unknown
  >
    ? [To] extends [Event]
      ? unknown
      : `"${Exclude<To, Event>["_tag"]}" is not among the events of this view`
    : never
}

/**
 * A typed view before it has a store. Its effect gives the operations on the store, and fails with `InvalidInput` where the
 * classes and upcasts do not fit together; as an `EventView` it goes into projections and entities.
 */
export class TypedView<
  Class extends EventCodec.Tagged,
  Other = never,
  R = never,
  Id = never,
  Tag extends string = string
>
  extends Effectable.Class<TypedEvents<Class, Other, R, Tag>, InvalidInput, Id>
  implements EventView<Class["Type"] | Other, Class["DecodingServices"] | R>
{
  readonly issues: ReadonlyArray<Issue>
  readonly typesOf: (tags?: ReadonlyArray<string>) => ReadonlyArray<string> | undefined
  readonly decode: EventView<Class["Type"] | Other, Class["DecodingServices"] | R>["decode"]
  /** What an event is about, as the view says. */
  readonly tagsOf: (event: Class["Type"]) => ReadonlyArray<Tag>
  private readonly operations: Effect.Effect<TypedEvents<Class, Other, R, Tag>, InvalidInput, Id>

  constructor(
    view: EventView<Class["Type"] | Other, Class["DecodingServices"] | R>,
    tagsOf: (event: Class["Type"]) => ReadonlyArray<Tag>,
    operations: Effect.Effect<TypedEvents<Class, Other, R, Tag>, InvalidInput, Id>
  ) {
    super()
    this.issues = view.issues
    this.typesOf = view.typesOf
    this.decode = view.decode
    this.tagsOf = tagsOf
    this.operations = operations
  }

  override asEffect() {
    return this.operations
  }
}

/** Makes `EventStore.typed` on the store that `events` gives. */
export const over = <Id>(events: Effect.Effect<UntypedEvents, never, Id>) => {
  function typed<
    const Classes extends ReadonlyArray<EventCodec.Tagged>,
    const Upcasts extends ReadonlyArray<EventCodec.Upcast<EventCodec.Tagged["Type"], unknown>> = [],
    Other extends Unknown = "fail",
    Tags extends TagsOf<Classes[number]["Type"]> = TagsOf<Classes[number]["Type"]>
  >(options: {
    readonly events: Classes
    readonly upcast?: Upcasts & IntoView<Upcasts, Classes[number]["Type"]>
    readonly unknown?: Other
    readonly tags?: TagsByClass<Classes[number]["Type"], Tags>
  }): TypedView<
    Classes[number],
    Other extends "raw" ? UnknownEvent : never,
    ServicesOf<Upcasts[number]>,
    Id,
    TagAmong<Tags>
  >
  function typed<Class extends EventCodec.Tagged>(options: {
    readonly events: ReadonlyArray<Class>
    readonly upcast?: ReadonlyArray<EventCodec.Upcast<Class["Type"], unknown>>
    readonly unknown?: Unknown
    readonly tags?: Readonly<Record<string, ((event: Class["Type"]) => ReadonlyArray<string>) | undefined>>
  }): TypedView<Class, UnknownEvent, unknown, Id> {
    const codec = EventCodec.make(options.events, options.upcast ?? [])
    const tagsOf = (event: Class["Type"]) => options.tags?.[event._tag]?.(event) ?? []
    const parts = { classes: options.events, codec, unknown: options.unknown, tagsOf }
    return new TypedView(
      makeView(parts),
      tagsOf,
      codec.issues.length > 0
        ? Effect.fail(new InvalidInput({ store: "EventStore", operation: "typed", issues: codec.issues }))
        : Effect.map(events, (events) => make(events, parts))
    )
  }
  return typed
}
