/**
 * Translates between the classes of a typed view and the stored events.
 *
 * Stored events stay plain: the tag of a class is the event type, and its fields, as JSON, are the data. The only trace of a
 * typed view in the table is `schemaVersion` in the metadata of an event whose class has changed.
 */
import { Effect, Exit, Predicate, Result, Schema, type SchemaIssue, SchemaParser } from "effect"
import type { NewEvent, StoredEvent } from "../Event.ts"
import type { Arguments } from "../internal/Arguments.ts"
import { encodingIssues } from "../internal/PlainObject.ts"
import { invalidInput, type Issue } from "../InvalidInput.ts"
import { CorruptRow } from "../StoreError.ts"

// Model

/** A class that `Schema.TaggedClass` made, or a struct of `Schema.TaggedStruct`. */
export interface Tagged extends Schema.Constraint {
  readonly Type: { readonly _tag: string }
  readonly fields: { readonly _tag: { readonly schema: { readonly literal: string } } }
}

interface Makable extends Tagged, Arguments {
  readonly Type: Tagged["Type"]
}

/** Makes events of a class from events of one type with one version of the payload: see `upcast`. */
export interface Upcast<out Event, out R = never> {
  readonly eventType: string
  readonly version: number
  /** The tag of the class. */
  readonly to: string
  readonly decode: (data: Schema.Json) => Effect.Effect<Event, SchemaIssue.Issue, R>
}

// Upcasting

/** The event type of a class. */
export const tagOf = (schema: Tagged): string => schema.fields._tag.schema.literal

const isObject = (json: Schema.Json): json is Schema.JsonObject => Predicate.isObject(json) && !Array.isArray(json)

/** The decoder of a class from data without the tag. Null stands for the data of a class without fields. */
const decoderOf = <Class extends Tagged>(schema: Class) => {
  const _tag = tagOf(schema)
  const decode = SchemaParser.decodeUnknownEffect(Schema.toCodecJson(schema))
  return (data: Schema.Json) => decode(data === null ? { _tag } : isObject(data) ? { ...data, _tag } : data)
}

/**
 * Says how events that were stored in an old form become events of a class of today.
 *
 * **Details**
 *
 * `from` is a tagged class of the old form. If its tag is not the one of `to`, the event type was renamed. If the tags are
 * the same, `from` is an old version of the payload, and `version` is its number: 1 unless given. New events get the version
 * one above the highest that is upcast, as `schemaVersion` in their metadata. An event without `schemaVersion` has version 1.
 *
 * **Gotchas**
 *
 * Other programs that write events of this type have to write `schemaVersion`, too. Deploy the upcasts to all readers before
 * any writer appends the new form: an event with a version above the view's own is a `CorruptRow`. An append in the old form
 * that is tried again in the new form with the same id is a `DuplicateEvent`.
 *
 * ```ts
 * import { Schema } from "effect"
 * import { EventStore } from "effect-strata"
 *
 * class UserRegistered extends Schema.TaggedClass<UserRegistered>()("UserRegistered", { fullName: Schema.String }) {}
 * class UserCreatedV1 extends Schema.TaggedClass<UserCreatedV1>()("UserCreated", { name: Schema.String }) {}
 * class UserCreated extends Schema.TaggedClass<UserCreated>()("UserCreated", {
 *   name: Schema.String,
 *   locale: Schema.String
 * }) {}
 *
 * export const Users = EventStore.typed({
 *   events: [UserCreated],
 *   upcast: [
 *     EventStore.upcast({ from: UserRegistered, to: UserCreated, map: (old) => ({ name: old.fullName, locale: "en" }) }),
 *     EventStore.upcast({ from: UserCreatedV1, version: 1, to: UserCreated, map: ({ name }) => ({ name, locale: "en" }) })
 *   ]
 * })
 * ```
 */
