/** What tags for events that are in the log do on every `EventStore`: a part of its suite. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, type Layer, Option, Schedule, Schema, Stream } from "effect"
import * as Decision from "../Decision.ts"
import {
  Condition,
  ConditionFailed,
  EventNotFound,
  EventStore,
  type StoredEvent,
  type TagStep,
  typed
} from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"

/** A name that no other test uses: all tests of a suite share one log. */
const fresh = (kind: string) => `${kind}:${crypto.randomUUID()}`

const event = (data: number | string, tags: ReadonlyArray<string> = [], eventType = "Happened") => ({
  aggregateId: fresh("aggregate"),
  eventType,
  data,
  tags
})

type Store = EventStore["Service"]

const append = (events: Parameters<Store["append"]>[0]) => EventStore.use((store) => store.append(events))

const appendIf = (condition: Condition, events: Parameters<Store["append"]>[0]) =>
  EventStore.use((store) => store.append(events, { condition }))

const tag = (events: ReadonlyArray<StoredEvent>, tags: ReadonlyArray<string>, dryRun = false) =>
  EventStore.use((store) =>
    store.tag(
      events.map(({ id, version }) => ({ id, version, tags })),
      { dryRun }
    )
  )

const read = (query: Parameters<Store["read"]>[0]) =>
  EventStore.use((events) => Effect.map(Stream.runCollect(events.read(query)), (all) => all.map(({ data }) => data)))

const decide = (...tags: ReadonlyArray<string>) => EventStore.use((events) => events.readForDecision([{ tags }]))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

/** That the append was overtaken by a tagging. */
const overtaken = <A, E, R>(append: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(append), (error) => {
    assert.instanceOf(error, ConditionFailed)
    assert.strictEqual(error.change, "tagged")
    assert.isTrue(Option.isNone(error.version))
  })

class Joined extends Schema.TaggedClass<Joined>()("Joined", { club: Schema.String, member: Schema.String }) {}
class Dissolved extends Schema.TaggedClass<Dissolved>()("Dissolved", { club: Schema.String }) {}

