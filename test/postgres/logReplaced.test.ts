/** A log that is set back or replaced under its readers: they are told, and nothing is passed in silence. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Option, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import { event, follow, plainInsert, serveEvents, type ServedEvents, session } from "./events.harness.ts"
import { execute } from "./harness.ts"
import { untilTailIsRead } from "./subscriptions.harness.ts"

const ids = (prefix: string, count: number) => Array.from({ length: count }, (_, index) => `${prefix}-${index + 1}`)

const append = ({ events }: ServedEvents, prefix: string, count: number) =>
  events.append(ids(prefix, count).map((id) => event("a", id)))

/** The error that a subscription has ended with. */
const replacedOf = ({ fiber }: Effect.Success<ReturnType<typeof follow>>) =>
  Effect.flatMap(Effect.flip(Fiber.join(fiber)), (error) =>
    error instanceof EventStore.LogReplaced ? Effect.succeed(error) : Effect.die(error)
  )

it.live("TRUNCATE RESTART IDENTITY under live subscribers tells each of them", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    yield* append(served, "old", 10)
    const followers = yield* Effect.forEach(["start", 4n] as const, (after) => follow(served, { after }))
    for (const { until } of followers) yield* until(10n)
    yield* execute([`TRUNCATE ${served.table} RESTART IDENTITY`])
    for (const follower of followers) {
      const error = yield* replacedOf(follower)
      assert.deepStrictEqual([error.version, error.id, error.latest], [10n, Option.some("old-10"), 0n])
      assert.isTrue(Option.isNone(error.lastAgreed))
    }
    yield* append(served, "new", 3)
    const later = yield* follow(served, { after: "start" })
    yield* later.until(3n)
    assert.deepStrictEqual(later.seen, [1n, 2n, 3n])
  })
)

it.live("a log that is emptied before a subscriber that has read it looks for its end is told", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    yield* append(served, "old", 10)
    const empty = execute([`TRUNCATE ${served.table} RESTART IDENTITY`])
    const error = yield* served.events.subscribe({ after: "start" }).pipe(
      // It goes on once its last event has been handled, and is the first to come to the end.
      Stream.runForEach(({ version }) => (version === 10n ? empty : Effect.void)),
      Effect.flip
    )
    assert.instanceOf(error, EventStore.LogReplaced)
  })
)

it.live(
  "a log that was emptied and filled again beyond the cursor in one transaction is told, also where the cursor is a hole",
  () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      for (const holeAt of [undefined, 10]) {
        yield* execute([`TRUNCATE ${served.table} RESTART IDENTITY`])
        yield* append(served, `old-${holeAt}`, 10)
        const follower = yield* follow(served, { after: "start" })
        yield* follower.until(10n)
        const sql = yield* session()
        yield* sql("BEGIN")
        yield* sql(`TRUNCATE ${served.table} RESTART IDENTITY`)
        for (const id of ids(`new-${holeAt}`, 15)) yield* sql(plainInsert(served.table, id))
        if (holeAt !== undefined) yield* sql(`DELETE FROM ${served.table} WHERE version = ${holeAt}`)
        yield* sql("COMMIT")
        const error = yield* replacedOf(follower)
        assert.deepStrictEqual([error.version, error.latest], [10n, 15n])
        assert.deepStrictEqual(error.foundId, holeAt === undefined ? Option.some("new-undefined-10") : Option.none())
        assert.strictEqual(follower.seen.length, 10)
      }
    })
)

it.live("events that are deleted under live subscribers are no replacement", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    const follower = yield* follow(served, { after: "start" })
    const filtered = yield* follow(served, { after: "start", eventTypes: ["Plain"] })
    yield* append(served, "a", 10)
    yield* follower.until(10n)
    // The last event, a prefix, and everything: each time the log goes on.
    for (const where of ["version = 10", "version <= 5", "version <= 12", "true"]) {
      yield* execute([`DELETE FROM ${served.table} WHERE ${where}`])
      const [last] = yield* append(served, `after ${where}`, 1)
      yield* follower.until(last?.version ?? 0n)
    }
    yield* execute([plainInsert(served.table, "plain")])
    yield* filtered.until(15n)
    assert.deepStrictEqual(follower.seen, [1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n, 9n, 10n, 11n, 12n, 13n, 14n, 15n])
    assert.deepStrictEqual(filtered.seen, [15n])
  })
)

it.live("a projection that starts after the newest events were deleted is told", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    const { context, table } = served
    const handled: Array<bigint> = []
    const projection = Projection.make({
      name: "deleted",
      handler: ({ version }) => Effect.sync(() => handled.push(version))
    })
    yield* Effect.gen(function* () {
      const runTo = (version: bigint) =>
        Effect.raceFirst(Projection.run(projection), Projection.awaitVersion("deleted", version, "4 minutes"))
      yield* append(served, "a", 3)
      yield* runTo(3n)
      yield* execute([`DELETE FROM ${table} WHERE version > 1`])
      // As a run does when it starts.
      const error = yield* Effect.flip(Projection.verify("deleted"))
      assert.instanceOf(error, EventStore.LogReplaced)
      assert.deepStrictEqual([error.version, error.latest], [3n, 1n])
      yield* append(served, "b", 1)
      yield* runTo(4n)
      assert.deepStrictEqual(handled, [1n, 2n, 3n, 4n])
    }).pipe(Effect.provide(context))
  })
)

