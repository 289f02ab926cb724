/**
 * What a read by tag reads, beside so many events, and what an array of tags with a GIN index would read instead.
 *
 * `node --conditions=@effect-strata/source test/bench/tagged.ts [--events 20000000] [--gin]`
 *
 * Each event has the tag of its tenant and one of 100 kinds. Every tenth has the tag of one of many courses, with 100 events
 * each, and ten events are rare. The log is filled by plain SQL on a server of its own.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Effect, Layer, Redacted, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { parseArgs } from "node:util"
import * as PostgresServer from "../support/PostgresServer.ts"
import { measured } from "./blocks.ts"
import { now } from "./harness.ts"

const { values: options } = parseArgs({
  options: { events: { type: "string", default: "1000000" }, gin: { type: "boolean", default: false } }
})
const total = Number(options.events)
// An odd number: so half of the events of each course have one type, and half the other.
const courses = Math.floor(total / 1_000) | 1
const rareEvery = Math.max(1, Math.floor(total / 10))

const settings = { shared_buffers: "1GB", max_wal_size: "8GB", maintenance_work_mem: "512MB" }

const repeats = 20

/** The tags of event n, as rows. */
const tagRows = `
  SELECT 'tenant' AS tag, n FROM generate_series($1::bigint, $2) AS n
  UNION ALL SELECT 'kind:' || n % 100, n FROM generate_series($1::bigint, $2) AS n
  UNION ALL SELECT 'course:' || n / 10 % ${courses}, n FROM generate_series($1::bigint, $2) AS n WHERE n % 10 = 0
  UNION ALL SELECT 'rare', n FROM generate_series($1::bigint, $2) AS n WHERE n % ${rareEvery} = 0`

/** Fills the log in parts. The indexes of tags are made afterwards, as an import of 10^7 events would do it. */
const fill = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  const run = (statement: string, parameters: ReadonlyArray<unknown> = []) =>
    sql.unsafe(statement, parameters).unprepared
  const [constraint] = yield* sql<{ readonly index: string }>`
    SELECT indexrelid::regclass::text AS index FROM pg_index WHERE indrelid = 'events_tags'::regclass AND NOT indisprimary`
  yield* run(`DROP INDEX ${constraint?.index}`)
  yield* run("ALTER TABLE events_tags DROP CONSTRAINT events_tags_pkey")
  const part = 500_000
  for (let first = 1; first <= total; first += part) {
    const range = [first, Math.min(total, first + part - 1)]
    yield* run(
      `INSERT INTO events (id, aggregate_id, event_type, data, metadata)
       SELECT 'event-' || lpad(n::text, 12, '0'), 'aggregate-' || n / 10, CASE n % 20 WHEN 0 THEN 'Opened' ELSE 'Changed' END,
         '{"amount": 100, "note": "a payment like any other"}', 'null'
       FROM generate_series($1::bigint, $2) AS n ORDER BY n`,
      range
    )
    yield* run(`INSERT INTO events_tags (tag, version) ${tagRows}`, range)
    if (first % 5_000_000 === 1) yield* Console.log(`${range[1]} events are there`)
  }
  yield* run("ALTER TABLE events_tags ADD PRIMARY KEY (tag, version)")
  yield* run(`CREATE INDEX ${constraint?.index} ON events_tags ((version + 0))`)
  yield* run("VACUUM ANALYZE events")
  yield* run("VACUUM ANALYZE events_tags")
})

/** The same tags as an array of each event, with a GIN index, and its primary key beside it. */
const fillArrays = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  yield* sql.unsafe(
    `CREATE TABLE arrays AS
     SELECT version, ARRAY(SELECT tag FROM events_tags AS tagged WHERE tagged.version + 0 = event.version) AS tags
     FROM events AS event`
  ).unprepared
  yield* sql`ALTER TABLE arrays ADD PRIMARY KEY (version)`.unprepared
  yield* sql`CREATE INDEX arrays_tags ON arrays USING GIN (tags)`.unprepared
  yield* sql`VACUUM ANALYZE arrays`.unprepared
})

type Read = Parameters<EventStore.EventStore["Service"]["read"]>[0]

