/**
 * The typed view of the event store: `EventStore.typed` and `EventStore.upcast`.
 *
 * What is stored stays plain: the tag of a class is the event type, and its fields, as JSON, are the data. Nothing in the
 * table says that a typed view wrote it, but `schemaVersion` in the metadata of an event whose class has changed.
 */
import { Array as Arr, Effect, Exit, Predicate, Result, Schema, type SchemaIssue, SchemaParser, Stream } from "effect"
import type { EventNotFound, EventStore, Expected, NewEvent, Query, StoredEvent } from "./EventStore.ts"
import { type Arguments, InvalidInput, invalidInput, type Issue } from "./Input.ts"
import { CorruptRow, StoreError } from "./StoreError.ts"

// Model

/** A class that `Schema.TaggedClass` made, or a struct of `Schema.TaggedStruct`. */
export interface Tagged extends Schema.Constraint {
  readonly Type: { readonly _tag: string }
  readonly fields: { readonly _tag: { readonly schema: { readonly literal: string } } }
}

interface Makable extends Tagged, Arguments {
  readonly Type: Tagged["Type"]
}

/** An event as it is stored, its data decoded. `eventType` is an old one where the event was upcast. */
export interface TypedEvent<out Event> extends Pick<StoredEvent, Exclude<keyof StoredEvent, "data">> {
  readonly event: Event
}

/** What a view with `unknown: "raw"` gives for an event of a type that is not its own. */
export class UnknownEvent extends Schema.TaggedClass<UnknownEvent>("effect-strata/EventStore/UnknownEvent")(
  "UnknownEvent",
  { eventType: Schema.String, data: Schema.Json }
) {}

/** How events of one type, with one version of its payload, become events of a class: see `upcast`. */
export interface Upcast<out Event, out R = never> {
  readonly eventType: string
  readonly version: number
  /** The tag of what they become. */
  readonly to: string
  readonly decode: (data: Schema.Json) => Effect.Effect<Event, SchemaIssue.Issue, R>
}

/** An event to append to one of several aggregates, with an id and metadata of its own. */
export interface NewTypedEvent<out Event> extends Pick<NewEventInput, "aggregateId" | "id" | "metadata"> {
  readonly event: Event
}

type NewEventInput = (typeof NewEvent)["~type.make.in"]
type QueryInput = Exclude<(typeof Query)["~type.make.in"], void>

/** Which events to read: a query by classes instead of event types. */
export interface TypedQuery<Class> extends Pick<QueryInput, Exclude<keyof QueryInput, "eventTypes">> {
  /** Only events of these classes, whatever their types were when they were stored. */
  readonly events?: ReadonlyArray<Class>
}

/** The events of some classes in the log. `Class` is the union of the classes, `Other` what else it gives. */
export interface TypedEvents<Class extends Tagged, Other = never, R = never> {
  /**
   * Appends one event, or several, to one aggregate, all or none, and returns them as stored, in their order. What
   * `expected` promises is said at `EventStore.append`.
   *
   * **Details**
   *
   * `metadata` goes with each of the events. An event that its schema cannot encode is `InvalidInput`.
   */
  readonly append: (
    aggregateId: string,
    events: Class["Type"] | ReadonlyArray<Class["Type"]>,
    options?: { readonly expected?: Expected; readonly metadata?: Schema.JsonObject }
  ) => Appended<Class>

  /** The same for several aggregates, and for events with an id or metadata of their own. */
  readonly appendAll: (events: ReadonlyArray<NewTypedEvent<Class["Type"]>>, options?: AppendOptions) => Appended<Class>

  /** As `EventStore.load`, of the view's events. */
  readonly load: (
    since?: bigint
  ) => Effect.Effect<
    ReadonlyArray<TypedEvent<Class["Type"] | Other>>,
    InvalidInput | StoreError,
    Class["DecodingServices"] | R
  >

  /** The events of one aggregate above the version, in order. */
  readonly loadByAggregate: (
    aggregateId: string,
    since?: bigint
  ) => Effect.Effect<
    ReadonlyArray<TypedEvent<Class["Type"] | Other>>,
    InvalidInput | StoreError,
    Class["DecodingServices"] | R
  >

