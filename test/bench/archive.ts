/**
 * What it takes to archive a log, and to restore it: the time, the memory of the process, and how long a writer waits meanwhile.
 * Then how fast archived events are read, beside the same events in the table.
 *
 * `node --conditions=@effect-strata/source test/bench/archive.ts [--events 2000000] [--size 500000]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawn } from "node:child_process"
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import * as PostgresServer from "../support/PostgresServer.ts"
import { now } from "./harness.ts"

const { values: options } = parseArgs({
  options: { events: { type: "string", default: "2000000" }, size: { type: "string", default: "500000" } }
})
const total = Number(options.events)
const size = Number(options.size)
const schema = "archived"

const fill = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  // One statement cannot insert more than three partitions have.
  const part = Math.min(100_000, 2 * size)
  for (let first = 1; first <= total; first += part) {
    yield* sql.unsafe(
      `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data, metadata)
       SELECT gen_random_uuid(), 'account-' || n / 10, 'Deposited',
         jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other'), 'null'
       FROM generate_series(${first}, ${Math.min(total, first + part - 1)}) AS n`
    ).unprepared
  }
  yield* sql.unsafe(`VACUUM ANALYZE ${schema}.events`).unprepared
})

/** Runs the command as a process of its own, and says how many seconds and how much memory that has taken. */
const command = (args: ReadonlyArray<string>, url: string) =>
  Effect.gen(function* () {
    const start = yield* now
    const bin = fileURLToPath(new URL("../../src/cli/bin.ts", import.meta.url))
    let kilobytes = 0
    const code = yield* Effect.promise(
      () =>
        new Promise<number | null>((resolve) => {
          const child = spawn(process.execPath, ["--conditions=@effect-strata/source", bin, ...args], {
            env: { ...process.env, DATABASE_URL: url, NO_COLOR: "1" },
            stdio: ["ignore", "inherit", "inherit"]
          })
          const timer = setInterval(() => {
            void readFile(`/proc/${child.pid}/status`, "utf8").then(
              (status) => void (kilobytes = Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? kilobytes)),
              () => {}
            )
          }, 50)
          child.once("close", (code) => {
            clearInterval(timer)
            resolve(code)
          })
        })
    )
    return { code, seconds: ((yield* now) - start) / 1000, megabytes: kilobytes / 1024 }
  })

/** Appends one event after the other while something runs, and says how long appends have taken. */
const beside = <A, E, R>(events: EventStore.EventStore["Service"], run: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const spent: Array<number> = []
    const writer = yield* Effect.forkChild(
      Effect.forever(
        Effect.gen(function* () {
          const start = yield* now
          yield* events.append({ aggregateId: "writer", eventType: "Deposited", data: {} })
          spent.push((yield* now) - start)
        })
      )
    )
    const result = yield* run
    yield* Fiber.interrupt(writer)
    const sorted = spent.toSorted((a, b) => a - b)
    const at = (share: number) =>
      (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(1)
    return {
      result,
      says: `${sorted.length} appends meanwhile: median ${at(0.5)} ms, 99% ${at(0.99)} ms, longest ${at(1)} ms`
    }
  })

const reading = Effect.fnUntraced(function* (name: string, events: EventStore.EventStore["Service"]) {
  const start = yield* now
  const count = yield* Stream.runFold(
    Stream.take(events.read(), total),
    () => 0,
    (count) => count + 1
  )
  const seconds = ((yield* now) - start) / 1000
  yield* Console.log(`${name}: ${count} events in ${seconds.toFixed(1)} s, ${Math.round(count / seconds)} a second`)
})

const main = Effect.gen(function* () {
  const { url, version } = yield* PostgresServer.make({ settings: { shared_buffers: "512MB", max_wal_size: "4GB" } })
  const directory = yield* Effect.acquireRelease(
    Effect.promise(() => mkdtemp(join(tmpdir(), "strata-archive-"))),
    (path) => Effect.promise(() => rm(path, { recursive: true }))
  )
  const pool = PgClient.layer({ url: Redacted.make(url), maxConnections: 10 })
  const stores = Effect.map(
    Layer.build(
      Layer.fresh(
        Layer.provideMerge(
          Layer.provide(
            Postgres.layer({ schema, partitions: { size: BigInt(size) } }),
            Postgres.EventArchive.layerDirectory(directory)
          ),
          pool
        )
      )
    ),
    (context) => ({ context, events: Context.get(context, EventStore.EventStore) })
  )
  const { context, events } = yield* stores
  yield* Effect.provide(fill, context)
  yield* events.append(Array.from({ length: 1000 }, () => ({ aggregateId: "a", eventType: "Deposited", data: {} })))
  yield* Console.log(`${total} events, partitions of ${size}, PostgreSQL ${version}`)
  for (let times = 0; times < 2; times++) yield* reading("read from the table", events)
  const flags = ["--schema", schema, "--dir", directory]
  const archived = yield* beside(events, command(["archive", "--before", String(total), ...flags], url))
  const bytes = yield* Effect.promise(async () => {
    const sizes = await Promise.all((await readdir(directory)).map((name) => stat(join(directory, name))))
    return sizes.reduce((sum, { size }) => sum + size, 0)
  })
  const told = ({ megabytes, seconds }: { readonly megabytes: number; readonly seconds: number }) =>
    `${seconds.toFixed(1)} s, at most ${megabytes.toFixed(0)} MB of memory`
  yield* Console.log(
    `archive: ${told(archived.result)}, ${(bytes / total).toFixed(1)} bytes an event; ${archived.says}`
  )
  const { events: fresh } = yield* stores
  yield* reading("read from files, for the first time", fresh)
  yield* reading("read from files, again", fresh)
  const restored = yield* beside(events, command(["restore", ...flags], url))
  yield* Console.log(`restore: ${told(restored.result)}; ${restored.says}`)
}).pipe(Effect.scoped)

NodeRuntime.runMain(main)
