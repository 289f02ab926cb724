/** Logs that a failover, a crash or a restored backup sets back, under subscribers that live through it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import { execFile } from "node:child_process"
import { rm } from "node:fs/promises"
import { connect } from "node:net"
import { promisify } from "node:util"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { standbyOf } from "../support/Replicas.ts"
import { event, follow, followSteps, plainInsert, serveEvents, type ServedEvents, session } from "./events.harness.ts"
import { execute, query } from "./harness.ts"
import { untilTailIsRead } from "./subscriptions.harness.ts"

const run = promisify(execFile)

/** The last event of each append has a type of its own. */
const append = ({ events }: Pick<ServedEvents, "events">, prefix: string, count: number) =>
  Effect.retry(
    events.append(
      Array.from({ length: count }, (_, index) => ({
        ...event("a", `${prefix}-${index + 1}`),
        eventType: index + 1 < count ? "Happened" : "Last"
      }))
    ),
    // An append may get a connection that was killed a moment ago, before the pool has noticed.
    { while: (error) => error._tag === "StoreError" && error.isRetryable }
  )

/** An effect that has not ended after so long is not going to: says what it was, and what is known of it. */
const within =
  (what: string, known: () => unknown) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.timeoutOrElse(effect, {
      duration: "2 minutes",
      orElse: () => Effect.die(new Error(`${what} has not ended: ${known()}`))
    })

const replacedOf = ({ fiber, seen }: Effect.Success<ReturnType<typeof follow>>) =>
  Effect.flip(Fiber.join(fiber)).pipe(
    Effect.flatMap((error) => (error instanceof EventStore.LogReplaced ? Effect.succeed(error) : Effect.die(error))),
    within("a subscriber", () => `it is at ${seen.at(-1)}`)
  )

/**
 * Subscribers from the start that have come to this version: with all events, and with a filter. The last one's filter describes
 * nothing.
 */
const followers = Effect.fnUntraced(function* (served: ServedEvents) {
  const all = yield* Effect.all([
    follow(served, { after: "start" }),
    follow(served, { after: "start", batchSize: 7 }),
    follow(served, { after: "start", eventTypes: ["Last"] }),
    followSteps(served, { after: "start", eventTypes: ["Nothing"] })
  ])
  return {
    all,
    until: (version: bigint) => Effect.forEach(all, ({ until }) => until(version), { discard: true })
  }
})

/** Each subscriber is told, and a new one gets what is there. */
const assertReplaced = Effect.fnUntraced(function* (
  served: ServedEvents,
  { all }: Effect.Success<ReturnType<typeof followers>>,
  expected: { readonly seen: bigint; readonly agreed: bigint }
) {
  for (const [index, subscriber] of all.entries()) {
    const { lastAgreed, version } = yield* replacedOf(subscriber)
    // What a filter left out is remembered only if it came by the tail.
    const agreed = index < 3 ? Option.getOrUndefined(lastAgreed) : Option.getOrElse(lastAgreed, () => expected.agreed)
    assert.deepStrictEqual([version, agreed], [expected.seen, expected.agreed])
  }
  const [last] = yield* append(served, "last", 1)
  const next = yield* follow(served, { after: expected.agreed })
  yield* next.until(last?.version ?? 0n)
  const stored = yield* Stream.runCollect(served.events.read({ after: expected.agreed }))
  assert.deepStrictEqual(
    next.seen,
    stored.map(({ version }) => version)
  )
})

/** A server with an address that can be moved to another one. */
const movable = Effect.fnUntraced(function* (settings: Readonly<Record<string, string>> = {}) {
  const primary = yield* PostgresServer.make({ settings })
  const place = { port: primary.port }
  const served = yield* serveEvents({
    url: primary.url,
    client: { stream: () => connect(place.port, "127.0.0.1") },
    options: { schema: "public" }
  })
  return { primary, place, served }
})

describe("a failover to a standby that lagged", () => {
  for (const [lost, isAhead] of [
    [21, true],
    [21, false],
    [150, true]
  ] as const) {
    const when = isAhead ? "after an append there" : "before an append there"
    it.live(`tells every subscriber, with ${lost} events lost, ${when}`, () =>
      Effect.gen(function* () {
        const primary = yield* PostgresServer.make()
        yield* Effect.scoped(serveEvents({ url: primary.url, options: { schema: "public" } }))
        const standby = yield* standbyOf(primary)
        const place = { port: primary.port }
        const served = yield* serveEvents({
          url: primary.url,
          client: { stream: () => connect(place.port, "127.0.0.1") },
          options: { schema: "public" }
        })
        yield* append(served, "kept", 40)
        const subscribers = yield* followers(served)
        yield* subscribers.until(40n)
        yield* Effect.repeat(query("SELECT count(*)::int FROM public.events, pg_sleep(0.02)", standby.url), {
          until: ([row]) => row?.[0] === 40
        })
        yield* standby.stop("fast")
        yield* append(served, "lost", lost)
        yield* subscribers.until(40n + BigInt(lost))
        yield* primary.kill
        yield* standby.start
        yield* execute(["SELECT pg_promote()"], standby.url)
        if (isAhead) {
          const other = yield* serveEvents({ url: standby.url, options: { schema: "public" } })
          const [first] = yield* append(other, "new", lost + 40)
          // The sequence jumps: where few were lost, there is nothing at the version that was seen last.
          assert.isAbove(Number(first?.version), 41)
        }
        place.port = standby.port
        yield* assertReplaced(served, subscribers, { seen: 40n + BigInt(lost), agreed: 40n })
      })
    )
  }
})

