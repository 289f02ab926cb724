/**
 * What a log of so many events costs: reads by filters, the commands that look at it, its bytes, and appends beside it.
 * `node --conditions=@effect-strata/source test/bench/large.ts --help` says how to run it.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, DateTime, Effect, Layer, Redacted, Schema, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { Readable, Writable } from "node:stream"
import { parseArgs } from "node:util"
import { run } from "../../src/cli/main.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { measured } from "./blocks.ts"
import { now } from "./harness.ts"

const usage = `What a log of so many events costs: reads by filters, the commands that look at it, its bytes, and appends beside it.

node --conditions=@effect-strata/source test/bench/large.ts [FLAGS]

  --events N   how many events the log has, at least 1,000: 1,000,000 unless given
  --compact    the log has the compact layout
  --sizes      only fills the log, and says how many bytes it has
  --help       shows this

The log is filled by plain SQL, on a server of its own in the directory for temporary files. Events of ten follow each
other for each aggregate. Each hundredth has another type than the others, ten are rare, and the last hundredth was created
after the time by which reads filter. Appends are also measured beside the first 1,000,000 events, to compare them. At
the end the index of what data contains is built.
`

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "1000000" },
    compact: { type: "boolean", default: false },
    sizes: { type: "boolean", default: false },
    help: { type: "boolean", default: false }
  }
})

const Total = Schema.NumberFromString.check(Schema.isInt(), Schema.isGreaterThanOrEqualTo(1000))
const total = Schema.decodeSync(Total)(options.events)

/** The size beside which appends are compared. */
const comparedTotal = Math.min(total, 1_000_000)
const rareEvery = Math.max(1, Math.floor(total / 10))

const settings = { shared_buffers: "1GB", max_wal_size: "8GB", maintenance_work_mem: "512MB" }

const since = DateTime.makeUnsafe("2026-01-01T00:00:00Z")
const lastHundredth = total - Math.floor(total / 100)

/** Adds the events from one number to another. */
const fill = Effect.fnUntraced(function* (from: number, upTo: number) {
  const sql = yield* PgClient.PgClient
  const start = yield* now
  const part = 500_000
  let told = 0
  for (let first = from; first <= upTo; first += part) {
    yield* sql.unsafe(
      `INSERT INTO events (id, aggregate_id, event_type, data, metadata, created_at)
       SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'account-' || n / 10,
         CASE WHEN n % ${rareEvery} = 0 THEN 'Rare' WHEN n % 100 = 0 THEN 'Closed' ELSE 'Deposited' END,
         jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other'),
         ${options.compact ? "NULL" : "'null'"},
         timestamptz '2026-01-01 00:00:00Z' + (n - ${lastHundredth}) * interval '10 ms'
       FROM generate_series($1::bigint, $2) AS n ORDER BY n`,
      [first, Math.min(upTo, first + part - 1)]
    ).unprepared
    const tenths = Math.floor((Math.min(upTo, first + part - 1) * 10) / total)
    if (tenths > told) yield* Console.log(`${tenths}0% of the events are there`)
    told = tenths
  }
  yield* sql`VACUUM ANALYZE events`.unprepared
  yield* Console.log(`filled up to ${upTo} events in ${Math.round(((yield* now) - start) / 1000)} s`)
})

const appendCount = 3000

/** The milliseconds of appends, one after another: the median, and that of the slowest hundredth. The events are deleted again. */
const appends = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const sql = yield* PgClient.PgClient
  const last = yield* events.latestVersion
  const spent: Array<number> = []
  for (let n = 0; n < appendCount; n++) {
    const start = yield* now
    yield* events.append({ aggregateId: `account-${n}`, eventType: "Deposited", data: { amount: n } })
    spent.push((yield* now) - start)
  }
  yield* sql`DELETE FROM events WHERE version > ${last}`
  yield* sql`VACUUM events`.unprepared
  const inOrder = spent.slice(appendCount / 10).sort((a, b) => a - b)
  const quantile = (share: number) => inOrder[Math.floor(inOrder.length * share)] ?? Number.NaN
  return { p50: quantile(0.5), p99: quantile(0.99) }
})

type Read = Parameters<EventStore.EventStore["Service"]["read"]>[0]

const reads: ReadonlyArray<readonly [name: string, times: number, read: Read]> = [
  ["a page from the start", 20, { limit: 1000 }],
  ["a rare type", 20, { eventTypes: ["Rare"] }],
  ["a rare type, the first", 20, { eventTypes: ["Rare"], limit: 1 }],
  ["a type of each hundredth, a page", 20, { eventTypes: ["Closed"], limit: 1000 }],
  ["two types, a page", 20, { eventTypes: ["Closed", "Rare"], limit: 1000 }],
  ["created after a time, the first", 20, { createdAfter: since, limit: 1 }],
  ["created after a time, a page", 20, { createdAfter: since, limit: 1000 }],
  ["created after a time, the last", 20, { createdAfter: since, limit: 1, direction: "backward" }],
  ["of a type and after a time, the first", 20, { eventTypes: ["Closed"], createdAfter: since, limit: 1 }],
  ["of a type and after a time, a page", 20, { eventTypes: ["Deposited"], createdAfter: since, limit: 1000 }],
  ["of a rare type and after a time", 20, { eventTypes: ["Rare"], createdAfter: since }]
]

