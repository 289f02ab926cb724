/** What the typed view does on every `EventStore`: a part of its suite. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, type Layer, Option, Queue, Result, Schema, SchemaGetter, Stream } from "effect"
import {
  DuplicateEvent,
  EventNotFound,
  EventStore,
  type StoredEvent,
  typed,
  UnknownEvent,
  upcast
} from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { CorruptRow, StoreError } from "../StoreError.ts"

class UserCreated extends Schema.TaggedClass<UserCreated>()("UserCreated", {
  name: Schema.NonEmptyString,
  born: Schema.Date
}) {}
class UserRenamed extends Schema.TaggedClass<UserRenamed>()("UserRenamed", { name: Schema.String }) {}
class UserDeleted extends Schema.TaggedClass<UserDeleted>()("UserDeleted", {}) {}

const all = [UserCreated, UserRenamed, UserDeleted] as const
const Users = typed({ events: all })

const created = new UserCreated({ name: "John", born: new Date(0) })
const renamed = new UserRenamed({ name: "Jane" })
const deleted = new UserDeleted()

const fresh = () => `user ${crypto.randomUUID()}`

/** Appends an event as a program does that knows nothing of classes. */
const plain = (aggregateId: string, eventType: string, data: Schema.Json, metadata: Schema.JsonObject = {}) =>
  EventStore.use((events) => events.append({ aggregateId, eventType, data, metadata }))

const corruptRow = (error: unknown): CorruptRow =>
  error instanceof StoreError && error.reason instanceof CorruptRow
    ? error.reason
    : assert.fail(`not a corrupt row: ${String(error)}`)

const eventsOf = <Event>(found: ReadonlyArray<{ readonly event: Event }>) => found.map(({ event }) => event)

