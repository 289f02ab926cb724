/** What the typed view infers, checked by the compiler (`npm run check`); there is nothing to run. */
import { Context, Effect, Schema, SchemaGetter, type Stream } from "effect"
import { Decision, Entity, EventStore, type InvalidInput, type StoreError } from "effect-strata"
import { expectTypeOf } from "vitest"

class UserCreated extends Schema.TaggedClass<UserCreated>()("UserCreated", {
  name: Schema.String,
  born: Schema.Date
}) {}
class UserRenamed extends Schema.TaggedClass<UserRenamed>()("UserRenamed", { name: Schema.String }) {}
const UserDeleted = Schema.TaggedStruct("UserDeleted", {})
class OrderPlaced extends Schema.TaggedClass<OrderPlaced>()("OrderPlaced", { amount: Schema.Int }) {}

type User = UserCreated | UserRenamed | typeof UserDeleted.Type
const events = [UserCreated, UserRenamed, UserDeleted] as const

/** A schema of a field that decodes and encodes with services. */
class Decrypt extends Context.Service<Decrypt, (text: string) => string>()("test/Decrypt") {}
class Encrypt extends Context.Service<Encrypt, (text: string) => string>()("test/Encrypt") {}
class Unpack extends Context.Service<Unpack, (text: string) => string>()("test/Unpack") {}
const Secret = Schema.String.pipe(
  Schema.decodeTo(Schema.String, {
    decode: SchemaGetter.transformEffect((text: string) => Effect.map(Decrypt, (decrypt) => decrypt(text))),
    encode: SchemaGetter.transformEffect((text: string) => Effect.map(Encrypt, (encrypt) => encrypt(text)))
  })
)
const Packed = Schema.String.pipe(
  Schema.decodeTo(Schema.String, {
    decode: SchemaGetter.transformEffect((text: string) => Effect.map(Unpack, (unpack) => unpack(text))),
    encode: SchemaGetter.passthrough()
  })
)

const Users = EventStore.typed({ events })
expectTypeOf<Effect.Error<typeof Users>>().toEqualTypeOf<InvalidInput.InvalidInput>()
expectTypeOf<Effect.Services<typeof Users>>().toEqualTypeOf<EventStore.EventStore>()

// Tags

const Courses = EventStore.typed({
  events: [UserCreated, UserRenamed],
  tags: {
    UserCreated: ({ name }) => [`user:${name}`, "users"],
    UserRenamed: ({ name }) => [`name:${name}`]
  }
})
export const tagged = Effect.gen(function* () {
  const courses = yield* Courses
  courses.read({ tags: ["user:anna", "users"], items: [{ events: [UserCreated], tags: ["name:anna"] }] })
  const user: string = crypto.randomUUID()
  courses.subscribe({ after: "end", tags: [`user:${user}`] })
  // @ts-expect-error a tag that the view does not give
  courses.read({ tags: ["usr:anna"] })
  // @ts-expect-error in an item, too
  courses.read({ items: [{ tags: ["users:anna"] }] })
  // @ts-expect-error and where they are followed
  courses.subscribe({ after: "end", tags: ["user"] })
  // @ts-expect-error a class that is not of the view
  courses.read({ items: [{ events: [OrderPlaced] }] })
})
expectTypeOf(Courses).toEqualTypeOf<
  EventStore.TypedView<
    typeof UserCreated | typeof UserRenamed,
    never,
    never,
    EventStore.EventStore,
    `user:${string}` | "users" | `name:${string}`
  >
>()
const numbered = EventStore.typed({ events: [OrderPlaced], tags: { OrderPlaced: ({ amount }) => [`of:${amount}`] } })
expectTypeOf<ReturnType<typeof numbered.tagsOf>>().toEqualTypeOf<ReadonlyArray<`of:${number}`>>()
declare const anyTags: ReadonlyArray<string>
const unknownTags = EventStore.typed({ events: [OrderPlaced], tags: { OrderPlaced: () => anyTags } })
expectTypeOf<ReturnType<typeof unknownTags.tagsOf>>().toEqualTypeOf<ReadonlyArray<string>>()
expectTypeOf<ReturnType<typeof Users.tagsOf>>().toEqualTypeOf<ReadonlyArray<string>>()

