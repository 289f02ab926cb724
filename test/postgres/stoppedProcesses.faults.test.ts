/** Processes that are stopped in the middle of a transaction: others go on without them, and nothing takes effect twice. */
import { assert, it } from "@effect/vitest"
import { Effect, Option, Queue, Schedule } from "effect"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { postgresUrl } from "../support/database.ts"
import { serveEvents } from "./events.harness.ts"
import { insertsNumbers, numbers, projection, work } from "./fixtures/stoppable.ts"
import { execute, query } from "./harness.ts"

const script = fileURLToPath(new URL("fixtures/stopped.ts", import.meta.url))

/** A process in the middle of a handler, which goes on once it is told. */
const inTheMiddle = Effect.fnUntraced(function* (mode: "projection" | "worker", schema: string) {
  const lines = yield* Queue.unbounded<string>()
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, ["--conditions=@effect-strata/source", script, mode, postgresUrl, schema], {
        stdio: ["pipe", "pipe", "inherit"]
      })
    ),
    (process) => Effect.sync(() => process.kill("SIGKILL"))
  )
  createInterface({ input: child.stdout }).on("line", (line) => Queue.offerUnsafe(lines, line))
  assert.strictEqual(yield* Queue.take(lines), "in the middle")
  return {
    stop: Effect.sync(() => child.kill("SIGSTOP")),
    /** Lets the process go on, and its handler end. */
    goOn: Effect.sync(() => {
      child.kill("SIGCONT")
      child.stdin.write("go on\n")
    }),
    /** Gives it more to do until it has begun with some of it. */
    untilItTakesPart: Effect.fnUntraced(function* <E, R>(more: Effect.Effect<unknown, E, R>) {
      yield* Queue.clear(lines)
      do yield* more
      while (Option.isNone(yield* Effect.timeoutOption(Queue.take(lines), "200 millis")))
    })
  }
})

const count = 400
const numbersFrom = (first: number) => Array.from({ length: count }, (_, index) => first + index)

/** The stores, a table of numbers, and what gives the next numbers, always others. */
const served = Effect.gen(function* () {
  const stores = yield* serveEvents()
  yield* execute([`CREATE TABLE ${stores.schema}.numbers (number int NOT NULL)`])
  let first = 0
  const next = () => {
    first += count
    return numbersFrom(first - count)
  }
  const check = Effect.map(query(`SELECT number FROM ${stores.schema}.numbers ORDER BY number`), (rows) =>
    assert.deepStrictEqual(
      rows.map(([number]) => Number(number)),
      Array.from({ length: first }, (_, number) => number)
    )
  )
  return { ...stores, next, check }
})

it.live(
  "a process that stops in the middle of a batch loses its shards, and handles nothing twice when it goes on",
  () =>
    Effect.gen(function* () {
      const { check, context, events, next, schema } = yield* served
      const append = Effect.suspend(() =>
        events.append(next().map((data) => ({ aggregateId: `a${data}`, eventType: "Counted", data })))
      )
      const untilAllHandled = Effect.flatMap(events.latestVersion, (version) => untilHandled("numbers", version))
      yield* append
      const child = yield* inTheMiddle("projection", schema)
      yield* child.stop
      yield* Effect.gen(function* () {
        yield* Effect.forkScoped(projection(insertsNumbers(schema)))
        // All shards were those of the process that has stopped.
        yield* untilAllHandled
        yield* check
        yield* child.goOn
        yield* child.untilItTakesPart(append)
        yield* untilAllHandled
        yield* check
      }).pipe(Effect.provideContext(context))
    })
)

it.live("a worker that stops in the middle of its transaction keeps no row locked, and settles nothing twice", () =>
  Effect.gen(function* () {
    const { check, context, next, schema } = yield* served
    // A lock for which another handler of the same message waits.
    yield* execute([`CREATE UNIQUE INDEX ON ${schema}.numbers (number)`])
    const enqueue = Effect.suspend(() => numbers.enqueueAll(next().map((payload) => ({ payload }))))
    const untilAllHandled = Effect.repeat(query(`SELECT 1 FROM ${schema}.strata_messages WHERE state < 6 LIMIT 1`), {
      until: (rows) => rows.length === 0,
      schedule: Schedule.spaced("100 millis")
    })
    yield* Effect.gen(function* () {
      yield* enqueue
      const child = yield* inTheMiddle("worker", schema)
      yield* child.stop
      yield* Effect.forkScoped(work(insertsNumbers(schema)))
      yield* untilAllHandled
      yield* check
      yield* child.goOn
      yield* child.untilItTakesPart(enqueue)
      yield* untilAllHandled
      yield* check
    }).pipe(Effect.provideContext(context))
  })
)
