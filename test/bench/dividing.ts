/**
 * How long writers wait while a log of so many events is divided into partitions, and how long that takes: writers of each kind
 * on connections of their own append one event after the other, before and meanwhile.
 *
 * `node --conditions=@effect-strata/source test/bench/dividing.ts [--events 2000000] [--size 100000] [--long]`
 *
 * With `--long`, a transaction that has read the log stays open for five seconds at a time.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, Effect, Fiber, Layer, Redacted } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { parseArgs } from "node:util"
import { execute } from "../support/connection.ts"
import { fillStatements } from "../support/largeLogs.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { now } from "./harness.ts"

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "2000000" },
    size: { type: "string", default: "100000" },
    long: { type: "boolean", default: false }
  }
})
const total = Number(options.events)

/** For how long writers write before the log is divided, to compare with. */
const before = "5 seconds"

const clientOf = (url: string) => PgClient.layer({ url: Redacted.make(url), maxConnections: 5 })

const event = (id?: string) => ({
  aggregateId: `new-${Math.floor(Math.random() * 1000)}`,
  eventType: "Changed",
  data: { amount: 100, note: "a payment like any other" },
  ...(id === undefined ? {} : { id })
})

/** The times of a writer, of which it forgets all when it is asked for them. */
const timesOf = <E, R>(write: Effect.Effect<unknown, E, R>) => {
  let times: Array<number> = []
  const run = Effect.forever(
    Effect.gen(function* () {
      const start = yield* now
      yield* write
      times.push((yield* now) - start)
    })
  )
  return {
    run,
    take: () => {
      const sorted = times.toSorted((a, b) => a - b)
      times = []
      const at = (share: number) => (sorted[Math.floor((sorted.length - 1) * share)] ?? Number.NaN).toFixed(1)
      return `${sorted.length} appends, p50 ${at(0.5)}, p99 ${at(0.99)}, longest ${at(1)} ms`
    }
  }
}

const program = Effect.fnUntraced(function* (url: string) {
  const stores = yield* Effect.map(Layer.build(Postgres.layer()), (context) =>
    Context.get(context, EventStore.EventStore)
  )
  const sql = yield* PgClient.PgClient
  yield* execute(url, [...fillStatements("events", total), "VACUUM ANALYZE events"])
  const writers = {
    "one event": timesOf(Effect.suspend(() => stores.append(event()))),
    "one with an id of its own": timesOf(Effect.suspend(() => stores.append(event(crypto.randomUUID())))),
    "one that expects something": timesOf(
      Effect.suspend(() => stores.append({ ...event(), aggregateId: crypto.randomUUID() }, { expected: "none" }))
    ),
    "one by plain SQL": timesOf(
      sql.unsafe(
        `INSERT INTO events (id, aggregate_id, event_type, data) VALUES (gen_random_uuid(), 'plain', 'Plain', '{}')`
      ).unprepared
    )
  }
  const writing = yield* Effect.forkScoped(
    Effect.all(
      Object.values(writers).map(({ run }) => run),
      { concurrency: "unbounded", discard: true }
    )
  )
  if (options.long) {
    yield* sql`SELECT FROM events LIMIT 1`.pipe(
      Effect.andThen(Effect.sleep("5 seconds")),
      sql.withTransaction,
      Effect.forever,
      Effect.forkScoped
    )
  }
  const tell = (when: string) =>
    Effect.forEach(Object.entries(writers), ([name, { take }]) => Console.log(`${when} ${name.padEnd(28)} ${take()}`))
  yield* Effect.sleep(before)
  yield* tell("before   ")
  const start = yield* now
  const migrations = Postgres.layerMigrations({
    partitions: { size: BigInt(options.size) },
    migrationWait: "10 minutes"
  })
  yield* Effect.raceFirst(
    Effect.scoped(Layer.build(migrations)).pipe(Effect.provide(clientOf(url))),
    Effect.andThen(Fiber.join(writing), Effect.die("the writers have ended"))
  )
  const seconds = ((yield* now) - start) / 1000
  yield* tell("meanwhile")
  yield* Effect.sleep(before)
  yield* tell("after    ")
  yield* Console.log(`${total} events were divided in ${seconds.toFixed(1)} s`)
})

const main = Effect.gen(function* () {
  const { url, version } = yield* PostgresServer.make({ settings: { shared_buffers: "512MB", max_wal_size: "4GB" } })
  yield* Console.log(`PostgreSQL ${version}, ${total} events`)
  yield* Effect.provide(program(url), clientOf(url))
})

NodeRuntime.runMain(Effect.scoped(main))
