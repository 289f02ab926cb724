/** What tags of events and queries by them do on every `EventStore`: a part of its suite. */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, type Layer, Option, Schema, Stream } from "effect"
import { EventStore, type QueryItem, typed } from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { Transactor } from "../Transactor.ts"

/** A name that no other test uses: all tests of a suite share one log. */
const fresh = (kind: string) => `${kind}:${crypto.randomUUID()}`

const event = (data: number | string, tags?: ReadonlyArray<string>, eventType = "Happened") => ({
  aggregateId: fresh("aggregate"),
  eventType,
  data,
  ...(tags === undefined ? {} : { tags })
})

const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

const read = (query: Parameters<EventStore["Service"]["read"]>[0]) =>
  EventStore.use((events) => Effect.map(Stream.runCollect(events.read(query)), (all) => all.map(({ data }) => data)))

class Subscribed extends Schema.TaggedClass<Subscribed>()("Subscribed", {
  course: Schema.String,
  student: Schema.String
}) {}
class Renamed extends Schema.TaggedClass<Renamed>()("Renamed", { course: Schema.String, title: Schema.String }) {}
class Closed extends Schema.TaggedClass<Closed>()("Closed", {}) {}

const Courses = typed({
  events: [Subscribed, Renamed, Closed],
  tags: {
    Subscribed: ({ course, student }) => [`course:${course}`, `student:${student}`],
    Renamed: ({ course }) => [`course:${course}`, `course:${course}`]
  }
})

/** Tags that break the model. */
const invalid: ReadonlyArray<readonly [what: string, tags: ReadonlyArray<unknown>]> = [
  ["an empty tag", [""]],
  ["a tag of 256 characters", ["x".repeat(256)]],
  ["a tag twice", ["a", "b", "a"]],
  ["65 tags", Array.from({ length: 65 }, (_, index) => `tag ${index}`)],
  ["a tag with a NUL character", ["a\0b"]],
  ["a tag with a lone surrogate", ["\ud800"]],
  ["a number", [1]]
]

/** Queries that break the model. */
const invalidItems: ReadonlyArray<readonly [what: string, items: ReadonlyArray<unknown>]> = [
  ["no items", []],
  ["65 items", Array.from({ length: 65 }, () => ({}))],
  ["an item with no types", [{ eventTypes: [] }]],
  ["an item with an empty tag", [{ tags: [""] }]],
  ["an item with a tag twice", [{ tags: ["a", "a"] }]]
]

