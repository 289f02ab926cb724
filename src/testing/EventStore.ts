/** What every `EventStore` does, as a suite for Vitest. */
import { assert, it } from "@effect/vitest"
import { DateTime, Deferred, Effect, Equal, Exit, Fiber, type Layer, Option, Result, type Schema, Stream } from "effect"
import {
  type Cursor,
  DuplicateEvent,
  EventNotFound,
  EventStore,
  type Expected,
  InvalidVersion,
  LogReplaced,
  maxDataBytes,
  maxMetadataBytes,
  parseVersion,
  type StoredEvent,
  VersionConflict
} from "../EventStore.ts"
import { InvalidInput } from "../InvalidInput.ts"
import { Transactor } from "../Transactor.ts"
import * as Decisions from "./EventDecisions.ts"
import * as Origins from "./EventOrigins.ts"
import * as Subscriptions from "./EventSubscriptions.ts"
import * as Tagging from "./EventTagging.ts"
import * as Tags from "./EventTags.ts"
import * as TypedEvents from "./TypedEvents.ts"

/** An aggregate that no other test uses: all tests of a suite share one log. */
const fresh = () => `aggregate ${crypto.randomUUID()}`

const event = (aggregateId: string, data: Schema.Json = {}, eventType = "Happened") => ({
  aggregateId,
  eventType,
  data
})

const append = (...args: Parameters<EventStore["Service"]["append"]>) =>
  EventStore.use((events) => events.append(...args))

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Transactor.use(({ withTransaction }) => withTransaction(effect))

const versions = (events: ReadonlyArray<StoredEvent>) => events.map(({ version }) => version)
const dataOf = (events: ReadonlyArray<StoredEvent>) => events.map(({ data }) => data)

const history = (aggregateId: string) =>
  EventStore.use((events) => Effect.map(events.loadByAggregate(aggregateId), dataOf))

const collect = (query: Parameters<EventStore["Service"]["read"]>[0]) =>
  EventStore.use((events) => Stream.runCollect(events.read(query)))

/** A cycle, which is no JSON. */
const cycle: { self?: unknown } = {}
cycle.self = cycle

/** Parts of an event that break the model, as a caller without a type checker could send them. */
const invalid: ReadonlyArray<readonly [what: string, part: object]> = [
  ["an empty aggregate id", { aggregateId: "" }],
  ["an aggregate id of 513 characters", { aggregateId: "x".repeat(513) }],
  ["an aggregate id with a NUL character", { aggregateId: "a\0b" }],
  ["an empty event type", { eventType: "" }],
  ["an empty id", { id: "" }],
  ["no data", { data: undefined }],
  ["undefined inside the data", { data: { name: undefined } }],
  ["a function", { data: { f: () => 1 } }],
  ["a cycle", { data: cycle }],
  ["NaN", { data: [Number.NaN] }],
  ["an infinite number", { data: Number.POSITIVE_INFINITY }],
  ["a bigint", { data: { balance: 1n } }],
  ["a date", { data: new Date(0) }],
  ["more than 500 levels", { data: Array.from({ length: 100_000 }).reduce((inside) => [inside], 1) }],
  ["a NUL character in the data", { data: { text: "a\0b" } }],
  ["a lone surrogate in a key", { data: { "\ud800": 1 } }],
  ["metadata that is no object", { metadata: [1] }],
  ["data that is too large to be read again", { data: "x".repeat(maxDataBytes - 1) }],
  ["numbers whose digits are too many to be read again", { data: Array.from({ length: 60_000 }, () => 5e-324) }],
  ["metadata that is too large", { metadata: { text: "x".repeat(maxMetadataBytes) } }]
]

