/**
 * How long the console's API takes to answer what each of its pages asks, beside a log of so many events and so many messages.
 *
 * `node --conditions=@effect-strata/source test/bench/console.ts [--events 5000000] [--messages 1000000]`
 *
 * The tables are filled by plain SQL on a server of its own. Each answer is asked for twenty times, after once that does not count:
 * the median and the slowest one are printed. No page is open meanwhile.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Effect, Redacted } from "effect"
import { parseArgs } from "node:util"
import { serve, shared, storesOf } from "../console/serving.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { now } from "./harness.ts"

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "1000000" },
    messages: { type: "string", default: "100000" }
  }
})
const [events, messages] = [Number(options.events), Number(options.messages)]

const settings = { shared_buffers: "1GB", max_wal_size: "8GB", maintenance_work_mem: "512MB" }

const rareEvery = Math.max(1, Math.floor(events / 10))

const fill = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  const start = yield* now
  const part = 500_000
  for (let first = 1; first <= events; first += part) {
    yield* sql.unsafe(
      `INSERT INTO events (id, aggregate_id, event_type, data, metadata)
       SELECT '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'account-' || n / 10,
         CASE WHEN n % ${rareEvery} = 0 THEN 'Rare' WHEN n % 100 = 0 THEN 'Closed' ELSE 'Deposited' END,
         jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other'), 'null'
       FROM generate_series($1::bigint, $2) AS n ORDER BY n`,
      [first, Math.min(events, first + part - 1)]
    ).unprepared
  }
  yield* sql.unsafe(
    `INSERT INTO strata_messages (queue, id, state, max_attempts, next_retry, created, last_error, payload)
     SELECT 'queue-' || n % 5, 'm' || n, CASE WHEN n % 100 = 0 THEN 4 WHEN n % 10 = 0 THEN 2 ELSE 0 END, 3,
       now() + (n % 600) * interval '1 s', now() - n * interval '10 ms',
       CASE WHEN n % 100 = 0 THEN 'mailbox unavailable' ELSE '' END, jsonb_build_object('order', n)
     FROM generate_series(1, $1::bigint) AS n`,
    [messages]
  ).unprepared
  yield* sql.unsafe(
    `INSERT INTO strata_messages (queue, id, state, max_attempts, next_retry, created)
     SELECT 'small', 'm' || n, n % 2 * 4, 3, now(), now() - interval '1 day' FROM generate_series(1, 100) AS n`
  ).unprepared
  yield* sql.unsafe(
    `INSERT INTO states_store (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
     SELECT 'account-' || n, 1, convert_to(jsonb_build_object('balance', n)::text, 'UTF8'), 'Account', 0, 0
     FROM generate_series(1, $1::bigint) AS n`,
    [Math.ceil(events / 10)]
  ).unprepared
  // Sixteen shards of a projection, at many places of the log.
  yield* sql.unsafe(
    `INSERT INTO offsets_store (projection_name, shard_number, current_offset, timestamp)
     SELECT 'balances', n, n * $1::bigint / 16, 0 FROM generate_series(0, 15) AS n`,
    [events]
  ).unprepared
  yield* sql`VACUUM ANALYZE`.unprepared
  yield* Console.log(`filled in ${Math.round(((yield* now) - start) / 1000)} s`)
})

/** What each page asks for, by the name of the page. */
const asked: ReadonlyArray<readonly [page: string, path: string]> = [
  ["all pages", "api/about"],
  ["overview", "api/history"],
  ["overview and spool, the queues", "api/queues"],
  ["overview and projections", "api/projections"],
  ["log", "api/events"],
  ["log, a rare type", "api/events?type=Rare"],
  ["log, of an aggregate", `api/events?aggregate=account-${Math.floor(events / 20)}`],
  ["log, by content, a part", "api/events?data=%7B%22amount%22%3A0%7D"],
  ["log, an event", `api/event?version=${Math.ceil(events / 2)}`],
  ["history of an aggregate", `api/aggregate?id=account-${Math.floor(events / 20)}`],
  ["what the log consists of", "api/stats"],
  ["projections, the offsets", "api/offsets"],
  ["processes", "api/processes"],
  ["spool, bounced", "api/messages?state=bounce"],
  ["spool, incoming of a queue", "api/messages?state=incoming&queue=queue-1"],
  ["spool, incoming of a small queue", "api/messages?state=incoming&queue=small"],
  ["spool, bounced of a small queue", "api/messages?state=bounce&queue=small"],
  ["spool, a message", "api/message?queue=queue-1&id=m1"],
  ["states", "api/states"],
  ["states, a text in them, a part", "api/states?text=nothing"],
  ["states, one", "api/state?id=account-7"],
  ["doctor, the first finding", "api/doctor/live"],
  ["doctor, all of them", "api/doctor"]
]

/** The path of which the first part is waited for: the page shows what is there. */
const streamed = "api/doctor/live"

const times = 20

const measure = Effect.fnUntraced(function* (url: string, page: string, path: string) {
  const spent: Array<number> = []
  let status = 0
  for (let n = 0; n <= times; n++) {
    const start = yield* now
    const response = yield* Effect.promise(() => fetch(`${url}${path}`))
    if (path === streamed) {
      const reader = response.body?.getReader()
      yield* Effect.promise(async () => reader?.read())
      if (n > 0) spent.push((yield* now) - start)
      yield* Effect.promise(async () => reader?.cancel())
    } else {
      yield* Effect.promise(() => response.arrayBuffer())
      if (n > 0) spent.push((yield* now) - start)
    }
    status = response.status
  }
  const inOrder = spent.toSorted((a, b) => a - b)
  const shown = [inOrder[Math.floor(times / 2)], inOrder.at(-1)].map((millis = Number.NaN) =>
    millis.toFixed(1).padStart(8)
  )
  yield* Console.log(`${page.padEnd(36)} ${shown.join(" ")} ms${status === 200 ? "" : `  answered with ${status}`}`)
})

const main = Effect.gen(function* () {
  const { url, version } = yield* PostgresServer.make({ settings })
  yield* Console.log(`PostgreSQL ${version}, ${events} events, ${messages} messages`)
  const pool = yield* shared(PgClient.layer({ url: Redacted.make(url), maxConnections: 8 }))
  yield* storesOf({ pool, options: {} })
  yield* Effect.provide(fill, pool)
  const console = yield* serve(pool)
  yield* Console.log(`${"".padEnd(36)}   median  slowest`)
  for (const [page, path] of asked) yield* measure(console, page, path)
})

NodeRuntime.runMain(Effect.scoped(main))
