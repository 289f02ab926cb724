/** What subscriptions take of a server and of a process, how they are woken, and what they do about rows and holes. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Metric, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { backends, postgresUrl, waitForBackends } from "../support/database.ts"
import { event, follow, listening, plainInsert, serveEvents, type ServedEvents, session } from "./events.harness.ts"
import { execute, failsWith, open, query } from "./harness.ts"

const run = promisify(execFile)

const Report = Schema.fromJsonString(Schema.Struct({ before: Schema.Int, most: Schema.Int, slow: Schema.Int }))

const latest = ({ events }: ServedEvents) => events.latestVersion

/** Runs with a count of the fibers that have started and not ended, of this effect and of all that it builds. */
const counting = <A, E, R>(use: (fibers: () => number) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    let active = 0
    return Effect.provideService(
      use(() => active),
      Metric.FiberRuntimeMetrics,
      { recordFiberStart: () => active++, recordFiberEnd: () => active-- }
    )
  })

describe("a thousand subscribers", () => {
  it.live("use one connection beside the pool, and nothing once they are gone", () =>
    counting(
      Effect.fnUntraced(function* (fibers) {
        const served = yield* serveEvents({ client: { maxConnections: 1 } })
        const { applicationName, events } = served
        yield* events.append(event("before"))
        assert.lengthOf(yield* backends(applicationName), 1)
        const before = fibers()
        const scope = yield* Scope.make()
        const followers = yield* Effect.forEach(Array.from({ length: 1000 }), () =>
          Scope.provide(follow(served, { after: "start" }), scope)
        )
        const [last] = yield* events.append(event("live"))
        for (const { until } of followers) yield* until(last?.version ?? 0n)
        for (const { seen } of followers) assert.deepStrictEqual(seen, [1n, 2n])
        assert.lengthOf(yield* backends(applicationName), 2)
        assert.strictEqual(yield* events.listener.status, "connected")
        assert.isAbove(fibers(), before + 1000)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(yield* events.listener.status, "stopped")
        // Some of those before were about to end: of the connection that has asked for the backends, for instance.
        assert.isAtMost(fibers(), before)
        const left = yield* waitForBackends(applicationName, (all) => all.length === 1)
        assert.lengthOf(left, 1)
        assert.strictEqual(left[0]?.state, "idle")
      })
    )
  )

  it.live("take nothing from the pool while they wait", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ client: { maxConnections: 1 } })
      const follower = yield* follow(served, { after: "start" })
      // The first may come from the table, and then it is at the end of the log.
      for (const version of [1n, 2n]) {
        yield* served.events.append(event("a"))
        yield* follower.until(version)
      }
      yield* served.withTransaction(
        Effect.gen(function* () {
          // The only connection is taken. Another program appends, and the subscriber hears of it.
          yield* execute([plainInsert(served.table, "meanwhile")])
          yield* follower.until(3n)
        })
      )
    })
  )

  it.live("end when the layer is closed, with all connections", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const served = yield* Scope.provide(serveEvents(), scope)
      const followers = yield* Effect.forEach(Array.from({ length: 1000 }), () => follow(served, { after: "start" }))
      yield* served.events.append(event("a"))
      for (const { until } of followers) yield* until(1n)
      yield* Scope.close(scope, Exit.void)
      for (const { fiber } of followers) {
        yield* failsWith(Fiber.join(fiber), "EventStore.subscribe", "Closed", /scope/)
      }
      assert.deepStrictEqual(yield* waitForBackends(served.applicationName, (all) => all.length === 0), [])
    })
  )
})

describe("a subscriber that does not read", () => {
  it.live("costs no more memory than the buffer that all share, and gets everything when it goes on", () =>
    Effect.gen(function* () {
      const { schema } = yield* serveEvents()
      const script = fileURLToPath(new URL("fixtures/slowSubscriber.ts", import.meta.url))
      // The subscribers run in a process of their own, where nothing else uses memory.
      const output = yield* Effect.promise(() =>
        run(process.execPath, ["--expose-gc", "--conditions=@effect-strata/source", script, postgresUrl, schema])
      )
      const { before, most, slow } = yield* Schema.decodeEffect(Report)(output.stdout)
      assert.strictEqual(slow, 2001)
      // The 200 MB that have passed would show.
      assert.isBelow(most - before, 96 * 1024 * 1024)
    })
  )
})

describe("interruption", () => {
  it.live("frees everything while a statement of the subscriber waits for a lock", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { applicationName, table } = served
      yield* latest(served)
      const locked = yield* session()
      yield* locked("BEGIN")
      yield* locked(`LOCK TABLE ${table}`)
      const follower = yield* follow(served, { after: "start" })
      const blocked = yield* waitForBackends(applicationName, (all) => all.some(({ state }) => state === "active"))
      assert.isTrue(blocked.some(({ state }) => state === "active"))
      yield* Fiber.interrupt(follower.fiber)
      const left = yield* waitForBackends(applicationName, (all) => all.every(({ state }) => state === "idle"))
      assert.isTrue(left.every(({ state }) => state === "idle"))
      assert.strictEqual(yield* served.events.listener.status, "stopped")
    })
  )
})