/** Reads, each of them with other values every time. */
const reads: ReadonlyArray<readonly [string, (n: number) => Read]> = [
  ["rare tag", () => ({ tags: ["rare"] })],
  ["rare tag, the first", () => ({ tags: ["rare"], limit: 1 })],
  ["course", (n) => ({ tags: [`course:${(n * 7) % courses}`] })],
  [
    "course, and a type of half of its events",
    (n) => ({ tags: [`course:${(n * 7) % courses}`], eventTypes: ["Opened"] })
  ],
  ["course and tenant", (n) => ({ tags: [`course:${(n * 7) % courses}`, "tenant"] })],
  [
    "kind, a page of 100",
    (n) => ({ tags: [`kind:${n % 100}`], after: BigInt(Math.floor((total * n) / 50)), limit: 100 })
  ],
  ["tenant, a page of 100", (n) => ({ tags: ["tenant"], after: BigInt(Math.floor((total * n) / 50)), limit: 100 })],
  ["tenant, the first", () => ({ tags: ["tenant"], limit: 1 })],
  ["tenant, the last", () => ({ tags: ["tenant"], limit: 1, direction: "backward" })],
  ["tenant, and a type of every twentieth, the first", () => ({ tags: ["tenant"], eventTypes: ["Opened"], limit: 1 })]
]

/** What is read of either table: a page of versions after another one. Of no value the planner knows how often it comes. */
const pages: ReadonlyArray<readonly [string, (n: number) => readonly [tag: string, after: number]]> = [
  ["rare tag", () => ["rare", 0]],
  ["course", (n) => [`course:${(n * 7) % courses}`, 0]],
  ["course, above a mark", (n) => [`course:${(n * 7) % courses}`, total - 100]],
  ["kind, a page of 100", (n) => [`kind:${n % 100}`, Math.floor((total * n) / 50)]],
  ["kind, above a mark", (n) => [`kind:${n % 100}`, total]],
  ["tenant, a page of 100", (n) => ["tenant", Math.floor((total * n) / 50)]]
]

/** The versions of both tables, and what it costs to add some. */
const comparePages = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  yield* sql`SET plan_cache_mode = force_generic_plan`
  const sides = [
    ["rows", "events_tags WHERE tag = $1::text"],
    ["array", "arrays WHERE tags @> ARRAY[$1::text]"]
  ] as const
  for (const [name, values] of pages) {
    for (const [side, where] of sides) {
      const page = `SELECT version FROM ${where} AND version > $2::bigint ORDER BY version LIMIT 100`
      const read = (n: number) => Effect.map(sql.unsafe(page, [...values(n)]), (rows) => rows.length)
      yield* measured(`${side}: ${name}`, side === "array" ? 3 : repeats, read)
    }
  }
  const tags = (n: number) => ["tenant", `kind:${n % 100}`, `course:${n % courses}`]
  yield* measured("rows: an event with three tags more", 1_000, (n) =>
    Effect.as(
      sql`INSERT INTO events_tags (tag, version) SELECT tag, ${total + 1 + n}::bigint FROM unnest(${tags(n)}::text[]) AS tag`,
      1
    )
  )
  yield* measured("array: an event with three tags more", 1_000, (n) =>
    Effect.as(sql`INSERT INTO arrays (version, tags) VALUES (${total + 1 + n}::bigint, ${tags(n)}::text[])`, 1)
  )
  yield* measured("array: course, after that", 3, (n) =>
    Effect.map(
      sql`SELECT version FROM arrays WHERE tags @> ARRAY[${`course:${(n * 7) % courses}`}::text]`,
      (rows) => rows.length
    )
  )
})

const program = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const sql = yield* PgClient.PgClient
  const start = yield* now
  yield* fill
  yield* Console.log(`${total} events with tags, filled in ${Math.round(((yield* now) - start) / 1000)} s`)
  for (const [name, read] of reads) {
    yield* measured(name, repeats, (n) => Stream.runCount(events.read(read(n))))
  }
  yield* measured("decision on a course of a tenant", repeats, (n) =>
    Effect.map(
      events.readForDecision([{ tags: [`course:${(n * 7) % courses}`, "tenant"] }]),
      ({ events }) => events.length
    )
  )
  const sizes = ["events", "events_tags"]
  if (options.gin) {
    yield* fillArrays
    yield* comparePages
    sizes.push("arrays")
  }
  for (const table of sizes) {
    const [size] = yield* sql<{ readonly table: string; readonly indexes: string }>`
      SELECT pg_size_pretty(pg_table_size(${table}::regclass)) AS "table", pg_size_pretty(pg_indexes_size(${table}::regclass)) AS indexes`
    yield* Console.log(`${table.padEnd(12)} ${size?.table}, its indexes ${size?.indexes}`)
  }
})

const main = Effect.gen(function* () {
  const { url, version } = yield* PostgresServer.make({ settings })
  yield* Console.log(
    `PostgreSQL ${version}, ${Object.entries(settings)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ")}`
  )
  const client = PgClient.layer({ url: Redacted.make(url), maxConnections: 1 })
  yield* program.pipe(Effect.provide(Layer.provideMerge(Postgres.layer(), client)))
})

NodeRuntime.runMain(Effect.scoped(main))