/** Before it was known what its events are about, and after. */
const Untagged = typed({ events: [Joined, Dissolved] })
const Clubs = typed({
  events: [Joined, Dissolved],
  tags: {
    Joined: ({ club, member }) => [`club:${club}`, `member:${member}`],
    Dissolved: ({ club }) => [`club:${club}`]
  }
})

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<EventStore | Transactor, E>,
  { interleaving }: { readonly interleaving: boolean }
): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Tags afterwards (${name})`, (it) => {
    it.effect("lead to events that had none, or others, and count what is new", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh("a"), fresh("b")]
        const stored = yield* append([event(1), event(2, [a]), event(3)])
        const [first, second, third] = stored
        if (first === undefined || second === undefined || third === undefined) return assert.fail()
        assert.deepStrictEqual(yield* tag([first, second], [a, b], true), { events: 2, tags: 3 })
        assert.deepStrictEqual(yield* read({ tags: [b] }), [])
        assert.deepStrictEqual(yield* tag([first, second], [a, b]), { events: 2, tags: 3 })
        assert.deepStrictEqual(yield* tag([second, third], [b]), { events: 1, tags: 1 })
        assert.deepStrictEqual(yield* tag(stored, []), { events: 0, tags: 0 })
        assert.deepStrictEqual(yield* read({ tags: [a] }), [1, 2])
        assert.deepStrictEqual(yield* read({ tags: [a, b] }), [1, 2])
        assert.deepStrictEqual(yield* read({ items: [{ tags: [b], eventTypes: ["Happened"] }] }), [1, 2, 3])
        assert.deepStrictEqual(
          (yield* decide(b)).events.map(({ data }) => data),
          [1, 2, 3]
        )
        const followed = EventStore.use((events) =>
          Effect.succeed(events.subscribe({ after: first.version, tags: [b] }))
        ).pipe(Stream.unwrap, Stream.take(2), Stream.runCollect)
        assert.deepStrictEqual(
          (yield* followed).map(({ data }) => data),
          [2, 3]
        )
      })
    )

    it.effect("void every condition that was read before, and none once nothing is new", () =>
      Effect.gen(function* () {
        const [a, other] = [fresh("a"), fresh("other")]
        const stored = yield* append([event(1)])
        const before = yield* decide(a)
        const elsewhere = yield* decide(other)
        yield* tag(stored, [a])
        yield* overtaken(appendIf(before.condition, event("no", [a])))
        yield* overtaken(appendIf(elsewhere.condition, event("no", [other])))
        const { condition, events } = yield* decide(a)
        assert.lengthOf(events, 1)
        yield* tag(stored, [a], true)
        yield* tag(stored, [fresh("b")], true)
        yield* tag(stored, [a])
        yield* appendIf(condition, event(2, [a]))
      })
    )

    it.effect("make a decision again that has read before them", () =>
      Effect.gen(function* () {
        const club = fresh("club")
        const untagged = yield* Untagged
        const [stored] = yield* untagged.append(club, new Joined({ club, member: "m" }))
        if (stored === undefined) return assert.fail()
        const store = yield* EventStore
        const states: Array<number> = []
        const join = Decision.make({
          events: Clubs,
          query: () => [{ tags: [`club:${club}`] as const }],
          initial: () => 0,
          evolve: (members: number) => members + 1,
          decide: Effect.fn(function* (members) {
            states.push(members)
            if (states.length === 1) {
              yield* store.tag([{ version: stored.version, id: stored.id, tags: [`club:${club}`] }])
            }
            return [new Joined({ club, member: `${members}` })]
          })
        })
        assert.lengthOf((yield* join.execute({}, { retry: Schedule.recurs(1) })).events, 1)
        assert.deepStrictEqual(states, [0, 1])
      })
    )

    it.effect("are all given, or none, also in a transaction and its savepoints", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh("a"), fresh("b")]
        const stored = yield* append([event(1), event(2)])
        const before = yield* decide(a)
        yield* Effect.exit(transaction(Effect.andThen(tag(stored, [a]), Effect.fail("undo"))))
        assert.deepStrictEqual(yield* read({ tags: [a] }), [])
        yield* transaction(
          Effect.gen(function* () {
            const own = yield* append(event(3))
            yield* tag(own, [b])
            yield* Effect.ignore(transaction(Effect.andThen(tag(stored, [b]), Effect.fail("undo"))))
            assert.deepStrictEqual(yield* read({ tags: [b] }), [3])
          })
        )
        assert.deepStrictEqual(yield* read({ tags: [b] }), [3])
        yield* overtaken(appendIf(before.condition, event("no")))
        const again = yield* decide(a)
        yield* Effect.exit(transaction(Effect.andThen(tag(stored, [a]), Effect.fail("undo"))))
        yield* appendIf(again.condition, event(4, [a]))
      })
    )

    it.effect("void a condition that was read beside tags which a savepoint has taken back", () =>
      Effect.gen(function* () {
        for (const scope of [Effect.asVoid, transaction]) {
          const [a, b] = [fresh("a"), fresh("b")]
          const [first, second] = yield* append([event(1), event(2)])
          if (first === undefined || second === undefined) return assert.fail()
          // The mark of conditions rises above these events, so that the check looks at none of them.
          yield* Effect.repeat(
            Effect.tap(decide(a), () => append(event("beside", [a]))),
            { until: ({ condition }) => condition.decided.mark >= second.version }
          )
          const takenBack = transaction(
            Effect.andThen(
              tag([first], [a]),
              Effect.flatMap(decide(b), ({ condition }) => Effect.fail(condition))
            )
          )
          yield* scope(
            Effect.gen(function* () {
              const condition = yield* Effect.flip(takenBack)
              if (!(condition instanceof Condition)) return assert.fail()
              // Other tags come in the place of those that are gone.
              yield* tag([second], [b])
              yield* overtaken(appendIf(condition, event("no", [b])))
            })
          )
        }
      })
    )

    it.effect("are refused for what is not in the log, and where an event would have too many", () =>
      Effect.gen(function* () {
        const store = yield* EventStore
        const most = Array.from({ length: 60 }, (_, index) => fresh(String(index)))
        const stored = yield* append([event(1), event(2, most)])
        const [first, second] = stored
        if (first === undefined || second === undefined) return assert.fail()
        const a = fresh("a")
        const missing = yield* Effect.flip(
          store.tag([
            { ...first, tags: [a] },
            { ...second, id: first.id, tags: [a] }
          ])
        )
        assert.instanceOf(missing, EventNotFound)
        const none = { version: first.version + 1_000_000n, id: "none", tags: [a] }
        assert.instanceOf(yield* Effect.flip(store.tag([none])), EventNotFound)
        const five = Array.from({ length: 5 }, (_, index) => `${a} ${index}`)
        const many = yield* Effect.flip(tag(stored, five))
        assert.instanceOf(many, InvalidInput)
        assert.include(many.message, `64 tags, with those that event ${second.version} has already`)
        assert.deepStrictEqual(yield* read({ tags: [`${a} 0`] }), [])
        yield* tag(stored, five.slice(0, 4))
        const refusals = yield* Effect.forEach([[""], ["x".repeat(256)], ["x", "x"], ["a\0b"]], (tags) =>
          Effect.flip(store.tag([{ ...first, tags }]))
        )
        for (const refused of refusals) {
          assert.instanceOf(refused, InvalidInput)
          assert.include(refused.message, "tags")
        }
        assert.deepStrictEqual(yield* store.tag([]), { events: 0, tags: 0 })
      })
    )

    it.effect("are derived by a view for its part of the log, in batches, and once", () =>
      Effect.gen(function* () {
        const [untagged, clubs, store] = [yield* Untagged, yield* Clubs, yield* EventStore]
        const [club, other] = [fresh("club"), fresh("club")]
        const joined = (count: number) =>
          Array.from({ length: count }, (_, index) => new Joined({ club, member: `${club}/${index}` }))
        const [first] = yield* untagged.append(club, joined(300))
        const [dissolved] = yield* untagged.append(other, new Dissolved({ club: other }))
        yield* clubs.append(club, joined(1))
        if (first === undefined || dissolved === undefined) return assert.fail()
        const range = { after: first.version - 1n }
        const total = (steps: ReadonlyArray<TagStep>) => {
          const sum = (part: "read" | "events" | "tags") => steps.reduce((sum, step) => sum + step[part], 0)
          return [sum("read"), sum("events"), sum("tags")]
        }
        const tagAll = (options: Parameters<typeof clubs.tagAll>[0]) =>
          Effect.map(Stream.runCollect(clubs.tagAll(options)), total)
        assert.deepStrictEqual(yield* tagAll({ ...range, dryRun: true }), [302, 301, 601])
        assert.deepStrictEqual(yield* tagAll({ ...range, upTo: first.version + 9n }), [10, 10, 20])
        assert.lengthOf(yield* read({ tags: [`club:${club}`] }), 11)
        assert.deepStrictEqual(yield* tagAll({ ...range, events: [Dissolved] }), [1, 1, 1])
        const steps = yield* Stream.runCollect(clubs.tagAll(range))
        assert.isAbove(steps.length, 1)
        assert.deepStrictEqual(total(steps), [302, 290, 580])
        const { condition } = yield* store.readForDecision([{ tags: [`club:${club}`] }])
        assert.deepStrictEqual(yield* tagAll(range), [302, 0, 0])
        yield* appendIf(condition, event(1, [`club:${club}`]))
        assert.lengthOf(yield* read({ tags: [`club:${club}`] }), 302)
        assert.lengthOf(yield* read({ tags: [`member:${club}/299`] }), 1)
        assert.lengthOf(yield* read({ tags: [`club:${other}`] }), 1)
      })
    )

    it.effect("are not derived from what does not decode: the stream ends before it", () =>
      Effect.gen(function* () {
        const [bad] = yield* append(event("no", [], "Dissolved"))
        if (bad === undefined) return assert.fail()
        const error = yield* Effect.flip(Stream.runDrain((yield* Clubs).tagAll({ after: bad.version - 1n })))
        assert.instanceOf(error, StoreError)
        assert.deepStrictEqual([error.reason._tag, error.operation], ["CorruptRow", "tagAll"])
      })
    )

    if (!interleaving) return

    it.effect("wait for a decision that is between its check and its commit, also by a tag that the events had", () =>
      Effect.gen(function* () {
        for (const [had, gets] of [
          [[], ["a"]],
          [["a"], ["b"]]
        ] as const) {
          const suffix = fresh("")
          const named = (tags: ReadonlyArray<string>) => tags.map((tag) => tag + suffix)
          const stored = yield* append(event(1, named(had)))
          const query = named([...had, ...gets])
          const checked = yield* Deferred.make<void>()
          const end = yield* Deferred.make<void>()
          const { condition, events } = yield* decide(...query)
          assert.lengthOf(events, 0)
          const decided = yield* Effect.forkChild(
            transaction(
              appendIf(condition, event("decided", query)).pipe(
                Effect.andThen(Deferred.succeed(checked, undefined)),
                Effect.andThen(Deferred.await(end))
              )
            )
          )
          yield* Deferred.await(checked)
          let isTagged = false
          const tagging = yield* Effect.forkChild(
            Effect.tap(tag(stored, named(gets)), () => Effect.sync(() => (isTagged = true))),
            { startImmediately: true }
          )
          // Others are not in the way, and a reader does not wait.
          yield* Effect.repeat(append(event("beside", [fresh("beside")])), { times: 40 })
          assert.lengthOf((yield* decide(...query)).events, 0)
          assert.isFalse(isTagged)
          yield* Deferred.succeed(end, undefined)
          yield* Fiber.join(decided)
          assert.strictEqual((yield* Fiber.join(tagging)).events, 1)
          assert.lengthOf((yield* decide(...query)).events, 2)
        }
      })
    )

    it.effect("make a decision wait that is about one of them, and fail then", () =>
      Effect.gen(function* () {
        const a = fresh("a")
        const stored = yield* append(event(1))
        const tagged = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const tagging = yield* Effect.forkChild(
          transaction(
            tag(stored, [a]).pipe(
              Effect.andThen(Deferred.succeed(tagged, undefined)),
              Effect.andThen(Deferred.await(end))
            )
          )
        )
        yield* Deferred.await(tagged)
        const { condition, events } = yield* decide(a)
        assert.lengthOf(events, 0)
        const decided = yield* Effect.forkChild(Effect.exit(appendIf(condition, event("no", [a]))), {
          startImmediately: true
        })
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(tagging)
        const exit = yield* Fiber.join(decided)
        assert.instanceOf(Option.getOrUndefined(Exit.findErrorOption(exit)), ConditionFailed)
      })
    )

    it.effect("are given once by many that give them at the same time", () =>
      Effect.gen(function* () {
        const a = fresh("a")
        const stored = yield* append(Array.from({ length: 30 }, (_, index) => event(index)))
        const counts = yield* Effect.replicateEffect(tag(stored, [a]), 8, { concurrency: "unbounded" })
        assert.strictEqual(
          counts.reduce((sum, { tags }) => sum + tags, 0),
          30
        )
        assert.lengthOf(yield* read({ tags: [a] }), 30)
      })
    )
  })
}