// Tags in decisions and entities

interface ByName {
  readonly name: string
}
const named = { events: Courses, initial: () => 0, evolve: (count: number) => count + 1 }
Decision.model({ ...named, query: ({ name }: ByName) => [{ tags: [`user:${name}`] }, { tags: ["users"] }] })
// @ts-expect-error a tag that the view does not give
Decision.model({ ...named, query: ({ name }: ByName) => [{ tags: [`usr:${name}`] }] })
Decision.make({
  ...named,
  query: ({ name }: ByName) => [{ events: [UserRenamed], tags: [`name:${name}`] }],
  decide: (count, { name }) => [new UserRenamed({ name: `${name}${count}` })]
})
Decision.make({
  ...named,
  // @ts-expect-error a tag that the view does not give
  query: ({ name }: ByName) => [{ tags: [`name/${name}`] }],
  decide: () => []
})
Entity.make({ name: "user", events: Courses, initial: () => 0, apply: () => 1 })

// @ts-expect-error the view has no such class
EventStore.typed({ events: [UserCreated], tags: { UserRenamed: () => ["a"] } })

export const views = Effect.gen(function* () {
  const users = yield* Users

  // Reading

  type Failure = InvalidInput.InvalidInput | StoreError.StoreError
  type ReadFailure = Failure | EventStore.LogReplaced
  expectTypeOf(users.load()).toEqualTypeOf<Effect.Effect<ReadonlyArray<EventStore.TypedEvent<User>>, ReadFailure>>()
  expectTypeOf(users.loadByAggregate("a", 1n)).toEqualTypeOf<
    Effect.Effect<ReadonlyArray<EventStore.TypedEvent<User>>, Failure>
  >()
  expectTypeOf(users.read()).toEqualTypeOf<Stream.Stream<EventStore.TypedEvent<User>, ReadFailure>>()
  expectTypeOf(users.read({ events: [UserRenamed] })).toEqualTypeOf<
    Stream.Stream<EventStore.TypedEvent<UserRenamed>, ReadFailure>
  >()
  expectTypeOf(users.get("id")).toEqualTypeOf<
    Effect.Effect<EventStore.TypedEvent<User>, EventStore.EventNotFound | Failure>
  >()
  expectTypeOf(users.subscribe({ after: "end" })).toEqualTypeOf<
    Stream.Stream<EventStore.TypedEvent<User>, ReadFailure>
  >()
  expectTypeOf(users.subscribe({ after: 1n, events: [UserRenamed, UserCreated] })).toEqualTypeOf<
    Stream.Stream<EventStore.TypedEvent<UserRenamed | UserCreated>, ReadFailure>
  >()
  // @ts-expect-error: it has to begin somewhere
  users.subscribe({})
  // @ts-expect-error: not an event of this view
  users.read({ events: [OrderPlaced] })
  // @ts-expect-error: a view reads classes, not types
  users.read({ eventTypes: ["UserCreated"] })

  const [found] = yield* users.loadByAggregate("a")
  if (found !== undefined) {
    expectTypeOf(found.version).toEqualTypeOf<bigint>()
    expectTypeOf(found.metadata).toEqualTypeOf<Schema.JsonObject | null>()
    // @ts-expect-error: what is decoded is no longer there as data
    expectTypeOf(found.data).toBeUnknown()
    if (found.event._tag === "UserCreated") expectTypeOf(found.event).toEqualTypeOf<UserCreated>()
    // @ts-expect-error: only one of the classes has it
    expectTypeOf(found.event.born).toBeUnknown()
  }

  expectTypeOf(users.fold("a", 0, (count, event) => (event._tag === "UserRenamed" ? count + 1 : count))).toEqualTypeOf<
    Effect.Effect<{ readonly state: number; readonly expected: bigint | "none" }, Failure>
  >()

  // Appending

  const appended = users.append("a", [new UserCreated({ name: "John", born: new Date() }), UserDeleted.make({})])
  expectTypeOf(appended).toEqualTypeOf<
    Effect.Effect<
      ReadonlyArray<EventStore.TypedEvent<User>>,
      EventStore.VersionConflict | EventStore.DuplicateEvent | Failure
    >
  >()
  users.append("a", new UserRenamed({ name: "Jane" }), { expected: 1n, metadata: { by: "me" } })
  users.appendAll([{ aggregateId: "a", event: UserDeleted.make({}), id: "1", metadata: {} }], {
    expected: { a: "none" }
  })
  // @ts-expect-error: not an event of this view
  users.append("a", new OrderPlaced({ amount: 1 }))
  // @ts-expect-error: not among others either
  users.append("a", [UserDeleted.make({}), new OrderPlaced({ amount: 1 })])
  // @ts-expect-error: one aggregate has one expectation
  users.append("a", [], { expected: { a: "none" } })
  // @ts-expect-error: metadata is an object
  users.append("a", [], { metadata: "me" })
  // @ts-expect-error: no aggregate
  users.appendAll([{ event: UserDeleted.make({}) }])

  // Other events

  const raw = yield* EventStore.typed({ events, unknown: "raw" })
  const [any] = yield* raw.load()
  expectTypeOf(any).toEqualTypeOf<EventStore.TypedEvent<User | EventStore.UnknownEvent> | undefined>()
  if (any?.event._tag === "UnknownEvent") expectTypeOf(any.event.data).toEqualTypeOf<Schema.Json>()
  // @ts-expect-error: what is not known cannot be appended
  raw.append("a", new EventStore.UnknownEvent({ eventType: "Other", data: null }))
  for (const unknown of ["skip", "fail"] as const) {
    const view = yield* EventStore.typed({ events, unknown })
    expectTypeOf(view.load()).toEqualTypeOf<typeof users.load extends () => infer Result ? Result : never>()
  }
  // @ts-expect-error: no such answer
  yield* EventStore.typed({ events, unknown: "ignore" })
})

