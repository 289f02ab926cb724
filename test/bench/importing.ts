/** `strata events import`, beside the server's own COPY of the same rows into the same table. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Readable, Writable } from "node:stream"
import { run } from "../../src/cli/main.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { type Amount, now } from "./harness.ts"
import { fill } from "./reads.ts"

/** How many bytes the process may grow by while it imports, however much that is. */
const room = 150e6

const settings = { shared_buffers: "512MB", max_wal_size: "4GB" }

const columns = "id, aggregate_id, event_type, data, metadata, created_at"

const directory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "strata-bench-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true, force: true }))
)

const silent = () => Object.assign(new Writable({ write: (_, __, done) => done() }), { isTTY: false, columns: 80 })

/** Runs a command of `strata` in this process. */
const strata = (url: string, ...args: ReadonlyArray<string>) =>
  run(args, {
    env: { DATABASE_URL: url },
    stdin: Object.assign(Readable.from([]), { isTTY: false }),
    stdout: silent(),
    stderr: silent()
  })

/** By how many bytes this process grows while something runs. */
const growth = <E, R>(effect: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function* () {
    const before = process.memoryUsage.rss()
    let most = before
    const watch = Effect.forever(
      Effect.andThen(
        Effect.sync(() => {
          most = Math.max(most, process.memoryUsage.rss())
        }),
        Effect.sleep("20 millis")
      )
    )
    yield* Effect.raceFirst(effect, watch)
    return most - before
  })

const imports = (count: number): Amount => ({
  name: "import",
  unit: "events/s",
  otherName: "COPY of the same rows from a file of the server",
  conditions: `${count.toLocaleString("en")} events by strata events import, with at most ${room / 1e6} MB more of memory`,
  amount: Effect.gen(function* () {
    const server = yield* PostgresServer.make({ settings })
    const url = Redacted.make(server.url)
    const pool = PgClient.layer({ url, maxConnections: 1 })
    return yield* Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const lines = join(yield* directory, "events.jsonl")
      const rows = join(server.dataDir, "events.copy")
      yield* fill(count)
      yield* sql.unsafe(`COPY events (${columns}) TO '${rows}'`)
      yield* strata(server.url, "events", "export", lines)
      const into = Effect.fnUntraced(function* <E, R>(fillAgain: Effect.Effect<unknown, E, R>) {
        yield* sql`TRUNCATE events RESTART IDENTITY`
        yield* sql`CHECKPOINT`
        const start = yield* now
        yield* fillAgain
        const millis = (yield* now) - start
        const [stored] = yield* sql<{ readonly count: number }>`SELECT count(*)::int AS count FROM events`
        if (stored?.count !== count) yield* Effect.fail(new Error(`${stored?.count} events are there, not ${count}`))
        return count / (millis / 1000)
      })
      let grown = 0
      const importing = Effect.tap(growth(strata(server.url, "events", "import", lines)), (bytes) =>
        Effect.sync(() => {
          grown = bytes
        })
      )
      const rates = {
        strata: yield* into(importing),
        other: yield* into(sql.unsafe(`COPY events (${columns}) FROM '${rows}'`))
      }
      if (grown > room) yield* Effect.fail(new Error(`the import took ${grown} bytes of memory`))
      return rates
    }).pipe(Effect.provide(Layer.provideMerge(Postgres.layerMigrations(), pool)))
  })
})

export const figures = (quick: boolean): ReadonlyArray<Amount> => [imports(quick ? 20_000 : 1_000_000)]