it.live(
  "a subscriber is told of an event that was drawn early, committed late and lost, where its last event was not",
  () =>
    Effect.gen(function* () {
      const { place, primary, served } = yield* movable()
      yield* append(served, "kept", 3)
      const standby = yield* standbyOf(primary)
      const run = yield* session(primary.url)
      yield* run("BEGIN")
      yield* run(plainInsert("public.events", "late"))
      yield* append(served, "above", 1)
      yield* Effect.repeat(query("SELECT max(version)::int FROM public.events, pg_sleep(0.02)", standby.url), {
        until: ([row]) => row?.[0] === 5
      })
      yield* standby.stop("fast")
      yield* run("COMMIT")
      const subscriber = yield* follow(served, { after: "start" })
      yield* subscriber.until(5n)
      assert.deepStrictEqual(subscriber.seen, [1n, 2n, 3n, 4n, 5n])
      yield* primary.kill
      yield* standby.start
      yield* execute(["SELECT pg_promote()"], standby.url)
      place.port = standby.port
      const { lastAgreed } = yield* replacedOf(subscriber)
      assert.deepStrictEqual(Option.getOrUndefined(lastAgreed), 3n)
      assert.deepStrictEqual(
        (yield* Stream.runCollect(served.events.read())).map(({ version }) => version),
        [1n, 2n, 3n, 5n]
      )
    })
)

/** Runs a projection of two shards whose read model is a table, and gives how it ends and what the model has. */
const project = Effect.fnUntraced(function* ({ context, sql, watched }: ServedEvents) {
  yield* sql`CREATE TABLE IF NOT EXISTS public.model (id text PRIMARY KEY)`.unprepared
  const projection = Projection.make({
    name: "model",
    shards: 2,
    handler: ({ id }) => sql`INSERT INTO public.model VALUES (${id})`
  })
  return yield* Projection.run(projection).pipe(Effect.provide(context), watched, Effect.forkScoped)
})

const handledIds = (server: string) =>
  Effect.map(query("SELECT id FROM public.model ORDER BY id", server), (rows) => rows.map(([id]) => id))

const storedIds = (server: string) =>
  Effect.map(query("SELECT id FROM public.events ORDER BY id", server), (rows) => rows.map(([id]) => id))

describe("a projection", () => {
  it.live("goes on by itself where its offsets were set back together with the log, and says so", () =>
    Effect.gen(function* () {
      const primary = yield* PostgresServer.make()
      yield* Effect.scoped(serveEvents({ url: primary.url, options: { schema: "public" } }))
      const standby = yield* standbyOf(primary)
      const place = { port: primary.port }
      const served = yield* serveEvents({
        url: primary.url,
        client: { stream: () => connect(place.port, "127.0.0.1") },
        options: { schema: "public" }
      })
      const fiber = yield* project(served)
      yield* append(served, "kept", 40)
      yield* Effect.provide(untilHandled("model", 40n), served.context)
      yield* Effect.repeat(query("SELECT count(*)::int FROM public.model, pg_sleep(0.02)", standby.url), {
        until: ([row]) => row?.[0] === 40
      })
      yield* standby.stop("fast")
      yield* append(served, "lost", 60)
      yield* Effect.provide(untilHandled("model", 100n), served.context)
      yield* primary.kill
      yield* standby.start
      yield* execute(["SELECT pg_promote()"], standby.url)
      place.port = standby.port
      const [last] = yield* append(served, "new", 70)
      const version = (last?.version ?? 0n) + 69n
      yield* Effect.provide(untilHandled("model", version), served.context)
      assert.isUndefined(fiber.pollUnsafe())
      assert.deepStrictEqual(yield* handledIds(standby.url), yield* storedIds(standby.url))
      const told = served.logged.filter((message) =>
        /was set back, and the projection together with the log/.test(message)
      )
      assert.isAtLeast(told.length, 1, served.logged.join("\n"))
    })
  )

  it.live("stops where the log was replaced and its offsets were not, and goes on after a reset", () =>
    Effect.gen(function* () {
      const { primary, served } = yield* movable()
      const logged = () => served.logged.join("\n")
      const first = yield* project(served)
      yield* append(served, "old", 20)
      yield* Effect.provide(untilHandled("model", 20n), served.context)
      yield* execute(["TRUNCATE public.events RESTART IDENTITY"], primary.url)
      const end = Effect.flip(Fiber.join(first)).pipe(within("the run that has seen the log before", logged))
      assert.instanceOf(yield* end, EventStore.LogReplaced)
      yield* append(served, "new", 30)
      const second = Effect.flip(Effect.flatMap(project(served), Fiber.join)).pipe(within("the next run", logged))
      assert.instanceOf(yield* second, EventStore.LogReplaced)
      yield* execute(["TRUNCATE public.model"], primary.url)
      yield* Projection.reset("model").pipe(Effect.provide(served.context), within("the reset", logged))
      yield* project(served)
      yield* Effect.provide(untilHandled("model", 30n), served.context)
      assert.deepStrictEqual(yield* handledIds(primary.url), yield* storedIds(primary.url))
    })
  )
})