const contained: Read = { data: { amount: total } }

const readAll = Effect.fnUntraced(function* (all: typeof reads) {
  const events = yield* EventStore.EventStore
  for (const [name, times, read] of all) yield* measured(name, times, () => Stream.runCount(events.read(read)))
})

const silent = () => Object.assign(new Writable({ write: (_, __, done) => done() }), { isTTY: false, columns: 80 })

/** Runs a command of `strata` in this process, and gives the milliseconds that it takes. */
const command = Effect.fnUntraced(function* (url: string, ...args: ReadonlyArray<string>) {
  const host = {
    env: { DATABASE_URL: url },
    stdin: Object.assign(Readable.from([]), { isTTY: false }),
    stdout: silent(),
    stderr: silent()
  }
  const start = yield* now
  // A status that is not 0 says that something was found, as the doctor finds that this server flushes nothing.
  const status = yield* run(args, host).pipe(
    Effect.as(0),
    Effect.catch(({ status }) => Effect.succeed(status))
  )
  const millis = (yield* now) - start
  yield* Console.log(
    `strata ${args.join(" ").padEnd(38)} ${millis.toFixed(0).padStart(6)} ms${status === 0 ? "" : `, status ${status}`}`
  )
})

/** What each index is for, by its first column. */
const purposes = new Map([
  ["version", "the order of the log"],
  ["id", "one event by its id, and no id twice"],
  ["aggregate_id", "the history of an aggregate, and what appends expect"],
  ["event_type", "readers of some types"],
  ["", "readers from a time on"],
  ["data", "containment in data, an option"],
  ["metadata", "containment in metadata, an option"]
])

const sizes = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  const rows = yield* sql<{ readonly name: string; readonly column: string; readonly bytes: number }>`
    SELECT 'the table' AS name, 'none' AS column, pg_table_size('events')::float8 AS bytes
    UNION ALL
    SELECT indexrelid::regclass::text, coalesce(attname, ''), pg_relation_size(indexrelid)::float8
    FROM pg_index LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] WHERE indrelid = 'events'::regclass`
  const [payload] = yield* sql<{ readonly bytes: number }>`
    SELECT avg(octet_length(data::text))::float8 AS bytes FROM events TABLESAMPLE SYSTEM (1)`
  const all = rows.reduce((sum, { bytes }) => sum + bytes, 0)
  yield* Console.log(
    `${(all / 2 ** 30).toFixed(2)} GB, ${(all / total).toFixed(0)} bytes for each event, which has ${payload?.bytes.toFixed(0)} bytes of data:`
  )
  for (const { bytes, column, name } of rows) {
    yield* Console.log(
      `${name.padEnd(46)} ${(bytes / total).toFixed(1).padStart(6)}  ${purposes.get(column) ?? ""}`.trimEnd()
    )
  }
})

const program = (url: string) =>
  Effect.gen(function* () {
    if (options.sizes) {
      yield* fill(1, total)
      return yield* sizes
    }
    yield* fill(1, comparedTotal)
    const few = yield* appends
    if (total > comparedTotal) yield* fill(comparedTotal + 1, total)
    const many = yield* appends
    const ratio = (few: number, many: number) => `${many.toFixed(2)} ms, ${(many / few).toFixed(2)} times`
    yield* Console.log(
      `an append: p50 ${ratio(few.p50, many.p50)}, p99 ${ratio(few.p99, many.p99)} that beside ${comparedTotal} events`
    )
    yield* readAll(reads)
    yield* readAll([["what the data of one contains, without an index", 1, contained]])
    yield* sizes
    for (const args of [["status"], ["doctor"], ["events", "stats"], ["events", "stats", "--exact"]]) {
      yield* command(url, ...args)
    }
    yield* command(url, "migrate", "--index", "containment")
    yield* readAll([["what the data of one contains, with its index", 20, contained]])
    yield* sizes
  })

const main = Effect.gen(function* () {
  const { url, version } = yield* PostgresServer.make({ settings })
  yield* Console.log(
    `PostgreSQL ${version}, ${Object.entries(settings)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ")}`
  )
  const client = PgClient.layer({ url: Redacted.make(url), maxConnections: 1 })
  yield* program(url).pipe(
    Effect.provide(Layer.provideMerge(Postgres.layer(options.compact ? { layout: "compact" } : {}), client))
  )
})

if (options.help) process.stdout.write(usage)
else NodeRuntime.runMain(Effect.scoped(main))
