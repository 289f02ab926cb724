/** Queries of a typed view: by classes instead of event types, and by the tags that the view's events can have. */
import type { Query, QueryItem, Subscription } from "../Event.ts"
import * as EventCodec from "./EventCodec.ts"
import type { Parts } from "./View.ts"

// Model

/** What the tags of each class look like, by the tag of the class: any text where that is not known. */
export type TagsOf<Event extends { readonly _tag: string }> = { readonly [Name in Event["_tag"]]?: string }

/** What events of the classes are about: by the tag of a class, a function that gives the tags of its events. */
export type TagsByClass<Event extends { readonly _tag: string }, Tags extends TagsOf<Event> = TagsOf<Event>> = {
  readonly [Name in keyof Tags]: (event: Extract<Event, { readonly _tag: Name }>) => ReadonlyArray<Tags[Name]>
} & { readonly [Name in Exclude<keyof Tags, Event["_tag"]>]?: never }

/** What all of these tags look like, such as `course:${string}`. */
export type TagAmong<Tags> = Exclude<Tags[keyof Tags], undefined>

/** An item of a query by classes instead of event types: see `QueryItem`. */
export interface TypedItem<Class, Tag extends string = string> {
  readonly events?: ReadonlyArray<Class>
  readonly tags?: ReadonlyArray<Tag>
}

interface ByClass<Class, Tag extends string = string> {
  /** Only events of these classes, also those that were stored under an old type. */
  readonly events?: ReadonlyArray<Class>
  /** Tags that an event must have, all of them. */
  readonly tags?: ReadonlyArray<Tag>
  /** Items of a query, of which an event must match one. */
  readonly items?: ReadonlyArray<TypedItem<Class, Tag>>
}

export type QueryInput = Exclude<(typeof Query)["~type.make.in"], void>
export type SubscriptionInput = (typeof Subscription)["~type.make.in"]

/** The fields that are by class here. */
type ByType = "eventTypes" | "items" | "tags"

/** Which events to read: a query by classes instead of event types. */
export interface TypedQuery<Class, Tag extends string = string>
  extends Pick<QueryInput, Exclude<keyof QueryInput, ByType>>, ByClass<Class, Tag> {}

/** Which events to follow, and from where: a subscription by classes instead of event types. */
export interface TypedSubscription<Class, Tag extends string = string>
  extends Pick<SubscriptionInput, Exclude<keyof SubscriptionInput, ByType>>, ByClass<Class, Tag> {}

// Choosing

/** An item as the store knows it. Without classes it is of the types that are asked for besides. */
export const itemOf = <Class extends EventCodec.Tagged, R>(
  { codec }: Parts<Class, R>,
  { events, tags }: TypedItem<Class>
): QueryItem => ({
  ...(events === undefined ? {} : { eventTypes: codec.typesOf(events.map(EventCodec.tagOf)) }),
  ...(tags === undefined ? {} : { tags })
})

/**
 * What to ask the store for. The view asks for all types where it has to give unknown events raw, or to fail at them: with
 * `"fail"`, and in a read that names aggregates, which is their whole history.
 */
export const choiceOf = <Class extends EventCodec.Tagged, R>(
  view: Parts<Class, R>,
  { aggregateIds, events: only, items, tags }: ByClass<Class> & Pick<QueryInput, "aggregateIds">
) => {
  const { classes, codec, unknown } = view
  const needsAll = only === undefined && unknown !== "skip" && (unknown !== undefined || aggregateIds !== undefined)
  return {
    ...(needsAll ? {} : { eventTypes: codec.typesOf((only ?? classes).map(EventCodec.tagOf)) }),
    ...(tags === undefined ? {} : { tags }),
    ...(items === undefined ? {} : { items: items.map((item) => itemOf(view, item)) })
  }
}
