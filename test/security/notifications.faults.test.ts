/** Any role that may connect can notify: a flood costs no memory, and neither stops readers nor lets them miss anything. */
import { PgClient, PgConnection } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Latch, Layer, Redacted, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import * as ListeningConnection from "../../src/postgres/wakeups/ListeningConnection.ts"
import { freshRole, freshSchema, query, serve } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"

const script = fileURLToPath(new URL("notifications.process.ts", import.meta.url))

/** The process starts with some 40 MB, and each flood is some times as large as what is left. */
const heapMegabytes = 80

const openFlooder = Effect.gen(function* () {
  const mallory = yield* freshRole()
  return yield* PgConnection.make({ url: Redacted.make(mallory.url) })
})

/** So many notifications on each channel, all different, with payloads of so many bytes. */
const flood = (count: number, bytes: number) =>
  `SELECT count(pg_notify(channel, lpad(n::text, ${bytes}, 'x'))) FROM generate_series(1, ${count}) AS n,
     unnest(ARRAY['strata_wakeups', 'events_global']) AS channel`

/** Follows the log in a process of its own. */
const follow = Effect.fnUntraced(function* (schema: string, count: number) {
  const ended = yield* Deferred.make<number | string | null>()
  const more = yield* Latch.make()
  const lines: Array<string> = []
  const messages: Array<string> = []
  const args = ["--conditions=@effect-strata/source", script, postgresUrl, schema, String(count)]
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, [`--max-old-space-size=${heapMegabytes}`, ...args], { stdio: ["ignore", "pipe", "pipe"] })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  child.once("close", (code, signal) => Deferred.doneUnsafe(ended, Effect.succeed(code ?? signal)))
  child.stderr.on("data", (chunk: Buffer) => messages.push(chunk.toString()))
  createInterface(child.stdout).on("line", (line) => {
    lines.push(line)
    more.openUnsafe()
  })
  const hasPrinted = (length: number) =>
    Effect.whileLoop({
      while: () => lines.length < length,
      body: () => Effect.andThen(more.close, more.await),
      step: () => {}
    })
  return {
    lines,
    messages,
    ended: Deferred.await(ended),
    until: (length: number) => Effect.raceFirst(hasPrinted(length), Deferred.await(ended))
  }
})

it.live("a flood of notifications of another role does not fill 80 MB, and the process goes on", () =>
  Effect.gen(function* () {
    const flooder = yield* openFlooder
    const schema = yield* freshSchema()
    const { events } = yield* serve({ options: { schema } })
    const floods = [flood(300_000, 20), flood(10_000, 7900)]
    const follower = yield* follow(schema, floods.length + 1)
    yield* events.append({ aggregateId: "a", eventType: "T", data: 0 })
    yield* follower.until(1)
    for (const [round, statement] of floods.entries()) {
      yield* flooder.query(statement)
      yield* events.append({ aggregateId: "a", eventType: "T", data: round + 1 })
      yield* follower.until(round + 2)
    }
    assert.strictEqual(yield* follower.ended, 0, follower.messages.join(""))
    assert.deepStrictEqual([follower.lines, follower.messages], [["0", "1", "2"], []])
  })
)

it.live("of what nobody has heard yet, 256 notifications are kept", () =>
  Effect.gen(function* () {
    const flooder = yield* openFlooder
    const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
    const context = yield* Layer.build(Layer.provideMerge(Postgres.PostgresDatabase.layer(), pool))
    const { open } = yield* Effect.provideContext(ListeningConnection.make, context)
    const { heard, heardOfRows, query } = yield* open
    yield* flooder.query(flood(20_000, 20))
    // What was notified before comes before the answer.
    yield* query({ compile: () => ["SELECT 1", []] })
    const { isMore, payloads } = yield* heard
    assert.deepStrictEqual([isMore, payloads.size], [true, 256])
    yield* heardOfRows
    yield* flooder.query("SELECT pg_notify('strata_wakeups', n::text) FROM unnest(ARRAY[1, 1, 2]) AS n")
    assert.deepStrictEqual(yield* heard, { isMore: false, payloads: new Set(["1", "2"]) })
  })
)

it.live("a wake-up at the end of a flood wakes, whatever was dropped of the flood", () =>
  Effect.gen(function* () {
    const flooder = yield* openFlooder
    const schema = yield* freshSchema()
    const { offsets } = yield* serve({ options: { schema } })
    const [[oid] = []] = yield* query(`SELECT '${schema}.offsets_store'::regclass::oid::text`)
    const emitted = yield* Latch.make()
    yield* Effect.forkScoped(
      Stream.runForEach(offsets.changes, () => emitted.open),
      { startImmediately: true }
    )
    yield* emitted.await
    for (let round = 1; round <= 20; round++) {
      yield* emitted.close
      yield* flooder.query(
        `SELECT count(pg_notify('strata_wakeups', payload)) FROM (
           SELECT n::text FROM generate_series(1, 20000) AS n UNION ALL SELECT '${oid} another process') AS all_of (payload)`
      )
      yield* emitted.await
    }
  })
)

it.live("a flood of notifications of another role, all different, on both channels: subscribers go on", () =>
  Effect.gen(function* () {
    const flooder = yield* openFlooder
    const { events } = yield* serve({ options: { schema: yield* freshSchema() } })
    const following = yield* Effect.forkScoped(
      Stream.runCollect(Stream.take(events.subscribe({ after: "start" }), 6)),
      { startImmediately: true }
    )
    for (let round = 1; round <= 6; round++) {
      yield* flooder.query(flood(20_000, 20))
      yield* events.append({ aggregateId: "a", eventType: "T", data: round })
    }
    assert.deepStrictEqual(
      (yield* Fiber.join(following)).map(({ data }) => data),
      [1, 2, 3, 4, 5, 6]
    )
  })
)