describe("a crash with synchronous_commit = off", () => {
  it.live("tells every subscriber of the events that it has lost", () =>
    Effect.gen(function* () {
      const { primary, served } = yield* movable({ wal_writer_delay: "10s", autovacuum: "off" })
      yield* append(served, "kept", 40)
      yield* execute(
        ["ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()", "CHECKPOINT"],
        primary.url
      )
      yield* Effect.repeat(query("SELECT current_setting('synchronous_commit')", primary.url), {
        until: ([row]) => row?.[0] === "off"
      })
      const subscribers = yield* followers(served)
      yield* subscribers.until(40n)
      yield* append(served, "lost", 20)
      yield* subscribers.until(60n)
      yield* primary.kill
      yield* primary.start
      const [row] = yield* query("SELECT max(version)::int FROM public.events", primary.url)
      assert.strictEqual(row?.[0], 40)
      yield* assertReplaced(served, subscribers, { seen: 60n, agreed: 40n })
    })
  )
})

describe("an older state that was restored", () => {
  for (const isAhead of [false, true]) {
    it.live(`tells every subscriber, ${isAhead ? "after an append to it" : "before an append to it"}`, () =>
      Effect.gen(function* () {
        const { place, primary, served } = yield* movable()
        yield* append(served, "kept", 40)
        yield* primary.stop("fast")
        const backup = `${primary.dataDir}.backup`
        yield* Effect.promise(() => run("cp", ["-a", primary.dataDir, backup]))
        yield* primary.start
        const subscribers = yield* followers(served)
        yield* subscribers.until(40n)
        yield* append(served, "lost", 30)
        yield* subscribers.until(70n)
        place.port = 1
        yield* primary.stop("fast")
        yield* Effect.promise(async () => {
          await rm(primary.dataDir, { recursive: true })
          await run("mv", [backup, primary.dataDir])
        })
        yield* primary.start
        if (isAhead) yield* append(yield* serveEvents({ url: primary.url, options: { schema: "public" } }), "new", 50)
        place.port = primary.port
        yield* assertReplaced(served, subscribers, { seen: 70n, agreed: 40n })
      })
    )
  }
})

/** Waits until the reader of the tail has compared what it has seen with the table as it is now. */
const untilCompared = Effect.fnUntraced(function* (server: string) {
  const [row] = yield* query("SELECT clock_timestamp()::text", server)
  const compared = `SELECT count(*)::int FROM pg_stat_activity, pg_sleep(0.02)
    WHERE query LIKE '%AS highest,%) AS ' || 'state%' AND state = 'idle' AND query_start > '${row?.[0]}'`
  yield* Effect.repeat(query(compared, server), { until: ([found]) => found?.[0] !== 0 })
})

describe("a restart that loses nothing", () => {
  it.live("ends no subscriber, also where the last events were deleted before", () =>
    Effect.gen(function* () {
      const { primary, served } = yield* movable()
      const follower = yield* follow(served, { after: "start" })
      for (const [index, deleted] of ["false", "version > 5", "true"].entries()) {
        yield* append(served, `a${index}`, 10)
        yield* follower.until(10n * BigInt(index + 1))
        yield* execute([`DELETE FROM public.events WHERE ${deleted}`], primary.url)
        if (deleted !== "false") yield* untilCompared(primary.url)
        for (const mode of ["fast", "immediate"] as const) {
          yield* primary.restart(mode)
          // A log that ends before the cursor makes the reader go back; an append could hide that.
          yield* untilTailIsRead(served, primary.url)
        }
      }
      const [last] = yield* append(served, "last", 1)
      yield* follower.until(last?.version ?? 0n)
      assert.strictEqual(follower.seen.length, 31)
    })
  )
})