describe("a row that is no event", () => {
  it.live(
    "fails the subscribers whose filter has it, after the events before it; the others go on, and so does one that skips it",
    () =>
      Effect.gen(function* () {
        const served = yield* serveEvents()
        const { events, table } = served
        const everything = yield* follow(served, { after: "start" })
        const meant = yield* follow(served, { after: "start", aggregateIds: ["corrupt"] })
        const other = yield* follow(served, { after: "start", aggregateIds: ["fine"] })
        const byType = yield* follow(served, { after: "start", eventTypes: ["Happened"] })
        const byData = yield* follow(served, { after: "start", data: { text: "fine" } })
        yield* events.append([event("fine"), event("corrupt")])
        yield* byData.until(1n)
        for (const { until } of [everything, meant, byType]) yield* until(2n)
        // One page has the event before the row, the row, and the events after it.
        yield* execute([
          `INSERT INTO ${table} (id, aggregate_id, event_type, data) VALUES
          ('3', 'corrupt', 'Plain', '{}'), ('4', 'corrupt', 'Plain', '{"n": 9007199254740993}'),
          ('5', 'corrupt', 'Plain', '{}'), ('6', 'fine', 'Plain', '{}')`
        ])
        for (const { fiber, seen } of [everything, meant]) {
          yield* failsWith(
            Fiber.join(fiber),
            "EventStore.subscribe",
            "CorruptRow",
            /row 4 of events .*9007199254740993/
          )
          assert.strictEqual(seen.at(-1), 3n)
        }
        yield* other.until(6n)
        assert.deepStrictEqual(other.seen, [1n, 6n])
        const after = yield* follow(served, { after: 4n })
        const [last] = yield* events.append(event("fine"))
        yield* after.until(last?.version ?? 0n)
        assert.deepStrictEqual(after.seen, [5n, 6n, 7n])
        yield* byData.until(7n)
        assert.deepStrictEqual(byData.seen, [1n, 7n])
        yield* byType.until(7n)
        assert.deepStrictEqual(byType.seen, [1n, 2n, 7n])
        // A subscriber that meets the row while it catches up fails in the same way.
        const again = yield* follow(served, { after: 2n })
        yield* failsWith(Fiber.join(again.fiber), "EventStore.subscribe", "CorruptRow", /row 4 of events/)
        assert.deepStrictEqual(again.seen, [3n])
      })
  )
})

describe("a row that is larger than the driver takes", () => {
  const text = (length: number) => `to_jsonb(repeat('x', ${length}))`
  const digits = "(SELECT jsonb_agg(1e131000) FROM generate_series(1, 200))"

  it.live.each([
    { what: "a long text", data: text(17_000_000), metadata: "NULL" },
    {
      what: "together with its metadata",
      data: text(9_000_000),
      metadata: `jsonb_build_object('m', ${text(9_000_000)})`
    },
    { what: "as text, not as it is stored", data: digits, metadata: "NULL" }
  ])(
    "is no lost connection: it fails whoever means it, and says which setting to raise ($what)",
    ({ data, metadata }) =>
      Effect.gen(function* () {
        const served = yield* serveEvents()
        const { events, schema, table } = served
        const follower = yield* follow(served, { after: "start" })
        const other = yield* follow(served, { after: "start", aggregateIds: ["a"] })
        for (const version of [1n, 2n]) {
          yield* events.append(event("a"))
          yield* follower.until(version)
        }
        yield* execute([
          `INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata)
         VALUES ('large', 'large', 'Large', ${data}, ${metadata})`
        ])
        const says =
          /row 3 of events is larger than the driver takes, with about \d{8} bytes of JSON; raise maxMessageSize/
        yield* failsWith(Fiber.join(follower.fiber), "EventStore.subscribe", "CorruptRow", says)
        yield* failsWith(events.load(), "EventStore.load", "CorruptRow", says)
        yield* failsWith(events.loadByAggregate("large"), "EventStore.loadByAggregate", "CorruptRow", says)
        yield* failsWith(events.get("large"), "EventStore.get", "CorruptRow", says)
        yield* failsWith(Stream.runDrain(events.read({ direction: "backward" })), "EventStore.read", "CorruptRow", says)
        // It can be passed, and those who do not mean it never learn of it.
        const after = yield* follow(served, { after: 3n })
        yield* events.append(event("a"))
        yield* after.until(4n)
        yield* other.until(4n)
        assert.deepStrictEqual(other.seen, [1n, 2n, 4n])
        assert.strictEqual((yield* events.load(3n)).length, 1)
        // JavaScript cannot hold the digits.
        if (data === digits) return
        const raised = yield* serveEvents({ options: { schema }, client: { maxMessageSize: 64 * 1024 * 1024 } })
        const another = yield* follow(raised, { after: "start" })
        yield* another.until(3n)
      })
  )
})