const envelopeOf = (stored: StoredEvent) => {
  const { data: _, ...envelope } = stored
  return envelope
}

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<EventStore, E>): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`EventStore.typed (${name})`, (it) => {
    it.effect("appends events of classes as plain data, and gives them back decoded", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const aggregateId = fresh()
        const appended = yield* users.append(aggregateId, created, { expected: "none" })
        const more = yield* users.append(aggregateId, [renamed, deleted], { metadata: { by: "me" } })
        const history = yield* users.loadByAggregate(aggregateId)
        assert.deepStrictEqual(history, [...appended, ...more])
        assert.deepStrictEqual(eventsOf(history), [created, renamed, deleted])
        assert.instanceOf(history[0]?.event, UserCreated)

        const stored = yield* EventStore.use((events) => events.loadByAggregate(aggregateId))
        assert.deepStrictEqual(
          stored.map(({ data, eventType, metadata }) => ({ data, eventType, metadata })),
          [
            { eventType: "UserCreated", data: { name: "John", born: "1970-01-01T00:00:00.000Z" }, metadata: null },
            { eventType: "UserRenamed", data: { name: "Jane" }, metadata: { by: "me" } },
            { eventType: "UserDeleted", data: {}, metadata: { by: "me" } }
          ]
        )
        assert.deepStrictEqual(
          history.map(({ event, ...envelope }) => [event._tag, envelope]),
          stored.map((found) => [found.eventType, envelopeOf(found)])
        )
        const first = history[0]?.version ?? 0n
        assert.deepStrictEqual(eventsOf(yield* users.loadByAggregate(aggregateId, first)), [renamed, deleted])
      })
    )

    it.effect("reads events that a program without classes has written", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const aggregateId = fresh()
        yield* plain(aggregateId, "UserCreated", { born: "1970-01-01T00:00:00Z", name: "John", extra: 1 })
        yield* plain(aggregateId, "UserRenamed", { _tag: "something", name: "Jane" })
        yield* plain(aggregateId, "UserDeleted", null)
        assert.deepStrictEqual(eventsOf(yield* users.loadByAggregate(aggregateId)), [created, renamed, deleted])
      })
    )

    it.effect("appends to several aggregates, each event with an id and metadata of its own", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const [a, b] = [fresh(), fresh()]
        const batch = [
          { aggregateId: a, event: created, id: crypto.randomUUID(), metadata: { trace: 1 } },
          { aggregateId: b, event: renamed, id: crypto.randomUUID(), metadata: {} }
        ]
        const stored = yield* users.appendAll(batch, { expected: { [a]: "none" } })
        assert.deepStrictEqual(
          stored.map(({ aggregateId, event, id, metadata }) => ({ aggregateId, event, id, metadata })),
          batch
        )
        assert.deepStrictEqual(yield* users.appendAll(batch, { onDuplicate: "ignore" }), stored)
        assert.instanceOf(yield* Effect.flip(users.appendAll(batch)), DuplicateEvent)
        assert.deepStrictEqual(yield* users.appendAll([]), [])
      })
    )

    it.effect("refuses what its classes cannot encode, before anything is written", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const aggregateId = fresh()
        // The compiler takes all of these for instances of the class.
        const imitation = { _tag: "UserRenamed", name: "Jane" } as const
        const invalid = new UserRenamed({ name: "a\0b" })
        const strange = Object.assign(new UserRenamed({ name: "Jane" }), { _tag: "Strange" as const })
        for (const [event, field] of [
          [imitation, "events.1.event"],
          [invalid, "events.1.data.name"],
          [strange, "events.1.event"],
          [Object.assign(new UserRenamed({ name: "" }), { name: 1 }), "events.1.event.name"]
        ] as const) {
          const error = yield* Effect.flip(users.append(aggregateId, [created, event]))
          assert.instanceOf(error, InvalidInput)
          assert.include(error.message, `EventStore.append: invalid input: ${field}: Expected`)
        }
        const twice = yield* Effect.flip(
          users.appendAll([
            {
              aggregateId,
              event: Object.assign(new UserCreated({ name: "John", born: new Date(0) }), { name: 1, born: 1 })
            },
            { aggregateId, event: imitation }
          ])
        )
        assert.deepStrictEqual(twice._tag === "InvalidInput" ? twice.issues.map(({ field }) => field) : twice, [
          "events.0.event.name",
          "events.0.event.born",
          "events.1.event"
        ])
        const reserved = yield* Effect.flip(users.append(aggregateId, created, { metadata: { schemaVersion: 3 } }))
        assert.include(reserved.message, "events.0.metadata.schemaVersion")
        assert.deepStrictEqual(yield* users.loadByAggregate(aggregateId), [])
      })
    )

    it.effect("gives what is before a payload that does not decode, names its version, and goes on after it", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const aggregateId = fresh()
        yield* users.append(aggregateId, [created, renamed])
        const [bad] = yield* plain(aggregateId, "UserCreated", { name: "" })
        assert.isDefined(bad)
        yield* users.append(aggregateId, deleted)

        const failures: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          users.loadByAggregate(aggregateId),
          users.fold(aggregateId, 0, (count) => count + 1),
          users.get(bad.id)
        ]
        for (const failing of failures) {
          const reason = corruptRow(yield* Effect.flip(failing))
          assert.deepStrictEqual([reason.table, reason.key], ["events", String(bad.version)])
          assert.match(reason.message, new RegExp(`event ${bad.version} .* "UserCreated" \\(name: `))
        }
        for (const batchSize of [1, 2, 100]) {
          const seen: Array<unknown> = []
          const error = yield* users.read({ aggregateIds: [aggregateId], batchSize }).pipe(
            Stream.runForEach(({ event }) => Effect.sync(() => seen.push(event))),
            Effect.flip
          )
          assert.deepStrictEqual(seen, [created, renamed])
          const after = BigInt(corruptRow(error).key)
          const rest = yield* Stream.runCollect(users.read({ aggregateIds: [aggregateId], after, batchSize }))
          assert.deepStrictEqual(eventsOf(rest), [deleted])
        }
        const text = yield* plain(fresh(), "UserDeleted", "gone")
        const reason = corruptRow(yield* Effect.flip(users.get(text[0]?.id ?? "")))
        assert.strictEqual(reason.key, String(text[0]?.version))
      })
    )

    it.effect("reads some of its classes, and what a query describes", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const [a, b] = [fresh(), fresh()]
        const after = yield* EventStore.use((events) => events.latestVersion)
        yield* users.append(a, [created, renamed, deleted], { metadata: { page: 1 } })
        yield* users.append(b, [renamed, created])
        const read = (query: Parameters<typeof users.read>[0]) =>
          Effect.map(Stream.runCollect(users.read({ after, ...query })), eventsOf)
        assert.deepStrictEqual(yield* read({}), [created, renamed, deleted, renamed, created])
        assert.deepStrictEqual(eventsOf(yield* users.load(after)), [created, renamed, deleted, renamed, created])
        assert.deepStrictEqual(yield* read({ events: [UserRenamed] }), [renamed, renamed])
        assert.deepStrictEqual(yield* read({ events: [UserRenamed, UserDeleted], aggregateIds: [a] }), [
          renamed,
          deleted
        ])
        assert.deepStrictEqual(yield* read({ events: [] }), [])
        assert.deepStrictEqual(yield* read({ events: [UserCreated], direction: "backward", limit: 1 }), [created])
        assert.deepStrictEqual(yield* read({ metadata: { page: 1 }, data: { name: "Jane" } }), [renamed])
      })
    )

    it.effect("follows its stored events and then new ones", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const aggregateId = fresh()
        const after = yield* EventStore.use((events) => events.latestVersion)
        yield* users.append(aggregateId, [created, renamed])
        yield* plain(fresh(), "OrderPlaced", {})
        const seen = yield* Queue.unbounded<unknown>()
        const follow = <E>(events: Stream.Stream<{ readonly event: unknown }, E>) =>
          Effect.forkScoped(Stream.runForEach(events, ({ event }) => Queue.offer(seen, event)))
        yield* follow(users.subscribe({ after }))
        assert.deepStrictEqual(yield* Queue.takeN(seen, 2), [created, renamed])
        yield* users.append(aggregateId, deleted)
        assert.deepStrictEqual(yield* Queue.take(seen), deleted)
        yield* follow(users.subscribe({ after, events: [UserRenamed] }))
        assert.deepStrictEqual(yield* Queue.take(seen), renamed)

        // An event that does not decode ends the stream, after all events before it.
        const history = yield* follow(users.subscribe({ after, aggregateIds: [aggregateId] }))
        assert.deepStrictEqual(yield* Queue.takeN(seen, 3), [created, renamed, deleted])
        const [other] = yield* plain(aggregateId, "OrderPlaced", {})
        const error = yield* Effect.flip(Fiber.join(history))
        assert.strictEqual(corruptRow(error).key, String(other?.version))
      })
    )

    it.effect("leaves other events to other views, but fails on one in a history", () =>
      Effect.gen(function* () {
        const users = yield* Users
        const aggregateId = fresh()
        const after = yield* EventStore.use((events) => events.latestVersion)
        yield* users.append(aggregateId, created)
        const [other] = yield* plain(aggregateId, "OrderPlaced", { id: 1 })
        assert.isDefined(other)
        yield* users.append(aggregateId, deleted)
        assert.deepStrictEqual(eventsOf(yield* users.load(after)), [created, deleted])
        assert.deepStrictEqual(eventsOf(yield* Stream.runCollect(users.read({ after }))), [created, deleted])
        const failures: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          users.loadByAggregate(aggregateId),
          users.fold(aggregateId, 0, (count) => count + 1),
          users.get(other.id),
          Stream.runCollect(users.read({ aggregateIds: [aggregateId] }))
        ]
        for (const failing of failures) {
          const reason = corruptRow(yield* Effect.flip(failing))
          assert.strictEqual(reason.key, String(other.version))
          assert.include(reason.message, `has the type "OrderPlaced", which is not of this view`)
        }
        const some = yield* Stream.runCollect(users.read({ aggregateIds: [aggregateId], events: all }))
        assert.deepStrictEqual(eventsOf(some), [created, deleted])
      })
    )

    it.effect('fails on other events, leaves them out or gives them raw, as "unknown" says', () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const after = yield* EventStore.use((events) => events.latestVersion)
        const users = yield* Users
        yield* users.append(aggregateId, [created, renamed])
        const [other] = yield* plain(aggregateId, "OrderPlaced", { id: 1 })
        assert.isDefined(other)
        const reads = Effect.fnUntraced(function* (unknown: "fail" | "skip" | "raw") {
          const view = yield* typed({ events: all, unknown })
          return yield* Effect.all(
            [
              Effect.map(view.loadByAggregate(aggregateId), eventsOf),
              Effect.map(view.load(after), eventsOf),
              Effect.map(Stream.runCollect(view.read({ after })), eventsOf),
              Effect.map(Stream.runCollect(view.read({ aggregateIds: [aggregateId] })), eventsOf),
              Effect.map(
                view.fold(aggregateId, Array<unknown>(), (seen, event) => [...seen, event]),
                ({ state }) => state
              )
            ].map(Effect.result)
          )
        })
        for (const result of yield* reads("fail")) {
          const error = Result.isFailure(result) ? result.failure : assert.fail("no failure")
          assert.strictEqual(corruptRow(error).key, String(other.version))
        }
        for (const result of yield* reads("skip")) {
          assert.deepStrictEqual(result, Result.succeed([created, renamed]))
        }
        const raw = new UnknownEvent({ eventType: "OrderPlaced", data: { id: 1 } })
        for (const result of yield* reads("raw")) {
          assert.deepStrictEqual(result, Result.succeed([created, renamed, raw]))
        }
        const { event, ...envelope } = yield* Effect.flatMap(typed({ events: all, unknown: "raw" }), (view) =>
          view.get(other.id)
        )
        assert.deepStrictEqual(event, raw)
        assert.deepStrictEqual(envelope, envelopeOf(other))
        const missing = yield* Effect.flip(users.get("none"))
        assert.deepStrictEqual(missing, new EventNotFound({ id: "none" }))
      })
    )

    it.effect("folds a history, and says what to append with", () =>
      Effect.gen(function* () {
        const users = yield* typed({ events: all, unknown: "skip" })
        const aggregateId = fresh()
        const name = users.fold(aggregateId, Option.none<string>(), (_, event) =>
          event._tag === "UserDeleted" ? Option.none() : Option.some(event.name)
        )
        const empty = yield* name
        assert.deepStrictEqual(empty, { state: Option.none(), expected: "none" })
        yield* users.append(aggregateId, [created, renamed], empty)
        yield* plain(aggregateId, "OrderPlaced", 1)
        // `expected` is the version of the last event, even if the view leaves that event out.
        const { expected, state } = yield* name
        assert.deepStrictEqual(state, Option.some("Jane"))
        yield* users.append(aggregateId, deleted, { expected })
        assert.strictEqual(
          (yield* Effect.flip(users.append(aggregateId, deleted, { expected })))._tag,
          "VersionConflict"
        )
        assert.deepStrictEqual((yield* name).state, Option.none())
      })
    )

    it.effect("reads old types and old versions of a payload as what they are today", () =>
      Effect.gen(function* () {
        class UserRegistered extends Schema.TaggedClass<UserRegistered>()("UserRegistered", { full: Schema.String }) {}
        class RenamedV1 extends Schema.TaggedClass<RenamedV1>()("UserRenamed", { first: Schema.String }) {}
        class RenamedV2 extends Schema.TaggedClass<RenamedV2>()("UserRenamed", {
          first: Schema.String,
          on: Schema.Date
        }) {}
        const born = new Date(0)
        const Evolved = typed({
          events: all,
          upcast: [
            upcast({ from: UserRegistered, to: UserCreated, map: ({ full }) => ({ name: full, born }) }),
            upcast({ from: RenamedV1, version: 1, to: UserRenamed, map: ({ first }) => ({ name: first }) }),
            upcast({
              from: RenamedV2,
              version: 2,
              to: UserRenamed,
              map: ({ first, on }) => ({ name: first + on.getTime() })
            })
          ]
        })
        const users = yield* Evolved
        const aggregateId = fresh()
        const after = yield* EventStore.use((events) => events.latestVersion)
        yield* plain(aggregateId, "UserRegistered", { full: "John" })
        yield* plain(aggregateId, "UserRenamed", { first: "Jim" })
        yield* plain(
          aggregateId,
          "UserRenamed",
          { first: "Jo", on: born.toISOString() },
          { schemaVersion: 2, by: "go" }
        )
        const [appended] = yield* users.append(aggregateId, renamed, { metadata: { by: "me" } })
        assert.deepStrictEqual(appended?.metadata, { by: "me", schemaVersion: 3 })
        const [unchanged] = yield* users.append(aggregateId, deleted)
        assert.isNull(unchanged?.metadata)

        const names = [new UserRenamed({ name: "Jim" }), new UserRenamed({ name: "Jo0" }), renamed]
        const history = yield* users.loadByAggregate(aggregateId)
        assert.deepStrictEqual(eventsOf(history), [created, ...names, deleted])
        assert.strictEqual(history[0]?.eventType, "UserRegistered")
        assert.deepStrictEqual(eventsOf(yield* users.load(after)), [created, ...names, deleted])
        const only = (events: Parameters<typeof users.read>[0]) =>
          Effect.map(Stream.runCollect(users.read({ after, ...events })), eventsOf)
        assert.deepStrictEqual(yield* only({ events: [UserCreated] }), [created])
        assert.deepStrictEqual(yield* only({ events: [UserRenamed], limit: 2 }), names.slice(0, 2))

        const refused = Effect.fnUntraced(function* (
          eventType: string,
          data: Schema.Json,
          metadata: Schema.JsonObject,
          message: string
        ) {
          const [bad] = yield* plain(fresh(), eventType, data, metadata)
          const reason = corruptRow(yield* Effect.flip(users.get(bad?.id ?? "")))
          assert.strictEqual(reason.key, String(bad?.version))
          assert.include(reason.message, message)
        })
        yield* refused(
          "UserRenamed",
          { name: "Jane" },
          { schemaVersion: 4 },
          "has schemaVersion 4, which this view does"
        )
        yield* refused("UserRenamed", { name: "Jane" }, { schemaVersion: "3" }, 'has schemaVersion "3"')
        yield* refused("UserRenamed", { name: "Jane" }, {}, "first: ")
        // The data fits the old class, but the upcast makes nothing of it that fits today's class.
        yield* refused("UserRegistered", { full: "" }, {}, 'does not fit "UserCreated" (name: ')
        // A view that does not know the new version yet does not take it for the old one.
        const old = yield* Effect.flip(
          Effect.flatMap(Users, (view) => view.loadByAggregate(aggregateId, history[2]?.version))
        )
        assert.strictEqual(corruptRow(old).key, String(appended?.version))
      })
    )

    it.effect("encodes and decodes with the services that its schemas need", () =>
      Effect.gen(function* () {
        class Secret extends Context.Service<Secret, { readonly shift: number }>()("test/Secret") {}
        const shifted = (by: 1 | -1) =>
          SchemaGetter.transformEffect((code: number) => Effect.map(Secret, ({ shift }) => code + by * shift))
        const Code = Schema.Number.pipe(Schema.decodeTo(Schema.Number, { decode: shifted(-1), encode: shifted(1) }))
        class CodeSet extends Schema.TaggedClass<CodeSet>()("CodeSet", { code: Code }) {}
        const codes = yield* typed({ events: [CodeSet, UserDeleted] })
        const aggregateId = fresh()
        const secret = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provideService(effect, Secret, { shift: 10 })
        yield* secret(codes.append(aggregateId, [new CodeSet({ code: 1 }), deleted]))
        const [stored] = yield* EventStore.use((events) => events.loadByAggregate(aggregateId))
        assert.deepStrictEqual(stored?.data, { code: 11 })
        const expected = [new CodeSet({ code: 1 }), deleted]
        assert.deepStrictEqual(eventsOf(yield* secret(codes.loadByAggregate(aggregateId))), expected)
        const read = Stream.runCollect(codes.read({ aggregateIds: [aggregateId] }))
        assert.deepStrictEqual(eventsOf(yield* secret(read)), expected)
      })
    )

    it.effect("refuses a view whose parts contradict each other", () =>
      Effect.gen(function* () {
        class Again extends Schema.TaggedClass<Again>("Again")("UserRenamed", { name: Schema.String }) {}
        const gone = { from: UserDeleted, map: () => ({ name: "" }) }
        const refused = Effect.fnUntraced(function* (
          view: Effect.Effect<unknown, InvalidInput, EventStore>,
          ...issues: ReadonlyArray<{ readonly field: string; readonly message: string }>
        ) {
          assert.deepStrictEqual(
            yield* Effect.flip(view),
            new InvalidInput({ store: "EventStore", operation: "typed", issues })
          )
        })
        yield* refused(typed({ events: [UserRenamed, Again] }), { field: "events", message: "Expected each tag once" })
        yield* refused(
          typed({
            events: all,
            upcast: [
              upcast({ ...gone, to: UserRenamed }),
              upcast({ from: Again, version: 0, to: UserRenamed, map: () => renamed }),
              upcast({ from: Again, to: UserRenamed, map: () => renamed }),
              upcast({ from: Again, to: UserRenamed, map: () => renamed })
            ]
          }),
          { field: "upcast.0", message: "Expected all events of the type UserDeleted to become UserDeleted" },
          { field: "upcast.1", message: "Expected a version that is a whole number from 1 on" },
          { field: "upcast.3", message: "Expected version 1 of UserRenamed once" }
        )
        const lost = upcast({ ...gone, to: UserRenamed })
        yield* refused(
          // @ts-expect-error: what an upcast gives has to be of the view
          typed({ events: [UserCreated], upcast: [lost] }),
          { field: "upcast.0", message: "Expected UserRenamed to be among the events" }
        )
      })
    )
  })
}