/** Registers the suite. `interleaving: false` leaves out what takes two transactions open at once. */
export const suite = <E>(
  name: string,
  layer: Layer.Layer<EventStore | Transactor, E>,
  { interleaving = true }: { readonly interleaving?: boolean } = {}
): void => {
  // The suite runs on the real clock: reads may have to wait for the other transactions of a test.
  it.layer(layer, { timeout: "2 minutes", excludeTestServices: true })(`EventStore (${name})`, (it) => {
    it.effect("appends one event, and gives it back as it is stored", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const aggregateId = fresh()
        const data = { name: "John Doe", tags: ["a", null, 1.5], nested: { empty: {}, list: [], text: "é 🐘 \"'\\\n" } }
        const [stored, ...rest] = yield* events.append({
          aggregateId,
          eventType: "UserCreated",
          data,
          metadata: { traceId: "t" }
        })
        assert.deepStrictEqual(rest, [])
        assert.isDefined(stored)
        assert.strictEqual(stored.aggregateId, aggregateId)
        assert.strictEqual(stored.eventType, "UserCreated")
        assert.deepStrictEqual(stored.data, data)
        assert.deepStrictEqual(stored.metadata, { traceId: "t" })
        assert.strictEqual(stored.streamName, `stream_${aggregateId}`)
        assert.match(stored.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
        assert.isAbove(Number(stored.version), 0)
        assert.deepStrictEqual(yield* events.get(stored.id), stored)
        assert.deepStrictEqual(yield* events.loadByAggregate(aggregateId), [stored])
      })
    )

    it.effect("appends a batch in its order, all or nothing", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const stored = yield* append([event(a, 1), event(b, 2), event(a, 3)])
        assert.deepStrictEqual(
          versions(stored),
          versions(stored).toSorted((x, y) => Number(x - y))
        )
        assert.deepStrictEqual(yield* history(a), [1, 3])
        assert.deepStrictEqual(yield* history(b), [2])
        const exit = yield* Effect.exit(append([event(a, 4), event(b, 5)], { expected: { [b]: "none" } }))
        assert.isTrue(Exit.isFailure(exit))
        assert.deepStrictEqual(yield* history(a), [1, 3])
      })
    )

    it.effect("does nothing with no events", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* append([]), [])
        assert.deepStrictEqual(yield* append([], { expected: "none" }), [])
      })
    )

    it.effect("keeps every finite number, also beyond 2^53", () =>
      Effect.gen(function* () {
        const numbers = [2 ** 53, -(2 ** 53), 2 ** 60, 1e21, -1e21, 1e300, Number.MAX_VALUE, 5e-324, 0.1 + 0.2]
        const [stored] = yield* append({ ...event(fresh(), numbers), metadata: { numbers } })
        assert.isDefined(stored)
        assert.deepStrictEqual([stored.data, stored.metadata], [numbers, { numbers }])
        assert.deepStrictEqual(yield* EventStore.use((events) => events.get(stored.id)), stored)
      })
    )

    it.effect("keeps keys with escapes, whatever keys stood in their place before", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const aggregateId = fresh()
        const keys = ["\\", "\n", '"', "\u0001", "q\\\\", "q\\y", "\ue0000"]
        const given = keys.flatMap((key) => [{ escaped: 1, [key]: 2 }, { [key]: { large: 2 ** 60, [key]: [] } }])
        yield* events.append(given.map((data) => ({ aggregateId, eventType: "Kept", data, metadata: data })))
        const stored = yield* events.loadByAggregate(aggregateId)
        assert.deepStrictEqual(
          stored.map(({ data }) => data),
          given
        )
        assert.deepStrictEqual(
          stored.map(({ metadata }) => metadata),
          given
        )
      })
    )

    it.effect("takes an event of 10 MB", () =>
      Effect.gen(function* () {
        const [stored] = yield* append(event(fresh(), { text: "x".repeat(10_000_000) }))
        assert.isDefined(stored)
        const again = yield* EventStore.use((events) => events.get(stored.id))
        assert.deepStrictEqual(again, stored)
      })
    )

    it.effect("takes an event with everything as large as can be", () =>
      Effect.gen(function* () {
        const aggregateId = "🐘".repeat(200) + fresh()
        const data = "é".repeat(maxDataBytes / 2 - 1)
        const metadata = { text: "x".repeat(maxMetadataBytes - `{"text": ""}`.length) }
        const [stored] = yield* append({ aggregateId, eventType: "🐘".repeat(512), data, metadata })
        assert.isDefined(stored)
        assert.isTrue(stored.data === data)
        const [again] = yield* EventStore.use((events) => events.loadByAggregate(aggregateId))
        assert.isTrue(Equal.equals(again, stored))
      })
    )

    it.effect("appends only to an aggregate that is as expected", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const attempt = (data: number, expected: Expected) =>
          Effect.map(Effect.result(append(event(aggregateId, data), { expected })), Result.map(versions))
        const conflict = (expected: Expected, actual: Option.Option<bigint>) =>
          Result.fail(new VersionConflict({ aggregateId, expected, actual }))

        assert.deepStrictEqual(yield* attempt(1, "some"), conflict("some", Option.none()))
        assert.deepStrictEqual(yield* attempt(1, 1n), conflict(1n, Option.none()))
        const first = yield* attempt(1, "none")
        assert.isTrue(Result.isSuccess(first))
        const version = Result.isSuccess(first) ? (first.success[0] ?? 0n) : 0n
        assert.deepStrictEqual(yield* attempt(2, "none"), conflict("none", Option.some(version)))
        assert.deepStrictEqual(yield* attempt(2, version + 1n), conflict(version + 1n, Option.some(version)))
        assert.isTrue(Result.isSuccess(yield* attempt(2, version)))
        assert.isTrue(Result.isSuccess(yield* attempt(3, "some")))
        assert.isTrue(Result.isSuccess(yield* attempt(4, "any")))
        assert.deepStrictEqual(yield* history(aggregateId), [1, 2, 3, 4])
      })
    )

    it.effect("lets exactly one of many racing writers win", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        let expected: Expected = "none"
        for (let round = 0; round < 10; round++) {
          const results: ReadonlyArray<Result.Result<ReadonlyArray<StoredEvent>, unknown>> = yield* Effect.forEach(
            Array.from({ length: 20 }, (_, writer) => writer),
            (writer) => Effect.result(append(event(aggregateId, [round, writer]), { expected })),
            { concurrency: "unbounded" }
          )
          const won = results.flatMap((result) => (Result.isSuccess(result) ? versions(result.success) : []))
          assert.strictEqual(won.length, 1)
          const actual = Option.fromUndefinedOr(won[0])
          for (const result of results.filter(Result.isFailure)) {
            assert.deepStrictEqual(result.failure, new VersionConflict({ aggregateId, expected, actual }))
          }
          expected = won[0] ?? 0n
        }
      })
    )

    it.effect("does not spoil the transaction that catches a conflict or a duplicate", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const id = crypto.randomUUID()
        yield* transaction(
          Effect.gen(function* () {
            yield* append({ ...event(aggregateId, 1), id })
            assert.instanceOf(yield* Effect.flip(append(event(aggregateId, 2), { expected: "none" })), VersionConflict)
            assert.instanceOf(yield* Effect.flip(append({ ...event(aggregateId, 1), id })), DuplicateEvent)
            yield* append(event(aggregateId, 3))
          })
        )
        assert.deepStrictEqual(yield* history(aggregateId), [1, 3])
      })
    )

    it.effect("recognises an event that is tried again by its id", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const id = crypto.randomUUID()
        const again = { ...event(aggregateId, { a: 1, b: [2] }), id, metadata: { m: 1 } }
        const stored = yield* append(again, { expected: "none" })
        assert.deepStrictEqual(yield* Effect.flip(append(again)), new DuplicateEvent({ id }))
        assert.deepStrictEqual(yield* append(again, { expected: "none", onDuplicate: "ignore" }), stored)
        const reordered = { ...again, data: { b: [2], a: 1 } }
        assert.deepStrictEqual(yield* append(reordered, { onDuplicate: "ignore" }), stored)
        for (const other of [
          { ...again, data: { a: 1, b: [3] } },
          { ...again, metadata: { m: 2 } },
          { ...again, eventType: "Other" },
          { ...again, aggregateId: fresh() }
        ]) {
          const error = yield* Effect.flip(append(other, { onDuplicate: "ignore" }))
          assert.deepStrictEqual(error, new DuplicateEvent({ id }))
        }
        const both = yield* append([again, event(aggregateId, 2)], { onDuplicate: "ignore", expected: "some" })
        assert.deepStrictEqual(both[0], stored[0])
        assert.deepStrictEqual(yield* history(aggregateId), [{ a: 1, b: [2] }, 2])
      })
    )

    it.effect("stores an event once that many try at the same time", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const once = { ...event(aggregateId, "once"), id: crypto.randomUUID() }
        const stored = yield* Effect.forEach(
          Array.from({ length: 20 }),
          () => append(once, { onDuplicate: "ignore" }),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(new Set(stored.flatMap(versions)).size, 1)
        assert.deepStrictEqual(yield* history(aggregateId), ["once"])
      })
    )

    it.effect("gives each of many concurrent appends its own result, one after the other for each aggregate", () =>
      Effect.gen(function* () {
        const aggregates = Array.from({ length: 10 }, fresh)
        const aggregateOf = (index: number) => aggregates[index % aggregates.length] ?? ""
        const id = crypto.randomUUID()
        const results = yield* Effect.forEach(
          Array.from({ length: 100 }, (_, index) => index),
          (index) => {
            const one = event(aggregateOf(index), index)
            if (index === 42) return Effect.result(append(one, { expected: "none" }))
            if (index === 43 || index === 53) return Effect.result(append({ ...one, id }))
            if (index === 44) return Effect.result(append([one, event(aggregateOf(5), index)], { expected: "some" }))
            return Effect.result(append(one))
          },
          { concurrency: "unbounded" }
        )
        const stored = results.map((result) => (Result.isSuccess(result) ? result.success : []))
        stored.forEach((events, index) => {
          const expected = index === 42 || index === 53 ? [] : index === 44 ? [index, index] : [index]
          assert.deepStrictEqual(dataOf(events), expected)
        })
        const actual = Option.fromUndefinedOr(stored[32]?.[0]?.version)
        assert.deepStrictEqual(
          results[42],
          Result.fail(new VersionConflict({ aggregateId: aggregateOf(42), expected: "none", actual }))
        )
        assert.deepStrictEqual(results[53], Result.fail(new DuplicateEvent({ id })))
        for (const aggregateId of aggregates) {
          const submitted = stored.flat().filter((one) => one.aggregateId === aggregateId)
          const log = yield* EventStore.use((events) => events.loadByAggregate(aggregateId))
          assert.deepStrictEqual(log, submitted)
        }
      })
    )

    it.effect.runIf(interleaving)("shows the race of programs that read, decide and append without a guard", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const aggregateId = `racing ${crypto.randomUUID()}`
        const decided = yield* Effect.forEach(
          [1, 2, 3, 4],
          () =>
            Effect.gen(function* () {
              const { length } = yield* events.loadByAggregate(aggregateId)
              yield* events.append({ aggregateId, eventType: "Decided", data: length })
              return length
            }),
          { concurrency: "unbounded" }
        )
        assert.isBelow(new Set(decided).size, 4)
      })
    )

    it.effect("lets each of many concurrent appends see what those before it wrote", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const once = { ...event(a, "once"), id: crypto.randomUUID() }
        const results = yield* Effect.all(
          [
            append(event(b, "busy")),
            append(event(a, 1), { expected: "none" }),
            append(event(a, 2), { expected: "none" }),
            append(event(a, 3), { expected: "some" }),
            append(once, { expected: "some" }),
            append(once, { expected: "none", onDuplicate: "ignore" }),
            append({ ...once, data: "other" }, { onDuplicate: "ignore" }),
            append(event(a, 4))
          ].map(Effect.result),
          { concurrency: "unbounded" }
        )
        const [, first, second, third, fourth, again, other, last] = results.map((result) =>
          Result.isSuccess(result) ? dataOf(result.success) : result.failure._tag
        )
        assert.deepStrictEqual(
          [first, second, third, fourth, again, other, last],
          [[1], "VersionConflict", [3], ["once"], ["once"], "DuplicateEvent", [4]]
        )
        assert.deepStrictEqual(yield* history(a), [1, 3, "once", 4])
      })
    )

    it.effect("loads what comes after a version, of all aggregates and of one", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const [a, b] = [fresh(), fresh()]
        const stored = yield* events.append([event(a, 1), event(b, 2), event(a, 3)])
        const [first = 0n, second = 0n, third = 0n] = versions(stored)
        assert.deepStrictEqual(yield* events.load(first - 1n), stored)
        assert.deepStrictEqual(yield* events.load(first), stored.slice(1))
        assert.deepStrictEqual(yield* events.load(third), [])
        assert.deepStrictEqual(yield* events.loadByAggregate(a, first), stored.slice(2))
        assert.deepStrictEqual(yield* events.loadByAggregate(b, second), [])
        assert.strictEqual(yield* events.latestVersion, third)
        const all = yield* events.load()
        assert.deepStrictEqual(versions(all.slice(-3)), [first, second, third])
      })
    )

    it.effect("reads what a query describes, forward and backward, in pages", () =>
      Effect.gen(function* () {
        const [a, b] = [fresh(), fresh()]
        const mark = yield* EventStore.use((events) => events.latestVersion)
        const stored = yield* append(
          Array.from({ length: 50 }, (_, index) => ({
            ...event(index % 2 === 0 ? a : b, { index, tags: [index % 3, "x"] }, index % 5 === 0 ? "Fifth" : "Other"),
            metadata: { tenant: index % 7 }
          }))
        )
        const indices = (events: ReadonlyArray<StoredEvent>) =>
          events.map((found) => stored.findIndex(({ id }) => id === found.id))
        const all = Array.from({ length: 50 }, (_, index) => index)
        const expectRead = Effect.fnUntraced(function* (
          query: Parameters<EventStore["Service"]["read"]>[0],
          expected: ReadonlyArray<number>
        ) {
          for (const batchSize of [1, 7, 1000]) {
            const found = yield* collect({ after: mark, batchSize, ...query })
            assert.deepStrictEqual(indices(found), expected)
            const backward = yield* collect({ after: mark, batchSize, ...query, direction: "backward" })
            assert.deepStrictEqual(indices(backward), expected.toReversed())
          }
        })
        yield* expectRead({}, all)
        yield* expectRead(
          { aggregateIds: [a] },
          all.filter((index) => index % 2 === 0)
        )
        yield* expectRead(
          { aggregateIds: [a, b], eventTypes: ["Fifth"] },
          all.filter((index) => index % 5 === 0)
        )
        yield* expectRead(
          { data: { tags: [1] } },
          all.filter((index) => index % 3 === 1)
        )
        yield* expectRead(
          { metadata: { tenant: 3 } },
          all.filter((index) => index % 7 === 3)
        )
        yield* expectRead({ data: { index: 30 }, aggregateIds: [b] }, [])
        yield* expectRead({ aggregateIds: [] }, [])
        yield* expectRead({ after: stored[39]?.version ?? 0n }, all.slice(40))
        assert.deepStrictEqual(indices(yield* collect({ after: mark, limit: 9, batchSize: 4 })), all.slice(0, 9))
        assert.deepStrictEqual(yield* collect({ after: mark, limit: 0 }), [])
        const last = yield* collect({ after: mark, limit: 3, direction: "backward" })
        assert.deepStrictEqual(indices(last), [49, 48, 47])
      })
    )

    it.effect("compares a cursor with the log: its event, and without that the end", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const [first, second] = yield* append([event(fresh(), 1), event(fresh(), 2)])
        assert.isDefined(first)
        assert.isDefined(second)
        const beyond = second.version + 1_000_000n
        const readers = (cursor: bigint | Cursor) => [
          events.load(cursor),
          collect({ after: cursor, eventTypes: ["Nothing"] }),
          Stream.runCollect(events.subscribe({ after: cursor }))
        ]
        for (const cursor of [beyond, { version: beyond, id: "lost" }, { version: first.version, id: "other" }]) {
          for (const reader of readers(cursor)) {
            const error = yield* Effect.flip(reader)
            assert.instanceOf(error, LogReplaced)
            const [version, found] = typeof cursor === "bigint" ? [cursor, undefined] : [cursor.version, cursor.id]
            assert.strictEqual(error.version, version)
            assert.strictEqual(error.latest, second.version)
            assert.deepStrictEqual(error.id, Option.fromUndefinedOr(found))
            assert.deepStrictEqual(error.foundId, version === beyond ? Option.none() : Option.some(first.id))
          }
        }
        // A stored event is a cursor, and so is the version of one that was never stored.
        assert.deepStrictEqual(yield* events.load(first), [second])
        assert.deepStrictEqual(yield* collect({ after: { version: first.version, id: first.id } }), [second])
        yield* Effect.exit(transaction(Effect.andThen(append(event(fresh(), "never")), Effect.fail("no"))))
        const [third] = yield* append(event(fresh(), 3))
        const followed = yield* Stream.runCollect(Stream.take(events.subscribe({ after: second }), 1))
        assert.deepStrictEqual(followed, third === undefined ? [] : [third])
        assert.isDefined(third)
        assert.deepStrictEqual(yield* events.load(second.version + 1n), [third])
        // A reader that goes backward has no cursor to compare: `after` is where it ends.
        assert.deepStrictEqual(yield* collect({ after: { version: beyond, id: "lost" }, direction: "backward" }), [])
      })
    )

    it.effect("stamps with the time at which the transaction began, and finds what came after a time", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const [first, second] = yield* transaction(
          Effect.all([append(event(aggregateId, 1)), append(event(aggregateId, 2))])
        )
        assert.deepStrictEqual(first[0]?.createdAt, second[0]?.createdAt)
        if (first[0] === undefined) return assert.fail("no event")
        const { createdAt: createdAfter, eventType } = first[0]
        assert.deepStrictEqual(yield* collect({ aggregateIds: [aggregateId], createdAfter }), [])
        // Other tests append meanwhile.
        for (const query of [{}, { eventTypes: [eventType] }, { aggregateIds: [aggregateId, fresh()] }]) {
          const found = yield* collect({ ...query, createdAfter })
          assert.isFalse(found.some((event) => event.aggregateId === aggregateId))
        }
      })
    )

    it.effect("has no event under an unknown id, and says so", () =>
      Effect.gen(function* () {
        const id = crypto.randomUUID()
        const error = yield* Effect.flip(EventStore.use((events) => events.get(id)))
        assert.deepStrictEqual(error, new EventNotFound({ id }))
      })
    )

    it.effect("undoes what a failed transaction appended", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        yield* Effect.exit(transaction(Effect.andThen(append(event(aggregateId, 1)), Effect.fail("no"))))
        yield* transaction(
          Effect.gen(function* () {
            yield* append(event(aggregateId, 2), { expected: "none" })
            yield* Effect.exit(transaction(Effect.andThen(append(event(aggregateId, 3)), Effect.fail("inner"))))
            assert.deepStrictEqual(yield* history(aggregateId), [2])
            const mine = yield* EventStore.use((events) => events.load())
            assert.strictEqual(mine.at(-1)?.data, 2)
            yield* append(event(aggregateId, 4), { expected: "some" })
          })
        )
        assert.deepStrictEqual(yield* history(aggregateId), [2, 4])
      })
    )

    it.effect.each(invalid)("refuses %s", ([, part]) =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        const bad = Object.assign(event(aggregateId, 1), part)
        const error = yield* Effect.flip(append([event(aggregateId, 0), bad]))
        assert.instanceOf(error, InvalidInput)
        assert.include(error.message, `EventStore.append: invalid input: events.1.${Object.keys(part)[0]}`)
        assert.deepStrictEqual(yield* history(aggregateId), [])
      })
    )

    it.effect("refuses a batch that repeats an id, and arguments of reads that make no sense", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const twice = { ...event(fresh()), id: crypto.randomUUID() }
        const refused = Effect.fnUntraced(function* <A, E>(operation: Effect.Effect<A, E, EventStore>) {
          assert.instanceOf(yield* Effect.flip(operation), InvalidInput)
        })
        yield* refused(append([twice, twice]))
        yield* refused(append(event(fresh()), { expected: -1n }))
        yield* refused(events.load(-1n))
        yield* refused(events.load(2n ** 63n))
        yield* refused(events.loadByAggregate(""))
        yield* refused(events.get(""))
        yield* refused(Stream.runDrain(events.read({ limit: -1 })))
        yield* refused(Stream.runDrain(events.read({ batchSize: 0 })))
        // No backend keeps such times, so none can compare with them.
        for (const millis of [8.64e15, -8.64e15]) {
          yield* refused(Stream.runDrain(events.read({ createdAfter: DateTime.makeUnsafe(millis) })))
        }
      })
    )

    it.effect("answers a ping", () => EventStore.use((events) => events.ping))

    if (!interleaving) return

    it.effect("waits at a cursor whose event is still on its way", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const drawn = yield* Deferred.make<Cursor>()
        const end = yield* Deferred.make<void>()
        const slow = yield* Effect.forkChild(
          transaction(
            Effect.gen(function* () {
              const [stored] = yield* append(event(fresh(), "slow"))
              assert.isDefined(stored)
              yield* Deferred.succeed(drawn, stored)
              yield* Deferred.await(end)
            })
          )
        )
        const cursor = yield* Deferred.await(drawn)
        const loaded = yield* Effect.forkChild(events.load(cursor), { startImmediately: true })
        const next = yield* Effect.forkChild(Stream.runHead(events.subscribe({ after: cursor })), {
          startImmediately: true
        })
        yield* Effect.sleep("50 millis")
        assert.deepStrictEqual([loaded.pollUnsafe(), next.pollUnsafe()], [undefined, undefined])
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(slow)
        assert.deepStrictEqual(yield* Fiber.join(loaded), [])
        const [after] = yield* append(event(fresh(), "after"))
        assert.deepStrictEqual(yield* Fiber.join(next), Option.fromUndefinedOr(after))
      })
    )

    it.effect("stops at an event that is still on its way, and never passes it", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const [a, b] = [fresh(), fresh()]
        const mark = yield* events.latestVersion
        const drawn = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const slow = yield* Effect.forkChild(
          transaction(
            append(event(a, "slow")).pipe(
              Effect.tap(() => Deferred.succeed(drawn, undefined)),
              Effect.tap(() => Deferred.await(end))
            )
          )
        )
        yield* Deferred.await(drawn)
        const [fast] = yield* append(event(b, "fast"))
        // A read of one aggregate sees what is committed, but no read that spans aggregates passes the hole before it.
        assert.deepStrictEqual(yield* history(b), ["fast"])
        assert.deepStrictEqual(dataOf(yield* collect({ after: mark, direction: "backward" })), ["fast"])
        const load = yield* Effect.forkChild(events.load(mark), { startImmediately: true })
        const filtered = yield* Effect.forkChild(collect({ after: mark, aggregateIds: [b] }), {
          startImmediately: true
        })
        yield* Deferred.succeed(end, undefined)
        const [first] = yield* Fiber.join(slow)
        assert.deepStrictEqual(versions(yield* Fiber.join(load)), [first?.version, fast?.version])
        assert.deepStrictEqual(yield* Fiber.join(filtered), [fast])
        assert.deepStrictEqual(dataOf(yield* events.load(mark)), ["slow", "fast"])
      })
    )

    it.effect("passes the holes that rolled back appends leave", () =>
      Effect.gen(function* () {
        const events = yield* EventStore
        const aggregateId = fresh()
        const mark = yield* events.latestVersion
        for (const data of [1, 2, 3]) {
          yield* Effect.exit(transaction(Effect.andThen(append(event(aggregateId)), Effect.fail("no"))))
          yield* append(event(aggregateId, data))
        }
        assert.deepStrictEqual(dataOf(yield* events.load(mark)), [1, 2, 3])
      })
    )

    it.effect("makes an append that expects something wait for one that is under way", () =>
      Effect.gen(function* () {
        const aggregateId = fresh()
        for (const [ending, result] of [
          [Effect.void, "conflict"],
          [Effect.fail("no"), "appended"]
        ] as const) {
          const drawn = yield* Deferred.make<void>()
          const end = yield* Deferred.make<void>()
          const before = yield* EventStore.use((events) => events.loadByAggregate(aggregateId))
          const first = yield* Effect.forkChild(
            transaction(
              append(event(aggregateId, "first")).pipe(
                Effect.andThen(Deferred.succeed(drawn, undefined)),
                Effect.andThen(Deferred.await(end)),
                Effect.andThen(ending)
              )
            )
          )
          yield* Deferred.await(drawn)
          const expected = before.at(-1)?.version ?? "none"
          const second = yield* Effect.forkChild(
            append(event(aggregateId, "second"), { expected }).pipe(
              Effect.as("appended"),
              Effect.catchTag("VersionConflict", () => Effect.succeed("conflict"))
            ),
            { startImmediately: true }
          )
          yield* Deferred.succeed(end, undefined)
          yield* Fiber.await(first)
          assert.strictEqual(yield* Fiber.join(second), result)
        }
      })
    )
  })

  Subscriptions.suite(name, layer, { interleaving })
  Origins.suite(name, layer)
  Tags.suite(name, layer)
  Tagging.suite(name, layer, { interleaving })
  Decisions.suite(name, layer, { interleaving })
  TypedEvents.suite(name, layer)

  it.effect("parses a version from text", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* parseVersion("0"), 0n)
      assert.strictEqual(yield* parseVersion("9223372036854775807"), 2n ** 63n - 1n)
      for (const text of ["", "-1", "1.5", "one", " 1", "9223372036854775808", "1e3"]) {
        assert.deepStrictEqual(yield* Effect.flip(parseVersion(text)), new InvalidVersion({ text }))
      }
    })
  )
}
