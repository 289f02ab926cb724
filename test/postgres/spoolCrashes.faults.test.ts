/** What the spool keeps when workers are killed, the server is restarted, or many callers want the same message. */
import { assert, it } from "@effect/vitest"
import { Effect, Queue, Schema, Stream } from "effect"
import { Spool, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { type ChildProcess, spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { postgresUrl, waitForBackends } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { query, unique } from "./harness.ts"
import { serveSpool } from "./spool.harness.ts"

const script = fileURLToPath(new URL("fixtures/spool.ts", import.meta.url))

/** A process of its own, and the lines that it prints. */
const start = Effect.fnUntraced(function* (mode: string, url: string, schema: string) {
  const lines = yield* Queue.unbounded<string>()
  const child: ChildProcess = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, ["--conditions=@effect-strata/source", script, mode, url, schema], {
        stdio: ["pipe", "pipe", "inherit"]
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  if (child.stdout !== null)
    createInterface({ input: child.stdout }).on("line", (line) => Queue.offerUnsafe(lines, line))
  return { child, lines, tell: (line: string) => Effect.sync(() => child.stdin?.write(`${line}\n`)) }
})

const numbers = Spool.make({ name: "numbers", payload: Schema.Number, policies: { default: Spool.fixed(0) } })

const enqueue = (count: number) =>
  Effect.forEach(
    Array.from({ length: Math.ceil(count / 1000) }, (_, n) => n * 1000),
    (first) =>
      numbers.enqueueAll(
        Array.from({ length: Math.min(1000, count - first) }, (_, n) => ({ payload: first + n, id: `${first + n}` }))
      )
  )

/** Waits until nothing is left of the queue, as the server sees it. */
const drained = (url: string, table: string) =>
  Effect.gen(function* () {
    while ((yield* query(`SELECT 1 FROM ${table} WHERE state IN (0, 1, 2) LIMIT 1`, url)).length > 0) {
      yield* query("SELECT 1 FROM pg_sleep(0.02)", url)
    }
  })

it.live("delivers what a killed worker held after its lease, and counts its attempt", () =>
  Effect.gen(function* () {
    const { context, messages, schema } = yield* serveSpool()
    yield* Effect.gen(function* () {
      yield* enqueue(200)
      const { child, lines } = yield* start("worker", postgresUrl, schema)
      // The handlers of numbers that end in 7 hang. The worker is killed when all of its handlers do.
      yield* Stream.fromQueue(lines).pipe(
        Stream.filter((line) => line.endsWith("7")),
        Stream.take(20),
        Stream.runDrain
      )
      child.kill("SIGKILL")
      const [left] = yield* query(`SELECT count(*)::int FROM ${messages} WHERE state = 1`)
      assert.isAtLeast(Number(left?.[0]), 20)
      const attempts = new Map<number, number>()
      yield* Effect.forkScoped(
        numbers.run((number, message) => Effect.sync(() => attempts.set(number, message.attempts)))
      )
      yield* drained(postgresUrl, messages)
      for (let hung = 7; hung < 200; hung += 10) assert.strictEqual(attempts.get(hung), 2, `${hung}`)
      // What is left are their ids.
      assert.deepStrictEqual(yield* query(`SELECT state, count(*)::int FROM ${messages} GROUP BY 1`), [[6, 200]])
    }).pipe(Effect.provideContext(context))
  })
)

it.live("lets eight workers handle 10,000 messages with failures in between: each once, none by two at a time", () =>
  Effect.gen(function* () {
    const { context, messages, schema } = yield* serveSpool()
    yield* Effect.provideContext(enqueue(10_000), context)
    const handled = new Map<number, number>()
    const live = new Set<number>()
    let overlaps = 0
    const handler = (number: number) =>
      Effect.gen(function* () {
        if (live.has(number)) overlaps++
        live.add(number)
        yield* Effect.yieldNow
        live.delete(number)
        if (Math.random() < 0.1) return yield* Effect.fail(new Error("by chance"))
        if (Math.random() < 0.1) return yield* Effect.die(new Error("by misfortune"))
        handled.set(number, (handled.get(number) ?? 0) + 1)
      })
    yield* Effect.forEach(
      Array.from({ length: 8 }),
      Effect.fnUntraced(function* () {
        const { context } = yield* serveSpool({ options: { schema }, layer: Postgres.layerStorage })
        yield* Effect.forkScoped(Effect.provideContext(numbers.run(handler, { concurrency: 20 }), context))
      })
    )
    yield* drained(postgresUrl, messages)
    const states = yield* query(`SELECT state, count(*)::int FROM ${messages} WHERE state < 6 GROUP BY 1`)
    const bounced = states.reduce((sum, [, count]) => sum + Number(count), 0)
    assert.strictEqual(handled.size + bounced, 10_000)
    assert.isTrue([...handled.values()].every((times) => times === 1))
    assert.strictEqual(overlaps, 0)
  })
)

it.live("goes on when the server has been restarted under load", () =>
  Effect.gen(function* () {
    const server = yield* PostgresServer.make()
    const { context, messages } = yield* serveSpool({ url: server.url })
    yield* Effect.gen(function* () {
      yield* enqueue(2000)
      const handled = new Set<number>()
      yield* Effect.forkScoped(
        numbers.run((number) => Effect.sync(() => handled.add(number)), { concurrency: 4, lease: "1 second" })
      )
      for (const mode of ["fast", "immediate"] as const) {
        const before = handled.size
        while (handled.size < before + 100) yield* Effect.yieldNow
        yield* server.restart(mode)
      }
      yield* drained(server.url, messages)
      assert.strictEqual(handled.size, 2000)
    }).pipe(Effect.provideContext(context))
  })
)

it.live(
  "lets exactly one of two processes move a message, 10,000 times, without losing a connection",
  () =>
    Effect.gen(function* () {
      const { schema, spool } = yield* serveSpool()
      yield* spool.storeMeta({ id: "raced" })
      const applicationName = yield* unique
      const url = new URL(postgresUrl)
      url.searchParams.set("application_name", applicationName)
      const movers = [yield* start("mover", url.href, schema), yield* start("mover", url.href, schema)]
      for (const { lines } of movers) assert.strictEqual(yield* Queue.take(lines), "ready")
      for (let round = 0; round < 10_000; round++) {
        for (const { tell } of movers) yield* tell(String(round))
        const results = yield* Effect.forEach(movers, ({ lines }) => Queue.take(lines))
        assert.deepStrictEqual(results.toSorted(), ["StateConflict", "won"], `round ${round}`)
      }
      const backends = yield* waitForBackends(applicationName, (all) => all.every(({ state }) => state === "idle"))
      assert.isTrue(backends.every(({ state }) => state === "idle"))
      assert.instanceOf(yield* Effect.flip(spool.moveToState("raced", "hold", "bounce")), SpoolStore.StateConflict)
    }),
  600_000
)