it.live(
  "a cursor without an id is compared, too, once the subscriber has come to the end, even if nothing happened there",
  () =>
    Effect.gen(function* () {
      for (const after of [10n, "end"] as const) {
        const served = yield* serveEvents()
        yield* append(served, "old", 10)
        const quiet = yield* follow(served, { after })
        yield* untilTailIsRead(served)
        const sql = yield* session()
        yield* sql("BEGIN")
        yield* sql(`TRUNCATE ${served.table} RESTART IDENTITY`)
        for (const id of ids("new", 20)) yield* sql(plainInsert(served.table, id))
        yield* sql("COMMIT")
        const error = yield* replacedOf(quiet)
        assert.deepStrictEqual(
          [error.version, error.id, error.foundId, error.latest],
          [10n, Option.some("old-10"), Option.some("new-10"), 20n]
        )
      }
    })
)

it.live("a subscriber that begins right after the log was replaced gets nothing of the old one", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    const before = yield* follow(served, { after: "start" })
    yield* untilTailIsRead(served)
    yield* append(served, "old", 10)
    yield* before.until(10n)
    yield* execute([`TRUNCATE ${served.table} RESTART IDENTITY`])
    const late: Array<string> = []
    const reading = yield* served.events.subscribe({ after: "start" }).pipe(
      Stream.take(3),
      Stream.runForEach(({ id }) => Effect.sync(() => late.push(id))),
      Effect.forkScoped({ startImmediately: true })
    )
    yield* replacedOf(before)
    yield* append(served, "new", 3)
    yield* Fiber.join(reading)
    assert.deepStrictEqual(late, ids("new", 3))
  })
)

it.live("a cursor beyond the end of the log, and one whose event is another, are refused", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    const { events } = served
    const [, second, last] = yield* append(served, "a", 3)
    assert.isDefined(second)
    assert.isDefined(last)
    const other = { version: 2n, id: "other" }
    // Another subscriber has the tail read already.
    const live = yield* follow(served, { after: "start" })
    yield* live.until(3n)
    for (const cursor of [4n, { version: 4n, id: "a-4" }, other]) {
      for (const read of [
        events.load(cursor),
        Stream.runCollect(events.read({ after: cursor })),
        Stream.runCollect(events.read({ after: cursor, eventTypes: ["None"] })),
        Stream.runHead(events.subscribe({ after: cursor }))
      ]) {
        const error = yield* Effect.flip<unknown, unknown, never>(read)
        assert.instanceOf(error, EventStore.LogReplaced)
        assert.strictEqual(error.latest, 3n)
        assert.deepStrictEqual(error.foundId, cursor === other ? Option.some("a-2") : Option.none())
      }
    }
    // A stored event is a cursor, too.
    assert.deepStrictEqual(yield* events.load(second), [last])
    assert.deepStrictEqual(yield* Stream.runCollect(events.read({ after: second })), [last])
    assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(events.subscribe({ after: second }), 1)), [last])
    assert.deepStrictEqual(yield* events.load(3n), [])
  })
)

it.live("a cursor from a transaction that has not committed yet waits for it", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents({ options: { settleTimeout: "1 minute" } })
    yield* append(served, "a", 3)
    const sql = yield* session()
    yield* sql("BEGIN")
    yield* sql(plainInsert(served.table, "mine"))
    const follower = yield* follow(served, { after: { version: 4n, id: "mine" } })
    const loaded = yield* Effect.forkScoped(served.events.load(4n), { startImmediately: true })
    yield* Effect.sleep("100 millis")
    yield* sql("COMMIT")
    assert.deepStrictEqual(yield* Fiber.join(loaded), [])
    const [next] = yield* append(served, "b", 1)
    yield* follower.until(next?.version ?? 0n)
    assert.deepStrictEqual(follower.seen, [5n])
  })
)

it.live("a read that is under way is told at its next page, and passes what was deleted meanwhile", () =>
  Effect.gen(function* () {
    const served = yield* serveEvents()
    const reading = (statements: ReadonlyArray<string>) => {
      let isFirst = true
      const seen: Array<bigint> = []
      return served.events.read({ batchSize: 10 }).pipe(
        Stream.runForEachArray((page) =>
          Effect.suspend(() => {
            for (const { version } of page) seen.push(version)
            if (!isFirst) return Effect.void
            isFirst = false
            return execute(statements)
          })
        ),
        Effect.as(seen)
      )
    }
    yield* append(served, "old", 30)
    const seen = yield* reading([`DELETE FROM ${served.table} WHERE version IN (5, 10, 11)`])
    assert.deepStrictEqual(
      seen,
      Array.from({ length: 30 }, (_, index) => BigInt(index + 1)).filter((version) => version !== 11n)
    )
    const refill = ids("new", 30).map((id) => plainInsert(served.table, id))
    for (const after of [[], refill]) {
      const error = yield* Effect.flip(reading([`TRUNCATE ${served.table} RESTART IDENTITY`, ...after]))
      assert.instanceOf(error, EventStore.LogReplaced)
      yield* append(served, `again ${after.length}`, 30)
    }
  })
)