  /**
   * The state of an aggregate: what `step` makes of its events, one after the other. `expected` is what to append with, so
   * that nobody else can have appended meanwhile.
   *
   * ```ts
   * import { Effect, Schema } from "effect"
   * import { EventStore } from "effect-strata"
   *
   * class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
   * class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { amount: Schema.Int }) {}
   * const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
   *
   * export const withdraw = Effect.fn(function* (id: string, amount: number) {
   *   const accounts = yield* Accounts
   *   const { expected, state } = yield* accounts.fold(id, 0, (balance, event) =>
   *     event._tag === "Deposited" ? balance + event.amount : balance - event.amount
   *   )
   *   if (state >= amount) yield* accounts.append(id, new Withdrawn({ amount }), { expected })
   * })
   * ```
   */
  readonly fold: <State>(
    aggregateId: string,
    initial: State,
    step: (state: State, event: Class["Type"] | Other) => State
  ) => Effect.Effect<
    { readonly state: State; readonly expected: bigint | "none" },
    InvalidInput | StoreError,
    Class["DecodingServices"] | R
  >

  /**
   * As `EventStore.read`, of the view's events or of some of its classes.
   *
   * **Details**
   *
   * Where an event does not decode, those before it are given, then the stream fails. The version is the `key` of the
   * `CorruptRow`: one can go on after it. `data` is compared with what is stored.
   */
  readonly read: <Only extends Class = Class>(
    query?: TypedQuery<Only>
  ) => Stream.Stream<TypedEvent<Only["Type"] | Other>, InvalidInput | StoreError, Class["DecodingServices"] | R>

  /** The event with this id. One of another type is a `CorruptRow`, unless the view gives it raw. */
  readonly get: (
    id: string
  ) => Effect.Effect<
    TypedEvent<Class["Type"] | Other>,
    EventNotFound | InvalidInput | StoreError,
    Class["DecodingServices"] | R
  >
}

type AppendOptions = Parameters<EventStore["Service"]["append"]>[1]

type Appended<Class extends Tagged> = Effect.Effect<
  ReadonlyArray<TypedEvent<Class["Type"]>>,
  Effect.Error<ReturnType<EventStore["Service"]["append"]>>,
  Class["EncodingServices"]
>

// Upcasting

const tagOf = (schema: Tagged): string => schema.fields._tag.schema.literal

const isObject = (json: Schema.Json): json is Schema.JsonObject => Predicate.isObject(json) && !Array.isArray(json)

/** Compiled once: the decoder of a class from data that does not name it. No data is that of a class without fields. */
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
 * `from` is a tagged class of what was stored. If it has another tag than `to`, the event type was renamed. If it has the
 * same, it is an old version of the payload, which `version` names: 1, unless given. The version of what is appended is one
 * above the highest that is upcast, and kept as `schemaVersion` in the metadata of the event; without it, an event has
 * version 1.
 *
 * **Gotchas**
 *
 * Whoever else writes events of this type has to write `schemaVersion` too. Deploy the upcasts to those who read before
 * anybody appends the new form: an event with a version above the view's own is a `CorruptRow`.
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
 *     EventStore.upcast({ from: UserCreatedV1, version: 1, to: UserCreated, map: (old) => ({ name: old.name, locale: "en" }) })
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
  /** What `to` is made from. */
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

type UpcastServices<Upcasts> = Upcasts extends Upcast<unknown, infer R> ? R : never

// The view

const store = "EventStore"

/** Where the metadata of an event says which version of its payload it has. */
const versionKey = "schemaVersion"

/** How events of one stored type are decoded. */
interface StoredType<Event, R> {
  readonly to: string
  /** The version that is appended. */
  current: number
  readonly decoders: Map<unknown, Upcast<Event, R>["decode"]>
}

const isDone = <A, E, R>(effect: Effect.Effect<A, E, R>): effect is Exit.Success<A> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

const issuesOf = (issue: SchemaIssue.Issue): ReadonlyArray<Issue> => invalidInput(store, "", issue).issues

const describe = (issues: ReadonlyArray<Issue>): string =>
  issues.map(({ field, message }) => (field === "" ? message : `${field}: ${message}`)).join(", ")

