/** What decisions over a query do on every `EventStore`: a part of its suite. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, type Layer, Option } from "effect"
import {
  Condition,
  ConditionFailed,
  EventStore,
  LogReplaced,
  type QueryItem,
  type StoredEvent,
  VersionConflict
} from "../EventStore.ts"
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

const decide = (items: ReadonlyArray<QueryItem>) => EventStore.use((events) => events.readForDecision(items))

const appendIf = (
  condition: Condition,
  events: Parameters<EventStore["Service"]["append"]>[0],
  options: Parameters<EventStore["Service"]["append"]>[1] = {}
) => EventStore.use((store) => store.append(events, { ...options, condition }))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

const dataOf = (events: ReadonlyArray<StoredEvent>) => events.map(({ data }) => data)

/** What is in the way of an append. */
const obstacle = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, ConditionFailed)
    return error
  })

/** Registers the suite. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<EventStore | Transactor, E>,
  { interleaving }: { readonly interleaving: boolean }
): void => {
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`Decisions (${name})`, (it) => {
    it.effect("read every match, and say which items it matches", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh("a"), fresh("b")]
        const type = fresh("type")
        yield* append([event(1, [a]), event("no"), event(2, [b, a], type), event(3, [b]), event(4, [a], type)])
        const { events, items } = yield* decide([
          { tags: [a] },
          { tags: [b], eventTypes: ["Happened"] },
          { tags: [a, b] }
        ])
        assert.deepStrictEqual(dataOf(events), [1, 2, 3, 4])
        assert.deepStrictEqual(items, [[0], [0, 2], [1], [0]])
        const nothing = yield* decide([{ tags: [fresh("a")] }])
        assert.deepStrictEqual([nothing.events, nothing.items], [[], []])
        const most = Array.from({ length: 64 }, (_, index) => ({ tags: index === 63 ? [a] : [fresh("a")] }))
        assert.deepStrictEqual((yield* decide(most)).items, [[63], [63], [63]])
        assert.deepStrictEqual(dataOf((yield* decide([{ eventTypes: [type] }])).events), [2, 4])
      })
    )

    it.effect("are appended if nothing relevant has come, and else say what is in the way first", () =>
      Effect.gen(function* () {
        const [course, student, other] = [fresh("course"), fresh("student"), fresh("other")]
        yield* append(event(1, [course]))
        const query = [{ tags: [course] }, { tags: [student], eventTypes: ["Subscribed"] }]
        const first = yield* decide(query)
        // Nothing of this matches: other tags, another type, and none.
        yield* append([event("no", [other]), event("no", [student]), event("no")])
        yield* appendIf(first.condition, event(2, [student, course], "Subscribed"))
        const [stored] = (yield* decide(query)).events.slice(1)
        const error = yield* obstacle(appendIf(first.condition, event(3, [course])))
        assert.deepStrictEqual(
          [error.change, error.version, error.eventType, error.tags],
          ["appended", Option.fromUndefinedOr(stored?.version), Option.some("Subscribed"), [course, student].sort()]
        )
        assert.include(error.message, course)
        const second = yield* decide(query)
        assert.deepStrictEqual(dataOf(second.events), [1, 2])
        yield* appendIf(second.condition, event(3, [other]))
        // What matches nothing can be repeated: the condition still holds.
        yield* appendIf(second.condition, event(4, [other]))
      })
    )

    it.effect("look at all tags of an item, and at its types", () =>
      Effect.gen(function* () {
        const [a, b, type] = [fresh("a"), fresh("b"), fresh("type")]
        const { condition } = yield* decide([{ tags: [a, b], eventTypes: [type] }])
        yield* append([event(1, [a], type), event(2, [b], type), event(3, [a, b]), event(4, [b])])
        yield* appendIf(condition, event(5, [a, b]))
        yield* append(event(6, [b, a], type))
        assert.strictEqual((yield* obstacle(appendIf(condition, event(7)))).tags.length, 2)
      })
    )

    it.effect("without tags are about the log, or about types", () =>
      Effect.gen(function* () {
        const type = fresh("type")
        const byType = yield* decide([{ eventTypes: [type] }])
        yield* append(event(1))
        yield* appendIf(byType.condition, event(2))
        const all = yield* decide([{}])
        assert.isAtLeast(all.events.length, 2)
        yield* append(event(3, undefined, type))
        assert.deepStrictEqual((yield* obstacle(appendIf(byType.condition, event(4)))).eventType, Option.some(type))
        const error = yield* obstacle(appendIf(all.condition, event(5, [fresh("a")])))
        assert.deepStrictEqual([error.eventType, error.tags], [Option.some(type), []])
      })
    )

    it.effect("let exactly one of many racers win, each time", () =>
      Effect.gen(function* () {
        const tag = fresh("hot")
        const query = [{ tags: [tag] }]
        for (let round = 0; round < 20; round++) {
          const read = yield* Effect.replicateEffect(decide(query), 16, { concurrency: "unbounded" })
          const exits = yield* Effect.forEach(
            read,
            ({ condition }, index) => Effect.exit(appendIf(condition, event(`${round}/${index}`, [tag, fresh("n")]))),
            { concurrency: "unbounded" }
          )
          assert.lengthOf(exits.filter(Exit.isSuccess), 1)
          for (const exit of exits.filter(Exit.isFailure)) {
            assert.instanceOf(Option.getOrUndefined(Exit.findErrorOption(exit)), ConditionFailed)
          }
          assert.lengthOf((yield* decide(query)).events, round + 1)
        }
      })
    )

    it.effect("on disjoint tags never conflict, also beside writers of a tag that all of them have", () =>
      Effect.gen(function* () {
        const tenant = fresh("tenant")
        yield* Effect.forEach(
          Array.from({ length: 200 }, (_, index) => index),
          (index) =>
            Effect.gen(function* () {
              const own = `${tenant}/${index}`
              for (let n = 0; n < 3; n++) {
                const { condition, events } = yield* decide([{ tags: [own, tenant] }])
                assert.lengthOf(events, n)
                yield* append(event("beside", [tenant]))
                yield* appendIf(condition, event(n, [tenant, own]))
              }
            }),
          { concurrency: 32 }
        )
        assert.lengthOf((yield* decide([{ tags: [tenant] }])).events, 1200)
      })
    )

    it.effect("can expect something besides: of two that fail it is told that the version conflicts", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const mine = event(1, [tag])
        const { condition } = yield* decide([{ tags: [tag] }])
        yield* appendIf(condition, mine, { expected: "none" })
        assert.instanceOf(
          yield* Effect.flip(appendIf(condition, { ...mine, data: 2 }, { expected: "none" })),
          VersionConflict
        )
        yield* obstacle(appendIf(condition, { ...mine, data: 2 }, { expected: "some" }))
        const next = yield* decide([{ tags: [tag] }])
        assert.instanceOf(
          yield* Effect.flip(appendIf(next.condition, { ...mine, data: 2 }, { expected: "none" })),
          VersionConflict
        )
        yield* appendIf(next.condition, { ...mine, data: 2 }, { expected: "some" })
      })
    )

    it.effect("give back what is stored already, before the condition is looked at", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const mine = { ...event(1, [tag]), id: crypto.randomUUID() }
        const { condition } = yield* decide([{ tags: [tag] }])
        const stored = yield* appendIf(condition, mine)
        assert.deepStrictEqual(yield* appendIf(condition, mine, { onDuplicate: "ignore" }), stored)
        assert.strictEqual((yield* Effect.flip(appendIf(condition, mine)))._tag, "DuplicateEvent")
        yield* obstacle(appendIf(condition, event(2, [tag])))
        assert.deepStrictEqual(yield* appendIf(condition, []), [])
      })
    )

    it.effect("join the caller's transaction, and see what it has written", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const query = [{ tags: [tag] }]
        const result = yield* transaction(
          Effect.gen(function* () {
            const before = yield* decide(query)
            yield* append(event(1, [tag]))
            // Its own event is in the way, as that of another would be. The transaction goes on.
            yield* obstacle(appendIf(before.condition, event("no", [tag])))
            const after = yield* decide(query)
            assert.deepStrictEqual(dataOf(after.events), [1])
            yield* appendIf(after.condition, event(2, [tag]))
            return after.condition
          })
        )
        yield* obstacle(appendIf(result, event("no", [tag])))
        assert.deepStrictEqual(dataOf((yield* decide(query)).events), [1, 2])
      })
    )

    it.effect("fail where a savepoint has taken back what they have seen", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const query = [{ tags: [tag] }]
        let condition: Condition | undefined
        yield* transaction(
          Effect.gen(function* () {
            yield* Effect.ignore(
              transaction(
                Effect.gen(function* () {
                  yield* append(event("undone", [tag]))
                  condition = (yield* decide(query)).condition
                  return yield* Effect.fail("undo")
                })
              )
            )
            if (condition === undefined) return assert.fail()
            const error = yield* obstacle(appendIf(condition, event("no", [tag])))
            assert.strictEqual(error.change, "withdrawn")
          })
        )
        if (condition === undefined) return assert.fail()
        yield* obstacle(appendIf(condition, event("no", [tag])))
        assert.deepStrictEqual((yield* decide(query)).events, [])
      })
    )

    it.effect("refuse a condition of another log", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        yield* append(event(1, [tag]))
        const { condition } = yield* decide([{ tags: [tag] }])
        const foreign = new Condition({ ...condition.decided, server: "another", mark: 1n, markId: "another" })
        assert.instanceOf(yield* Effect.flip(appendIf(foreign, event(2, [tag]))), LogReplaced)
        yield* appendIf(condition, event(2, [tag]))
      })
    )

    it.effect("refuse what is no query, and no condition", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        for (const items of [
          [],
          Array.from({ length: 65 }, () => ({})),
          [{ tags: ["a", "a"] }],
          [{ eventTypes: [] }]
        ]) {
          assert.instanceOf(yield* Effect.flip(decide(items)), InvalidInput)
        }
        const given: { readonly condition: Condition } = JSON.parse('{"condition":{}}')
        assert.instanceOf(yield* Effect.flip(events.append(event(1), given)), InvalidInput)
      })
    )

    if (!interleaving) return

    it.effect("know of a match that drew its version before they read, and is committed after that", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const query = [{ tags: [tag] }]
        for (const [query, late] of [
          [[{ tags: [tag] }], event("late", [fresh("more"), tag])],
          [[{ eventTypes: [tag] }], event("late", [fresh("more")], tag)],
          [[{ tags: [fresh("a")] }, { tags: [tag], eventTypes: ["Late"] }], event("late", [tag], "Late")]
        ] as const) {
          const drawn = yield* Deferred.make<void>()
          const end = yield* Deferred.make<void>()
          const slow = yield* Effect.forkChild(
            transaction(
              append(late).pipe(Effect.andThen(Deferred.succeed(drawn, undefined)), Effect.andThen(Deferred.await(end)))
            )
          )
          yield* Deferred.await(drawn)
          // Later versions are committed first, so that the highest one is no position.
          yield* append([event("beside"), event("beside", [tag], "Beside")])
          const { condition, events } = yield* decide(query)
          assert.isFalse(dataOf(events).includes("late"))
          const decided = yield* Effect.forkChild(Effect.exit(appendIf(condition, event("decided", [fresh("n")]))), {
            startImmediately: true
          })
          yield* Deferred.succeed(end, undefined)
          yield* Fiber.join(slow)
          const error = Option.getOrUndefined(Exit.findErrorOption(yield* Fiber.join(decided)))
          assert.instanceOf(error, ConditionFailed)
        }
        assert.isAtLeast((yield* decide(query)).events.length, 1)
      })
    )

    it.effect("go on where that match is rolled back", () =>
      Effect.gen(function* () {
        const tag = fresh("tag")
        const drawn = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const slow = yield* Effect.forkChild(
          Effect.exit(
            transaction(
              append(event("undone", [tag])).pipe(
                Effect.andThen(Deferred.succeed(drawn, undefined)),
                Effect.andThen(Deferred.await(end)),
                Effect.andThen(Effect.fail("undo"))
              )
            )
          )
        )
        yield* Deferred.await(drawn)
        const { condition } = yield* decide([{ tags: [tag] }])
        const decided = yield* Effect.forkChild(appendIf(condition, event(1, [tag])), { startImmediately: true })
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(slow)
        assert.deepStrictEqual(dataOf(yield* Fiber.join(decided)), [1])
      })
    )
  })
}