/** Registers the suite. */
export const suite = <E>(name: string, layer: Layer.Layer<EventStore | Transactor, E>): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Tags of events (${name})`, (it) => {
    it.effect("finds events by all of their tags, in order", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh("a"), fresh("b")]
        yield* append([event(1, [a]), event(2, [a, b]), event(3), event(4, [b])])
        yield* append(event(5, [b, a], "Other"))
        assert.deepStrictEqual(yield* read({ tags: [a] }), [1, 2, 5])
        assert.deepStrictEqual(yield* read({ tags: [b] }), [2, 4, 5])
        assert.deepStrictEqual(yield* read({ tags: [a, b] }), [2, 5])
        assert.deepStrictEqual(yield* read({ tags: [fresh("a")] }), [])
        assert.deepStrictEqual(yield* read({ tags: [a], direction: "backward" }), [5, 2, 1])
        assert.deepStrictEqual(yield* read({ tags: [a], eventTypes: ["Happened"] }), [1, 2])
        assert.deepStrictEqual(yield* read({ tags: [b], data: 4 }), [4])
        assert.deepStrictEqual(yield* read({ tags: [a], limit: 2 }), [1, 2])
        assert.deepStrictEqual(yield* read({ tags: [a], limit: 1, direction: "backward" }), [5])
        assert.deepStrictEqual(yield* read({ tags: [a], batchSize: 1 }), [1, 2, 5])
      })
    )

    it.effect("finds events by the items of a query: all tags and one of the types of any of them", () =>
      Effect.gen(function* () {
        const [a, b, c] = [fresh("a"), fresh("b"), fresh("c")]
        const type = fresh("type")
        const stored = yield* append([
          event(1, [a]),
          event(2, [a, b], type),
          event(3, [c], type),
          event(4, undefined, type),
          event(5, [b, c])
        ])
        const after = (stored[0]?.version ?? 0n) - 1n
        const by = (items: ReadonlyArray<QueryItem>, more = {}) => read({ items, after, ...more })
        assert.deepStrictEqual(yield* by([{ tags: [a] }, { tags: [b] }]), [1, 2, 5])
        assert.deepStrictEqual(yield* by([{ tags: [a, b] }, { tags: [c, b] }]), [2, 5])
        assert.deepStrictEqual(yield* by([{ tags: [a], eventTypes: [type] }, { tags: [c] }]), [2, 3, 5])
        assert.deepStrictEqual(yield* by([{ eventTypes: [type] }]), [2, 3, 4])
        assert.deepStrictEqual(yield* by([{ eventTypes: [type] }, { tags: [a] }]), [1, 2, 3, 4])
        assert.deepStrictEqual(yield* by([{ eventTypes: [type], tags: [] }]), [2, 3, 4])
        assert.deepStrictEqual(yield* by([{}], { limit: 5 }), [1, 2, 3, 4, 5])
        assert.deepStrictEqual(yield* by([{ tags: [a] }, { tags: [b] }], { tags: [c] }), [5])
        assert.deepStrictEqual(yield* by([{ tags: [a] }, { tags: [b] }], { direction: "backward" }), [5, 2, 1])
        assert.deepStrictEqual(yield* by([{ tags: [a] }, { tags: [b] }], { batchSize: 1 }), [1, 2, 5])
        assert.deepStrictEqual(yield* by([{ tags: [a] }, { tags: [b] }], { limit: 2 }), [1, 2])
      })
    )

    it.effect("keeps tags of any text apart from ids and from each other", () =>
      Effect.gen(function* () {
        const id = fresh("same")
        const texts = [id, `${id}'"\\\n`, `${id} é🐘`, `${id}${"🐘".repeat(200)}`, `${id} `]
        yield* append([{ aggregateId: id, eventType: id, data: "untagged" }])
        yield* append(texts.map((tag, index) => event(index, [tag])))
        for (const [index, tag] of texts.entries()) assert.deepStrictEqual(yield* read({ tags: [tag] }), [index])
        const most = Array.from({ length: 64 }, (_, index) => `${id} ${index}`)
        yield* append(event("64 tags", most))
        assert.deepStrictEqual(yield* read({ tags: most }), ["64 tags"])
      })
    )

    it.effect("follows events by tags, also those to come", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const [a, b] = [fresh("a"), fresh("b")]
        yield* append([event(1, [a]), event("no", [b]), event(2, [a, b])])
        const items = [{ tags: [a] }, { tags: [b], eventTypes: ["Other"] }]
        const follow = (subscription: Parameters<typeof events.subscribe>[0], count: number) =>
          Effect.forkChild(
            Effect.map(Stream.runCollect(Stream.take(events.subscribe(subscription), count)), (all) =>
              all.map(({ data }) => data)
            ),
            { startImmediately: true }
          )
        const byTag = yield* follow({ after: "start", tags: [a] }, 4)
        const byItems = yield* follow({ after: "start", items }, 6)
        yield* append([event("no", [b]), event("no"), event(3, [a])])
        yield* append(event("other", [b], "Other"))
        yield* append([event("no", [b]), event(4, [a, b]), event("last", [b], "Other")])
        assert.deepStrictEqual(yield* Fiber.join(byTag), [1, 2, 3, 4])
        assert.deepStrictEqual(yield* Fiber.join(byItems), [1, 2, 3, "other", 4, "last"])
      })
    )

    it.effect("stores tags together with their events, or not at all", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const id = crypto.randomUUID()
        const stored = yield* append({ ...event(1, [tag]), id })
        yield* Effect.exit(transaction(Effect.andThen(append(event("undone", [tag])), Effect.fail("undo"))))
        const inside = transaction(
          Effect.gen(function* () {
            yield* append(event(2, [tag]))
            yield* Effect.ignore(transaction(Effect.andThen(append(event("undone", [tag])), Effect.fail("undo"))))
            return yield* read({ tags: [tag] })
          })
        )
        assert.deepStrictEqual(yield* inside, [1, 2])
        const again = { ...event(1, [tag, fresh("more")]), aggregateId: stored[0]?.aggregateId ?? "", id }
        assert.deepStrictEqual(yield* append(again, { onDuplicate: "ignore" }), stored)
        assert.strictEqual((yield* Effect.exit(append(again)))._tag, "Failure")
        assert.deepStrictEqual(yield* read({ tags: [tag] }), [1, 2])
      })
    )

    it.effect("refuses an append as a whole where it expects something, and its tags with it", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const first = event(1, [tag])
        yield* append(first, { expected: "none" })
        const error = yield* Effect.flip(append([event("no", [tag]), first], { expected: "none" }))
        assert.strictEqual(error._tag, "VersionConflict")
        assert.deepStrictEqual(yield* read({ tags: [tag] }), [1])
      })
    )

    for (const [what, tags] of invalid) {
      it.effect(`refuses ${what}`, () =>
        Effect.gen(function* () {
          const events = yield* EventStore
          const given: ReadonlyArray<never> = JSON.parse(JSON.stringify(tags))
          const exits = [
            yield* Effect.exit(events.append({ ...event(1), tags: given })),
            yield* Effect.exit(Stream.runDrain(events.read({ tags: given }))),
            yield* Effect.exit(Stream.runDrain(events.subscribe({ after: "end", tags: given }))),
            yield* Effect.exit(Stream.runDrain(events.read({ items: [{ tags: given }] })))
          ]
          for (const exit of exits) {
            const error = Option.getOrUndefined(Exit.findErrorOption<unknown, unknown>(exit))
            assert.instanceOf(error, InvalidInput)
            assert.include(error.message, "tags")
          }
        })
      )
    }

    for (const [what, items] of invalidItems) {
      it.effect(`refuses a query with ${what}`, () =>
        Effect.gen(function* () {
          const events = yield* EventStore
          const given: ReadonlyArray<never> = JSON.parse(JSON.stringify(items))
          for (const stream of [events.read({ items: given }), events.subscribe({ after: "end", items: given })]) {
            const error = Option.getOrUndefined(Exit.findErrorOption(yield* Effect.exit(Stream.runDrain(stream))))
            assert.instanceOf(error, InvalidInput)
            assert.include(error.message, "items")
          }
        })
      )
    }

    it.effect("derives tags from the events of a view, and reads by them", () =>
      Effect.gen(function* () {
        const courses = yield* Courses
        const [course, other, student] = [fresh("c"), fresh("c"), fresh("s")]
        yield* courses.append(course, [
          new Subscribed({ course, student }),
          new Renamed({ course, title: "Algebra" }),
          new Closed()
        ])
        yield* courses.appendAll([
          {
            aggregateId: other,
            event: new Subscribed({ course: other, student }),
            tags: [`student:${student}`, "more"]
          }
        ])
        const tagsOf = (query: Parameters<typeof courses.read>[0]) =>
          Effect.map(Stream.runCollect(courses.read(query)), (all) => all.map(({ event }) => event._tag))
        assert.deepStrictEqual(yield* tagsOf({ tags: [`course:${course}`] }), ["Subscribed", "Renamed"])
        assert.deepStrictEqual(yield* tagsOf({ tags: [`student:${student}`] }), ["Subscribed", "Subscribed"])
        assert.deepStrictEqual(
          yield* tagsOf({ items: [{ events: [Renamed], tags: [`course:${course}`] }, { tags: [`course:${other}`] }] }),
          ["Renamed", "Subscribed"]
        )
        assert.deepStrictEqual(yield* tagsOf({ events: [Renamed], tags: [`course:${course}`] }), ["Renamed"])
        const [followed] = yield* Stream.runCollect(
          Stream.take(courses.subscribe({ after: "start", events: [Renamed], tags: [`course:${course}`] }), 1)
        )
        assert.deepStrictEqual(followed?.event, new Renamed({ course, title: "Algebra" }))
      })
    )
  })
}