/** Every decoder by stored type and version, and what is wrong with the definition. */
const compile = <Class extends Tagged, R>(
  classes: ReadonlyArray<Class>,
  upcasts: ReadonlyArray<Upcast<Class["Type"], R>>
) => {
  const types = new Map<string, StoredType<Class["Type"], Class["DecodingServices"] | R>>()
  const issues: Array<Issue> = []
  const current = new Map(classes.map((schema) => [tagOf(schema), decoderOf(schema)]))
  if (current.size < classes.length) issues.push({ field: "events", message: "Expected each tag once" })
  for (const to of current.keys()) types.set(to, { to, current: 1, decoders: new Map() })
  for (const [index, { decode, eventType, to, version }] of upcasts.entries()) {
    const wrong = (message: string) => issues.push({ field: `upcast.${index}`, message })
    const type = types.get(eventType) ?? { to, current: 0, decoders: new Map() }
    if (!current.has(to)) wrong(`Expected ${to} to be among the events`)
    if (type.to !== to) wrong(`Expected all events of the type ${eventType} to become ${type.to}`)
    if (!Number.isSafeInteger(version) || version < 1) wrong("Expected a version that is a whole number from 1 on")
    if (type.decoders.has(version)) wrong(`Expected version ${version} of ${eventType} once`)
    type.decoders.set(version, decode)
    if (current.has(eventType)) type.current = Math.max(type.current, version + 1)
    types.set(eventType, type)
  }
  for (const [tag, decode] of current) {
    const type = types.get(tag)
    type?.decoders.set(type.current, decode)
  }
  return { types, issues }
}

/** Makes `EventStore.typed` for the store that `events` gives. */
export const over = <Id>(events: Effect.Effect<EventStore["Service"], never, Id>) => {
  /**
   * A view of the log as the events of some classes: what is appended is encoded by its schema, and what is read comes
   * back as an instance of its class.
   *
   * **Details**
   *
   * The tag of a class is the event type, and its other fields, as JSON, are the data; so whoever writes such data, in
   * whatever language, writes such events. `upcast` says how older forms are read. An event of the view's that does not
   * decode is a `StoreError` whose `CorruptRow` has the version as its key. Services that the schemas need stay in `R`.
   *
   * Of events of other types `unknown` decides. Unless it is given, the reads that span aggregates leave them to other
   * views, but the history of an aggregate is only right as a whole: one among them fails with `CorruptRow`.
   * `"fail"` does so wherever they are met, `"skip"` leaves them out everywhere (they are not even sent by the database),
   * `"raw"` gives each as an `UnknownEvent`.
   *
   * **Gotchas**
   *
   * With `"skip"`, a process that does not know a new class yet takes an aggregate for what it would be without its events.
   */
  function typed<
    const Classes extends ReadonlyArray<Tagged>,
    const Upcasts extends ReadonlyArray<Upcast<Classes[number]["Type"], unknown>> = [],
    Unknown extends "fail" | "skip" | "raw" = "fail"
  >(options: {
    readonly events: Classes
    readonly upcast?: Upcasts
    readonly unknown?: Unknown
  }): Effect.Effect<
    TypedEvents<Classes[number], Unknown extends "raw" ? UnknownEvent : never, UpcastServices<Upcasts[number]>>,
    InvalidInput,
    Id
  >
  function typed<Class extends Tagged>(options: {
    readonly events: ReadonlyArray<Class>
    readonly upcast?: ReadonlyArray<Upcast<Class["Type"], unknown>>
    readonly unknown?: "fail" | "skip" | "raw"
  }): Effect.Effect<TypedEvents<Class, UnknownEvent, unknown>, InvalidInput, Id> {
    const { issues, types } = compile(options.events, options.upcast ?? [])
    return issues.length > 0
      ? Effect.fail(new InvalidInput({ store, operation: "typed", issues }))
      : Effect.map(events, (events) => make(events, options, types))
  }
  return typed
}

