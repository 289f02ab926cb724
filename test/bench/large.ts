/**
 * What a log of so many events costs: reads by filters, the commands that look at it, its bytes, and appends beside it.
 * `node --conditions=@effect-strata/source test/bench/large.ts --help` says how to run it.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, DateTime, Effect, Layer, Redacted, Schema, Stream } from "effect"
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

  --events N          how many events the log has, at least 1,000: 1,000,000 unless given
  --partitions SIZE   divides the log into partitions of so many versions, at least 10,000
  --url URL           fills this database, which stays: what is there from a run before is not filled again, and one that
                      was ended is gone on with. Unless given, the server is one of its own in the directory for temporary
                      files, and gone at the end
  --compact           the log has the compact layout
  --sizes             only fills the log, and says how many bytes it has
  --help              shows this

The log is filled by plain SQL. Events of ten follow each other for each aggregate. Each hundredth has another type than
the others, ten are rare, and the last hundredth was created after the time by which reads filter. Appends are measured
in turns beside the log and beside another one of 1,000,000 events on the same server, to aggregates from all over each.
At the end the index of what data contains is built.
`

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "1000000" },
    partitions: { type: "string" },
    url: { type: "string" },
    compact: { type: "boolean", default: false },
    sizes: { type: "boolean", default: false },
    help: { type: "boolean", default: false }
  }
})

const Count = Schema.NumberFromString.check(Schema.isInt(), Schema.isGreaterThanOrEqualTo(1000))
const total = Schema.decodeSync(Count)(options.events)
const partition = options.partitions === undefined ? undefined : Schema.decodeSync(Count)(options.partitions)

const comparedTotal = 1_000_000

/** What this process has on the server: the log, and the one beside which appends are compared. */
const schemas = { large: "large", compared: "compared" }

const settings = { shared_buffers: "1GB", max_wal_size: "8GB", maintenance_work_mem: "512MB" }

const since = DateTime.makeUnsafe("2026-01-01T00:00:00Z")

/** Adds events until there are so many. */
const fill = Effect.fnUntraced(function* (schema: string, count: number) {
  const sql = yield* PgClient.PgClient
  const table = `${schema}.events`
  const rareEvery = Math.floor(count / 10)
  const lastHundredth = count - Math.floor(count / 100)
  const [row] = yield* sql.unsafe<{ readonly last: string }>(
    `SELECT coalesce(max(version), 0)::text AS last FROM ${table} WHERE version <= ${count}`
  ).unprepared
  const there = Number(row?.last)
  if (there === count) return yield* Console.log(`${table} has its ${count} events from a run before`)
  const start = yield* now
  // One statement cannot insert more than three partitions have.
  const part = Math.min(500_000, 2 * (partition ?? 500_000))
  let told = Math.floor((there * 10) / count)
  for (let first = there + 1; first <= count; first += part) {
    const last = Math.min(count, first + part - 1)
    yield* sql.unsafe(
      `INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata, created_at)
       SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'account-' || n / 10,
         CASE WHEN n % ${rareEvery} = 0 THEN 'Rare' WHEN n % 100 = 0 THEN 'Closed' ELSE 'Deposited' END,
         jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other'),
         ${options.compact && schema === schemas.large ? "NULL" : "'null'"},
         timestamptz '2026-01-01 00:00:00Z' + (n - ${lastHundredth}) * interval '10 ms'
       FROM generate_series($1::bigint, $2) AS n ORDER BY n`,
      [first, last]
    ).unprepared
    const tenths = Math.floor((last * 10) / count)
    if (tenths > told) yield* Console.log(`${tenths}0% of the events of ${table} are there`)
    told = tenths
  }
  yield* sql.unsafe(`VACUUM ANALYZE ${table}`).unprepared
  yield* Console.log(
    `filled ${table} from ${there} up to ${count} events in ${Math.round(((yield* now) - start) / 1000)} s`
  )
})

type Events = EventStore.EventStore["Service"]

const appendCount = 10_000

/** How an event is appended, one after another. */
const ways: ReadonlyArray<
  readonly [name: string, append: (events: Events, aggregateId: string) => Effect.Effect<unknown, unknown>]
> = [
  ["an append", (events, aggregateId) => events.append({ aggregateId, eventType: "Deposited", data: {} })],
  [
    "an append that expects an event",
    (events, aggregateId) => events.append({ aggregateId, eventType: "Deposited", data: {} }, { expected: "some" })
  ]
]

