/**
 * What each index of the log costs an append: one log without it, and one with it, in turns.
 *
 * `node --conditions=@effect-strata/source test/bench/indexes.ts [--events 200000] [--rounds 15] [--compact]`
 *
 * Both logs are filled by plain SQL on a server of its own. A ratio is the time of appends to the log with the index divided by
 * the time of the same appends to the other one: the median of the rounds, and the range of half of them.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Console, Context, Effect, Layer, Redacted } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { parseArgs } from "node:util"
import * as PostgresServer from "../support/PostgresServer.ts"
import { now } from "./harness.ts"

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "200000" },
    rounds: { type: "string", default: "15" },
    compact: { type: "boolean", default: false }
  }
})
const total = Number(options.events)
const rounds = Number(options.rounds)

const settings = { shared_buffers: "1GB", max_wal_size: "8GB" }

const schemas = ["with", "without"] as const

type Events = EventStore.EventStore["Service"]

/** Aggregates of which each has its turn, and a few types. */
const eventAt = (n: number) => ({
  aggregateId: `account-${(n * 7919) % 10_000}`,
  eventType: n % 100 === 0 ? "Closed" : n % 3 === 0 ? "Withdrawn" : "Deposited",
  data: { amount: n, currency: "EUR", note: "a payment like any other" }
})

/** The ways to append, and how many events a round appends. */
const ways: ReadonlyArray<
  readonly [name: string, append: (events: Events, n: number) => Effect.Effect<unknown, unknown>]
> = [
  [
    "one by one",
    (events, n) =>
      Effect.forEach(
        Array.from({ length: 400 }, (_, k) => eventAt(n + k)),
        (one) => events.append(one),
        { discard: true }
      )
  ],
  [
    "1,000 at a time",
    (events, n) =>
      Effect.forEach(
        Array.from({ length: 8 }, (_, k) => k),
        (k) => events.append(Array.from({ length: 1000 }, (_, m) => eventAt(n + 1000 * k + m))),
        { discard: true }
      )
  ]
]

/** The indexes by what they are for: a part of their definition, and what makes those that are optional. */
const indexes: ReadonlyArray<readonly [purpose: string, form: string, made?: string]> = [
  ["aggregates", "(aggregate_id, "],
  ["types", "(event_type, "],
  ["times", "(((version >> 12)), "],
  ["data, an option", "USING gin", "USING gin (data jsonb_path_ops)"]
]

const fill = Effect.fnUntraced(function* (schema: string) {
  const sql = yield* PgClient.PgClient
  yield* sql.unsafe(
    `INSERT INTO "${schema}".events (id, aggregate_id, event_type, data)
     SELECT gen_random_uuid(), 'account-' || n * 7919 % 10000, CASE WHEN n % 100 = 0 THEN 'Closed' WHEN n % 3 = 0 THEN 'Withdrawn'
       ELSE 'Deposited' END, jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other')
     FROM generate_series(1, $1::bigint) AS n`,
    [total]
  ).unprepared
  yield* sql.unsafe(`VACUUM ANALYZE "${schema}".events`).unprepared
})

/** The statement that makes the index of a log, if it is there. */
const definitionOf = (schema: string, form: string) =>
  Effect.map(
    PgClient.PgClient.use(
      (sql) => sql<{ readonly name: string; readonly text: string }>`
        SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS text FROM pg_index
        WHERE indrelid = ${`"${schema}".events`}::regclass AND position(${form} IN pg_get_indexdef(indexrelid)) > 0`
    ),
    ([row]) => row
  )

const run = (statement: string) => PgClient.PgClient.use((sql) => sql.unsafe(statement).unprepared)

const quantile = (values: ReadonlyArray<number>, share: number) =>
  (values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) * share)] ?? Number.NaN).toFixed(2)

const compare = Effect.fnUntraced(function* (purpose: string, sides: readonly [Events, Events]) {
  for (const [name, append] of ways) {
    const ratios: Array<number> = []
    for (let round = -2; round < rounds; round++) {
      const spent = [0, 0]
      for (const side of round % 2 === 0 ? [0, 1] : [1, 0]) {
        const events = sides[side]
        if (events === undefined) continue
        const start = yield* now
        yield* append(events, (round + 2) * 10_000)
        spent[side] = (yield* now) - start
      }
      const [having = 0, lacking = 1] = spent
      // The first rounds warm up.
      if (round >= 0) ratios.push(having / lacking)
    }
    yield* Console.log(
      `${purpose.padEnd(16)} ${name.padEnd(16)} ${quantile(ratios, 0.5)} (${quantile(ratios, 0.25)}-${quantile(ratios, 0.75)})`
    )
  }
})

const program = Effect.gen(function* () {
  const [having, lacking] = yield* Effect.all(
    schemas.map((schema) =>
      Effect.map(
        Layer.build(Postgres.layer({ schema, ...(options.compact ? { layout: "compact" } : {}) })),
        (context) => Context.get(context, EventStore.EventStore)
      )
    )
  )
  if (having === undefined || lacking === undefined) return
  yield* Effect.forEach(schemas, fill, { discard: true })
  yield* compare("none", [having, lacking])
  for (const [purpose, form, made] of indexes) {
    if (made !== undefined) yield* run(`CREATE INDEX ON "with".events ${made}`)
    const index = yield* definitionOf("without", form)
    if (index !== undefined) yield* run(`DROP INDEX ${index.name}`)
    yield* compare(purpose, [having, lacking])
    if (index !== undefined) yield* run(index.text)
  }
})

const main = Effect.gen(function* () {
  const { url } = yield* PostgresServer.make({ settings })
  const client = PgClient.layer({ url: Redacted.make(url), maxConnections: 4 })
  yield* Effect.provide(program, client)
})

NodeRuntime.runMain(Effect.scoped(main))