export const upcast = <From extends Tagged, To extends Makable>({
  from,
  map,
  to,
  version = 1
}: {
  readonly from: From
  readonly version?: number
  readonly to: To
  /** Gives the fields from which `to` is made. */
  readonly map: (old: From["Type"]) => To["~type.make.in"]
}): Upcast<To["Type"], From["DecodingServices"]> => {
  const decode = decoderOf(from)
  return {
    eventType: tagOf(from),
    version,
    to: tagOf(to),
    decode: (data) => Effect.flatMapEager(decode(data), (old) => to.makeEffect(map(old)))
  }
}

// The codec

/** The key in an event's metadata under which the version of its payload stands. */
const versionKey = "schemaVersion"

/** Decodes and encodes the events of some classes. `R` are the services that upcasts need besides those of the classes. */
export interface EventCodec<Class extends Tagged, R> {
  /** What is wrong with the classes and upcasts. */
  readonly issues: ReadonlyArray<Issue>

  /** Whether events of this stored type become events of the classes. */
  readonly has: (eventType: string) => boolean

  /** The stored types whose events become events with some of the tags. */
  readonly typesOf: (tags: ReadonlyArray<string>) => ReadonlyArray<string>

  /** The event, or why it does not decode. */
  readonly decode: (stored: StoredEvent) => Effect.Effect<Class["Type"], CorruptRow, Class["DecodingServices"] | R>

  /** The event as it is stored, or what is wrong with it. */
  readonly encode: (
    event: unknown,
    metadata: Schema.JsonObject | undefined
  ) => Effect.Effect<Encoded, ReadonlyArray<Issue>, Class["EncodingServices"]>
}

type Encoded = Pick<(typeof NewEvent)["~type.make.in"], "eventType" | "data" | "metadata">

/** How events of one stored type are decoded. */
interface StoredType<Event, R> {
  /** The tag of the class that they become events of. */
  readonly to: string
  /** The version that new events get. An old type has none. */
  current: number | undefined
  readonly decoders: Map<unknown, Upcast<Event, R>["decode"]>
}

const isDone = <A, E, R>(effect: Effect.Effect<A, E, R>): effect is Exit.Success<A> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

/**
 * The result of an effect that is done already. Most schemas are, and then a pass through the fiber would cost more than they do.
 */
export const resultOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Result.Result<A, E> | undefined =>
  isDone(effect) ? Result.succeed(effect.value) : undefined

const issuesOf = (issue: SchemaIssue.Issue): ReadonlyArray<Issue> => invalidInput("", "", issue).issues

/** The `CorruptRow` of an event, by its version. */
const corruptRow = (stored: StoredEvent, message: string): CorruptRow =>
  new CorruptRow({
    table: "events",
    key: String(stored.version),
    message: `event ${stored.version} of aggregate "${stored.aggregateId}" ${message}`
  })

type Types<Class extends Tagged, R> = ReadonlyMap<string, StoredType<Class["Type"], Class["DecodingServices"] | R>>

/** The stored types, and what is wrong with the classes and upcasts. */
const typesOf = <Class extends Tagged, R>(
  classes: ReadonlyArray<Class>,
  upcasts: ReadonlyArray<Upcast<Class["Type"], R>>
): { readonly types: Types<Class, R>; readonly issues: ReadonlyArray<Issue> } => {
  const types = new Map<string, StoredType<Class["Type"], Class["DecodingServices"] | R>>()
  const issues: Array<Issue> = []
  const tags = new Set(classes.map(tagOf))
  if (tags.size < classes.length) issues.push({ field: "events", message: "Expected each tag once" })
  for (const to of tags) types.set(to, { to, current: 1, decoders: new Map() })
  for (const [index, { decode, eventType, to, version }] of upcasts.entries()) {
    const wrong = (message: string) => issues.push({ field: `upcast.${index}`, message })
    const type = types.get(eventType) ?? { to, current: undefined, decoders: new Map() }
    if (!tags.has(to)) wrong(`Expected ${to} to be among the events`)
    if (type.to !== to) wrong(`Expected all events of the type ${eventType} to become ${type.to}`)
    if (!Number.isSafeInteger(version) || version < 1) wrong("Expected a version that is a whole number from 1 on")
    if (type.decoders.has(version)) wrong(`Expected version ${version} of ${eventType} once`)
    type.decoders.set(version, decode)
    if (type.current !== undefined) type.current = Math.max(type.current, version + 1)
    types.set(eventType, type)
  }
  for (const schema of classes) {
    const type = types.get(tagOf(schema))
    type?.decoders.set(type.current, decoderOf(schema))
  }
  return { types, issues }
}

