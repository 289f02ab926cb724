/**
 * What partitions cost: a plain log and one with partitions on one server, in alternating rounds, beside so many events.
 *
 * `node --conditions=@effect-strata/source test/bench/partitions.ts [--events 1000000] [--size 50000] [--rounds 9]`
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, Effect, Layer, Redacted, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { parseArgs } from "node:util"
import * as PostgresServer from "../support/PostgresServer.ts"
import { fibers, now } from "./harness.ts"

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "1000000" },
    size: { type: "string", default: "50000" },
    rounds: { type: "string", default: "9" }
  }
})
const total = Number(options.events)
const rounds = Number(options.rounds)
const aggregates = Math.max(1, Math.floor(total / 100))

type Events = EventStore.EventStore["Service"]

let count = 0

const event = (id?: string) => ({
  aggregateId: `new-${count++}`,
  eventType: "Changed",
  data: { amount: 100, note: "a payment like any other" },
  ...(id === undefined ? {} : { id })
})

const some = (n: bigint) => `aggregate-${(Number(n) * 7919) % aggregates}`

/** What is measured: how often a round does it, in how many fibers, and one of it. */
const loads: ReadonlyArray<
  readonly [string, number, number, (events: Events, n: bigint) => Effect.Effect<unknown, unknown>]
> = [
  ["append one", 1500, 1, (events) => events.append(event())],
  ["append one with an id of its own", 1500, 1, (events) => events.append(event(crypto.randomUUID()))],
  ["the same, 16 at once", 6400, 16, (events) => events.append(event(crypto.randomUUID()))],
  ["append to a new aggregate, expected none", 1000, 1, (events) => events.append(event(), { expected: "none" })],
  ["append 100", 60, 1, (events) => events.append(Array.from({ length: 100 }, () => event()))],
  ["get", 1000, 1, (events, n) => events.get(`event-${(Number(n) * 7919) % total}`)],
  ["load an aggregate of 100", 300, 1, (events, n) => events.loadByAggregate(some(n))],
  [
    "a page of 100",
    300,
    1,
    (events, n) => Stream.runDrain(events.read({ after: (n * 7919n) % BigInt(total), limit: 100 }))
  ],
  [
    "a page of 10 of a rare type",
    100,
    1,
    (events, n) => Stream.runDrain(events.read({ after: (n * 7919n) % BigInt(total), eventTypes: ["Rare"], limit: 10 }))
  ]
]

const fill = (schema: string) =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    // One statement cannot insert more than three partitions have.
    const part = Math.min(20_000, 2 * Number(options.size))
    for (let first = 0; first < total; first += part) {
      yield* sql.unsafe(
        `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data, metadata)
         SELECT 'event-' || n, 'aggregate-' || n % ${aggregates}, CASE n % 10000 WHEN 0 THEN 'Rare' ELSE 'Changed' END,
           '{"amount": 100, "note": "a payment like any other"}', 'null'
         FROM generate_series(${first}, ${Math.min(total, first + part) - 1}) AS n`
      ).unprepared
    }
    yield* sql.unsafe(`VACUUM ANALYZE ${schema}.events`).unprepared
  })

const median = (values: ReadonlyArray<number>) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const program = Effect.gen(function* () {
  const build = (schema: string, extras: Postgres.Options) =>
    Effect.map(Layer.build(Postgres.layer({ schema, ...extras })), (context) =>
      Context.get(context, EventStore.EventStore)
    )
  const plain = yield* build("plain", {})
  const divided = yield* build("divided", { partitions: { size: BigInt(options.size) } })
  yield* fill("plain")
  yield* fill("divided")
  yield* Console.log(`${total} events, partitions of ${options.size}`)
  for (const [name, operations, writers, load] of loads) {
    const timed = Effect.fnUntraced(function* (events: Events, times: number) {
      const start = yield* now
      yield* fibers(writers, (_, n) => load(events, n))(times)
      return ((yield* now) - start) / times
    })
    yield* timed(plain, operations / 4)
    yield* timed(divided, operations / 4)
    const millis: { readonly plain: Array<number>; readonly divided: Array<number> } = { plain: [], divided: [] }
    for (let round = 0; round < rounds; round++) {
      millis.plain.push(yield* timed(plain, operations))
      millis.divided.push(yield* timed(divided, operations))
    }
    const ratio = median(millis.plain.map((time, round) => time / (millis.divided[round] ?? Number.NaN)))
    yield* Console.log(
      `${name.padEnd(44)} plain ${median(millis.plain).toFixed(3)} ms, divided ${median(millis.divided).toFixed(3)} ms: ${ratio.toFixed(2)} times as fast`
    )
  }
  const sql = yield* PgClient.PgClient
  for (const schema of ["plain", "divided"]) {
    const [size] = yield* sql<{ readonly bytes: number }>`
      SELECT sum(pg_total_relation_size(oid))::float8 / (SELECT max(version) FROM ${sql.literal(schema)}.events)::float8 AS bytes
      FROM pg_class WHERE relnamespace = ${schema}::regnamespace AND relkind = 'r'`
    yield* Console.log(`${schema}: ${size?.bytes.toFixed(0)} bytes an event`)
  }
})

const main = Effect.gen(function* () {
  const { url, version } = yield* PostgresServer.make({ settings: { shared_buffers: "512MB", max_wal_size: "4GB" } })
  yield* Console.log(`PostgreSQL ${version}`)
  yield* program.pipe(Effect.provide(PgClient.layer({ url: Redacted.make(url), maxConnections: 20 })))
})

NodeRuntime.runMain(Effect.scoped(main))