describe("wake-ups", () => {
  it.live("are not sent in the transaction that appends", () =>
    Effect.gen(function* () {
      const { events, sql, table, withTransaction } = yield* serveEvents()
      const gid = table
      yield* Effect.addFinalizer(() => Effect.ignore(execute([`ROLLBACK PREPARED '${gid}'`])))
      yield* withTransaction(
        Effect.gen(function* () {
          yield* events.append(event("a"))
          // The server refuses PREPARE TRANSACTION after NOTIFY.
          yield* sql.unsafe(`PREPARE TRANSACTION '${gid}'`).unprepared
        })
      )
      assert.lengthOf(yield* query(`SELECT FROM pg_prepared_xacts WHERE gid = '${gid}'`), 1)
    })
  )

  it.live("of a thousand appends are few, and those of what is rolled back none", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, table, withTransaction } = served
      const heard = yield* listening(table)
      yield* Effect.exit(withTransaction(Effect.andThen(events.append(event("never")), Effect.fail("no"))))
      yield* Effect.sleep(50)
      assert.strictEqual(yield* heard, 0)
      const [duration] = yield* Effect.timed(Effect.replicateEffect(events.append(event("a")), 1000))
      const count = yield* heard
      assert.isAtLeast(count, 1)
      // At most one wake-up is sent in 5 ms, and one for the last appends.
      assert.isAtMost(count, Duration.toMillis(duration) / 5 + 2)
    })
  )

  it.effect("reach the subscribers of other processes, without their looking; plain SQL is found by looking", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const other = yield* serveEvents({ options: { schema: served.schema } })
      const follower = yield* follow(other, { after: "start" })
      /** Lets time pass as it is needed, but no more than that. */
      const until = Effect.fnUntraced(function* (version: bigint, mostMillis: number) {
        const coming = yield* Effect.forkChild(follower.until(version), { startImmediately: true })
        for (let passed = 0; passed < mostMillis && coming.pollUnsafe() === undefined; passed += 2) {
          yield* TestClock.adjust(2)
          yield* TestClock.withLive(Effect.sleep(2))
        }
        yield* Fiber.join(coming)
      })
      for (let version = 1n; version <= 5n; version++) {
        yield* served.events.append(event("a"))
        // Less than a second in all, so that no subscriber looks by itself: without a wake-up this would not end.
        yield* until(version, 150)
      }
      yield* execute([plainInsert(served.table, "plain")])
      yield* until(6n, 3000)
    })
  )

  it.live("are not said to be lost where the pool was exhausted, and none could be sent", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ client: { maxConnections: 1 }, options: { acquireTimeout: "500 millis" } })
      const held = yield* open(served.withTransaction, Effect.void)
      const follower = yield* follow(served, { after: "start" })
      // The check of notifications waits for 5 seconds.
      yield* Effect.sleep(6000)
      assert.strictEqual(yield* served.events.listener.status, "connected")
      yield* held.commit
      const [first] = yield* served.events.append(event("a"))
      yield* follower.until(first?.version ?? 0n)
      assert.deepStrictEqual(served.logged, [])
    })
  )
})

describe("a hole that stays", () => {
  it.live("is reported once, with its holder, and the events after it come when the holder has ended", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ options: { settleTimeout: "200 millis" } })
      const { events, logged, table } = served
      const followers = [yield* follow(served, { after: "start" }), yield* follow(served, { after: "start" })]
      yield* events.append(event("a"))
      for (const { until } of followers) yield* until(1n)
      const url = new URL(postgresUrl)
      url.searchParams.set("application_name", "forgetful")
      const holder = yield* session(url.href)
      yield* holder("BEGIN")
      yield* holder(plainInsert(table, "2"))
      yield* events.append([event("a"), event("b")])
      yield* Effect.repeat(Effect.sleep(20), { until: () => logged.length > 0 })
      yield* Effect.sleep(500)
      assert.lengthOf(logged, 1)
      assert.match(
        logged[0] ?? "",
        /events" is held up at version 2 by pid \d+, idle in transaction for \d+ s, application 'forgetful': readers wait there/
      )
      for (const { seen } of followers) assert.deepStrictEqual(seen, [1n])
      yield* holder("COMMIT")
      for (const { seen, until } of followers) {
        yield* until(4n)
        assert.deepStrictEqual(seen, [1n, 2n, 3n, 4n])
      }
      assert.lengthOf(logged, 1)
    })
  )
})