const decodeBy =
  <Class extends Tagged, R>(types: Types<Class, R>): EventCodec<Class, R>["decode"] =>
  (stored) => {
    const { data, eventType, metadata } = stored
    const type = types.get(eventType)
    if (type === undefined) {
      const help = `add its class or an upcast, or choose with "unknown" what becomes of it`
      return Effect.fail(corruptRow(stored, `has the type "${eventType}", which is not of this view; ${help}`))
    }
    const version = metadata?.[versionKey] ?? 1
    const decode = type.decoders.get(version)
    if (decode === undefined) {
      const unknown = `${versionKey} ${JSON.stringify(version)}, which this view does not know of "${eventType}"`
      return Effect.fail(corruptRow(stored, `has ${unknown}; add an upcast, or run a newer version of the program`))
    }
    return Effect.mapErrorEager(decode(data), (issue) => {
      const wrong = issuesOf(issue).map(({ field, message }) => (field === "" ? message : `${field}: ${message}`))
      return corruptRow(stored, `does not fit "${type.to}" (${wrong.join(", ")}); mend it, or upcast it`)
    })
  }

const encodeBy = <Class extends Tagged, R>(
  classes: ReadonlyArray<Class>,
  types: Types<Class, R>
): EventCodec<Class, R>["encode"] => {
  const encoders = new Map(
    classes.map((schema) => [tagOf(schema), SchemaParser.encodeUnknownEffect(Schema.toCodecJson(schema))])
  )
  return (event, metadata) => {
    const eventType = Predicate.hasProperty(event, "_tag") ? String(event._tag) : ""
    const encode = encoders.get(eventType)
    if (encode === undefined) return Effect.fail([{ field: "event", message: "Expected an event of this view" }])
    if (Predicate.hasProperty(metadata, versionKey)) {
      return Effect.fail([{ field: `metadata.${versionKey}`, message: "Expected none: the view keeps it" }])
    }
    const version = types.get(eventType)?.current ?? 1
    const added = version === 1 ? metadata : { ...metadata, [versionKey]: version }
    // A failed encoding runs again to find every issue. That costs time, but failures are rare.
    return Effect.catchEager(encode(event), () => encode(event, { errors: "all" })).pipe(
      Effect.mapBothEager({
        onSuccess: (json) => {
          const { _tag, ...data } = isObject(json) ? json : {}
          return added === undefined ? { eventType, data } : { eventType, data, metadata: added }
        },
        onFailure: (issue) =>
          encodingIssues(issue, event).map(({ field, message }) => ({
            field: field === "" ? "event" : `event.${field}`,
            message
          }))
      })
    )
  }
}

/** Compiles the schemas, once for all events. */
export const make = <Class extends Tagged, R>(
  classes: ReadonlyArray<Class>,
  upcasts: ReadonlyArray<Upcast<Class["Type"], R>>
): EventCodec<Class, R> => {
  const { issues, types } = typesOf(classes, upcasts)
  return {
    issues,
    has: (eventType) => types.has(eventType),
    typesOf: (tags) => [...types].flatMap(([eventType, { to }]) => (tags.includes(to) ? [eventType] : [])),
    decode: decodeBy(types),
    encode: encodeBy(classes, types)
  }
}