/** The milliseconds of appends to both logs in turns: the median, and that of the slowest hundredth. The events stay. */
const appends = Effect.fnUntraced(function* (large: Events, compared: Events) {
  for (const [name, append] of ways) {
    const sides = [
      { events: compared, aggregates: comparedTotal / 10, spent: new Array<number>() },
      { events: large, aggregates: total / 10, spent: new Array<number>() }
    ] as const
    for (let n = 0; n < appendCount; n++) {
      for (const { aggregates, events, spent } of n % 2 === 0 ? sides : sides.toReversed()) {
        const start = yield* now
        yield* append(events, `account-${(n * 7919) % aggregates}`)
        spent.push((yield* now) - start)
      }
    }
    const [few, many] = sides.map(({ spent }) => spent.slice(appendCount / 10).sort((a, b) => a - b))
    const quantiles = [0.5, 0.99].map((share) => {
      const of = (spent: ReadonlyArray<number> = []) => spent[Math.floor(spent.length * share)] ?? Number.NaN
      return `p${share * 100} ${of(many).toFixed(2)} ms, ${(of(many) / of(few)).toFixed(2)} times`
    })
    yield* Console.log(`${name}: ${quantiles.join(", ")} that beside ${comparedTotal} events`)
  }
})

type Read = Parameters<Events["read"]>[0]

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

const one = { amount: Math.floor(total / 2) }

const contained: typeof reads = [
  ["what the data of one contains", 1, { data: one }],
  ["the same, the first", 1, { data: one, limit: 1 }],
  ["the same, the last", 1, { data: one, limit: 1, direction: "backward" }],
  ["the same, after a time", 1, { data: one, createdAfter: since }],
  ["what all contain, a page", 1, { data: { currency: "EUR" }, limit: 1000 }]
]

const readAll = Effect.fnUntraced(function* (events: Events, all: typeof reads) {
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
  const status = yield* run([...args, "--schema", schemas.large], host).pipe(
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
    WITH part AS (
      SELECT oid AS relid FROM pg_class WHERE oid = to_regclass(${`${schemas.large}.events`}) AND relkind = 'r'
      UNION ALL SELECT relid FROM pg_partition_tree(to_regclass(${`${schemas.large}.events`})) WHERE isleaf
    )
    SELECT 'the table' AS name, 'none' AS column, sum(pg_table_size(relid))::float8 AS bytes FROM part
    UNION ALL
    SELECT coalesce(pg_get_indexdef(min(indexrelid)), ''), coalesce(attname, ''), sum(pg_relation_size(indexrelid))::float8
    FROM part JOIN pg_index ON indrelid = relid
    LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    GROUP BY attname
    UNION ALL
    SELECT 'the table of ids', 'id', pg_total_relation_size(oid)::float8
    FROM pg_class WHERE oid = to_regclass(${`${schemas.large}.events_ids`})`
  const [payload] = yield* sql<{ readonly bytes: number }>`
    SELECT avg(octet_length(data::text))::float8 AS bytes FROM ${sql.literal(schemas.large)}.events TABLESAMPLE SYSTEM (1)`
  const all = rows.reduce((sum, { bytes }) => sum + bytes, 0)
  yield* Console.log(
    `${(all / 2 ** 30).toFixed(2)} GB, ${(all / total).toFixed(0)} bytes for each event, which has ${payload?.bytes.toFixed(0)} bytes of data:`
  )
  for (const { bytes, column, name } of rows) {
    const what = name.replace(/.* USING /, "")
    yield* Console.log(
      `${what.padEnd(46)} ${(bytes / total).toFixed(1).padStart(6)}  ${purposes.get(column) ?? ""}`.trimEnd()
    )
  }
})

const store = (schema: string, extras: Postgres.Options) =>
  Effect.map(Layer.build(Postgres.layer({ schema, ...extras })), (context) =>
    Context.get(context, EventStore.EventStore)
  )

const program = Effect.fnUntraced(function* (url: string) {
  const large = yield* store(schemas.large, {
    ...(partition === undefined ? {} : { partitions: { size: BigInt(partition) } }),
    ...(options.compact ? { layout: "compact" } : {})
  })
  if (options.sizes) {
    yield* fill(schemas.large, total)
    return yield* sizes
  }
  const compared = yield* store(schemas.compared, {})
  yield* fill(schemas.large, total)
  yield* fill(schemas.compared, comparedTotal)
  yield* readAll(large, reads)
  yield* Console.log("without the index of what data contains:")
  yield* readAll(large, contained)
  yield* sizes
  for (const args of [["status"], ["doctor"], ["events", "stats"], ["events", "stats", "--exact"]]) {
    yield* command(url, ...args)
  }
  yield* appends(large, compared)
  yield* command(url, "migrate", "--index", "containment")
  yield* Console.log("with the index of what data contains:")
  yield* readAll(
    large,
    contained.map(([name, , read]) => [name, 20, read] as const)
  )
  yield* sizes
})

const main = Effect.gen(function* () {
  const url = options.url ?? (yield* PostgresServer.make({ settings })).url
  const client = PgClient.layer({ url: Redacted.make(url), maxConnections: 2 })
  yield* Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    const [row] = yield* sql<{ readonly settings: string }>`
      SELECT 'PostgreSQL ' || current_setting('server_version') || string_agg(', ' || name || ' ' || current_setting(name), '' ORDER BY name) AS settings
      FROM pg_settings WHERE name = ANY(${["fsync", ...Object.keys(settings)]})`
    yield* Console.log(row?.settings)
    yield* program(url)
  }).pipe(Effect.provide(client))
})

if (options.help) process.stdout.write(usage)
else NodeRuntime.runMain(Effect.scoped(main))