const make = <Class extends Tagged, R>(
  events: EventStore["Service"],
  options: { readonly events: ReadonlyArray<Class>; readonly unknown?: "fail" | "skip" | "raw" },
  types: ReadonlyMap<string, StoredType<Class["Type"], Class["DecodingServices"] | R>>
): TypedEvents<Class, UnknownEvent, R> => {
  type Decoded = TypedEvent<Class["Type"] | UnknownEvent>
  const { unknown } = options
  const encoders = new Map(
    options.events.map((schema) => [tagOf(schema), SchemaParser.encodeUnknownEffect(Schema.toCodecJson(schema))])
  )

  // Decoding

  const corrupt = (stored: StoredEvent, message: string) =>
    new CorruptRow({
      table: "events",
      key: String(stored.version),
      message: `event ${stored.version} of aggregate "${stored.aggregateId}" ${message}`
    })

  // Part by part, which takes a third of the time of a spread.
  const withEvent = <Event>(stored: StoredEvent, event: Event): TypedEvent<Event> => ({
    version: stored.version,
    id: stored.id,
    aggregateId: stored.aggregateId,
    eventType: stored.eventType,
    event,
    metadata: stored.metadata,
    createdAt: stored.createdAt,
    streamName: stored.streamName
  })

  const decode = (
    stored: StoredEvent
  ): Effect.Effect<Class["Type"] | UnknownEvent, CorruptRow, Class["DecodingServices"] | R> => {
    const { data, eventType, metadata } = stored
    const type = types.get(eventType)
    if (type === undefined) {
      return unknown === "raw"
        ? Exit.succeed(new UnknownEvent({ eventType, data }, { disableChecks: true }))
        : Effect.fail(
            corrupt(
              stored,
              `has the type "${eventType}", which is not of this view; add its class or an upcast, or choose with "unknown" what becomes of it`
            )
          )
    }
    const version = metadata?.[versionKey] ?? 1
    const decoder = type.decoders.get(version)
    if (decoder === undefined) {
      return Effect.fail(
        corrupt(
          stored,
          `has ${versionKey} ${JSON.stringify(version)}, which this view does not know of "${eventType}"; upcast it, or run a newer version`
        )
      )
    }
    const decoding = decoder(data)
    return isDone(decoding)
      ? decoding
      : Effect.mapError(decoding, (issue) =>
          corrupt(stored, `does not fit "${type.to}" (${describe(issuesOf(issue))}); mend it, or upcast it`)
        )
  }

  /** What decodes, up to what does not. */
  const decodePage = Effect.fnUntraced(function* (operation: string, page: ReadonlyArray<StoredEvent>) {
    const decoded: Array<Decoded> = []
    for (const stored of page) {
      if (unknown === "skip" && !types.has(stored.eventType)) continue
      const decoding = decode(stored)
      // Most schemas decode at once: going through the fiber would cost more than they do.
      const result = isDone(decoding) ? Result.succeed(decoding.value) : yield* Effect.result(decoding)
      if (Result.isFailure(result)) {
        return { decoded, error: new StoreError({ store, operation, reason: result.failure }) }
      }
      decoded.push(withEvent(stored, result.success))
    }
    return { decoded, error: undefined }
  })

  const decodeAll = Effect.fnUntraced(function* (operation: string, all: ReadonlyArray<StoredEvent>) {
    const { decoded, error } = yield* decodePage(operation, all)
    return error === undefined ? decoded : yield* error
  })

  const decodeStream = <E>(operation: string, stream: Stream.Stream<StoredEvent, E>) =>
    Stream.transformPull(stream, (pull) =>
      Effect.sync(() => {
        let failed: StoreError | undefined
        return Effect.gen(function* () {
          while (true) {
            if (failed !== undefined) return yield* failed
            const { decoded, error } = yield* decodePage(operation, yield* pull)
            failed = error
            if (Arr.isReadonlyArrayNonEmpty(decoded)) return decoded
          }
        })
      })
    )

  // Reading

  const isOf = <Only extends Class>(only: ReadonlyArray<Only> | undefined) => {
    const tags = new Set(only?.map(tagOf))
    return (decoded: Decoded): decoded is TypedEvent<Only["Type"] | UnknownEvent> =>
      only === undefined || tags.has(decoded.event._tag)
  }

  /** The types to ask the store for. All, where it is for the view to object to others or to give them raw. */
  const typesOf = (only: ReadonlyArray<Class> | undefined, history: boolean) => {
    if (only === undefined && unknown !== "skip" && (unknown !== undefined || history)) return {}
    const tags = new Set((only ?? options.events).map(tagOf))
    return { eventTypes: [...types].flatMap(([eventType, { to }]) => (tags.has(to) ? [eventType] : [])) }
  }

  const read = <Only extends Class = Class>({ events: only, ...query }: TypedQuery<Only> = {}) =>
    decodeStream("read", events.read({ ...query, ...typesOf(only, query.aggregateIds !== undefined) })).pipe(
      Stream.filter(isOf(only))
    )

  const loadByAggregate = (aggregateId: string, since?: bigint) =>
    Effect.flatMap(events.loadByAggregate(aggregateId, since), (all) => decodeAll("loadByAggregate", all))

  const fold = <State>(
    aggregateId: string,
    initial: State,
    step: (state: State, event: Class["Type"] | UnknownEvent) => State
  ) =>
    Effect.gen(function* () {
      const all = yield* events.loadByAggregate(aggregateId)
      const decoded = yield* decodeAll("fold", all)
      return {
        state: decoded.reduce((state, { event }) => step(state, event), initial),
        // Of the last event that there is, of this view or not.
        expected: all.at(-1)?.version ?? ("none" as const)
      }
    })

  // Appending

  /** The events as the store takes them, or what is wrong with them. */
  const encodeAll = Effect.fnUntraced(function* (added: ReadonlyArray<NewTypedEvent<Class["Type"]>>) {
    const encoded: Array<NewEventInput> = []
    const issues: Array<Issue> = []
    for (const [index, { event, ...envelope }] of added.entries()) {
      const tag = Predicate.hasProperty(event, "_tag") ? String(event._tag) : ""
      const encode = encoders.get(tag)
      if (encode === undefined) {
        issues.push({ field: `events.${index}.event`, message: "Expected an event of this view" })
        continue
      }
      if (Predicate.hasProperty(envelope.metadata, versionKey)) {
        issues.push({ field: `events.${index}.metadata.${versionKey}`, message: "Expected none: the view keeps it" })
      }
      const encoding = encode(event)
      // Only what fails is done again, to find everything that is wrong: it costs, and hardly ever happens.
      const result = isDone(encoding)
        ? Result.succeed(encoding.value)
        : yield* Effect.result(Effect.catch(encoding, () => encode(event, { errors: "all" })))
      if (Result.isFailure(result)) {
        for (const { field, message } of issuesOf(result.failure)) {
          issues.push({ field: `events.${index}.event${field === "" ? "" : `.${field}`}`, message })
        }
        continue
      }
      const { _tag, ...data } = isObject(result.success) ? result.success : {}
      const version = types.get(tag)?.current ?? 1
      const metadata = version === 1 ? {} : { metadata: { ...envelope.metadata, [versionKey]: version } }
      encoded.push({ ...envelope, ...metadata, eventType: tag, data })
    }
    return issues.length > 0 ? yield* new InvalidInput({ store, operation: "append", issues }) : encoded
  })

  const appendAll = Effect.fnUntraced(function* (
    added: ReadonlyArray<NewTypedEvent<Class["Type"]>>,
    appendOptions?: AppendOptions
  ) {
    const stored = yield* events.append(yield* encodeAll(added), appendOptions)
    return added.flatMap(({ event }, index) => {
      const envelope = stored[index]
      return envelope === undefined ? [] : [withEvent(envelope, event)]
    })
  })

  return {
    append: (aggregateId, added, { metadata, ...rest } = {}) => {
      const envelope = metadata === undefined ? { aggregateId } : { aggregateId, metadata }
      return appendAll(
        (Array.isArray(added) ? added : [added]).map((event) => Object.assign({ event }, envelope)),
        rest
      )
    },
    appendAll,
    load: (since = 0n) => Stream.runCollect(read({ after: since })),
    loadByAggregate,
    fold,
    read,
    get: (id) =>
      Effect.flatMap(events.get(id), (stored) =>
        Effect.mapBoth(decode(stored), {
          onSuccess: (event) => withEvent(stored, event),
          onFailure: (reason) => new StoreError({ store, operation: "get", reason })
        })
      )
  }
}