export const services = Effect.gen(function* () {
  class Sealed extends Schema.TaggedClass<Sealed>()("Sealed", { text: Secret }) {}
  class Packet extends Schema.TaggedClass<Packet>()("Packet", { text: Packed }) {}
  const view = yield* EventStore.typed({
    events: [Sealed, UserRenamed],
    upcast: [EventStore.upcast({ from: Packet, to: UserRenamed, map: ({ text }) => ({ name: text }) })]
  })
  expectTypeOf<Effect.Services<ReturnType<typeof view.append>>>().toEqualTypeOf<Encrypt>()
  expectTypeOf<Effect.Services<ReturnType<typeof view.appendAll>>>().toEqualTypeOf<Encrypt>()
  expectTypeOf<Effect.Services<ReturnType<typeof view.load>>>().toEqualTypeOf<Decrypt | Unpack>()
  expectTypeOf<Effect.Services<ReturnType<typeof view.loadByAggregate>>>().toEqualTypeOf<Decrypt | Unpack>()
  expectTypeOf<Effect.Services<ReturnType<typeof view.get>>>().toEqualTypeOf<Decrypt | Unpack>()
  expectTypeOf<Effect.Services<ReturnType<typeof view.fold>>>().toEqualTypeOf<Decrypt | Unpack>()
  expectTypeOf<Stream.Services<ReturnType<typeof view.read>>>().toEqualTypeOf<Decrypt | Unpack>()
  expectTypeOf<Stream.Services<ReturnType<typeof view.subscribe>>>().toEqualTypeOf<Decrypt | Unpack>()
})

const placed = EventStore.upcast({
  from: OrderPlaced,
  to: UserRenamed,
  map: (old) => {
    expectTypeOf(old).toEqualTypeOf<OrderPlaced>()
    return { name: "" }
  }
})
expectTypeOf(placed).toEqualTypeOf<EventStore.Upcast<UserRenamed>>()

// @ts-expect-error: not what a UserRenamed is made from
EventStore.upcast({ from: OrderPlaced, to: UserRenamed, map: () => ({ name: 1 }) })

// @ts-expect-error: only tagged classes have an event type
EventStore.upcast({ from: Schema.Struct({ name: Schema.String }), to: UserRenamed, map: () => ({ name: "" }) })

EventStore.typed({ events, upcast: [placed] })

// @ts-expect-error: this view has no UserRenamed
EventStore.typed({ events: [UserCreated], upcast: [placed] })

// @ts-expect-error: only tagged classes have an event type
EventStore.typed({ events: [Schema.Struct({ name: Schema.String })] })
