/** What the console reads of large tables. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Postgres from "effect-strata/postgres"
import * as QueueLook from "../../src/console/QueueLook.ts"
import { execute, query } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { poolOf } from "./places.ts"
import { clientOf, serve, shared, storesOf } from "./serving.ts"

/** How many rows of these tables, and entries of their indexes, sessions that have ended have read. */
const readOf = Effect.fnUntraced(function* (url: string, ...tables: ReadonlyArray<string>) {
  const others = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'`
  yield* Effect.repeat(query(others, url), { until: ({ length }) => length === 0 })
  const named = tables.map((table) => `'${table}'::regclass`).join()
  const [row] = yield* query(
    `SELECT (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE relid IN (${named}))::float8,
       (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relid IN (${named}))::float8`,
    url
  )
  return Math.max(Number(row?.[0] ?? 0), Number(row?.[1] ?? 0))
})

/** A database with the tables of the stores, and nothing in them. */
const empty = Effect.gen(function* () {
  const url = yield* scratchDatabase()
  yield* Effect.scoped(Effect.flatMap(shared(poolOf(url)), (pool) => storesOf({ pool, options: {} })))
  return url
})

const messages = (values: string, from: number, to: number) =>
  `INSERT INTO strata_messages (queue, id, state, max_attempts, next_retry, created)
   SELECT ${values} FROM generate_series(${from}, ${to}) AS n`

it.live("a look at queues reads a part of what waits, and says which numbers are estimates", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const url = yield* empty
      yield* execute(
        [
          "ALTER TABLE strata_messages SET (autovacuum_enabled = off)",
          messages("'large', 'm' || n, 0, 3, now(), now() - n * interval '1 ms'", 1, 100_000),
          messages("'large', 'm' || n, 5, 3, now(), now()", 100_001, 200_000),
          messages("'small', 'm' || n, 0, 3, now(), now() - interval '1 hour'", 1, 7),
          messages("'small', 'm' || n, 2, 3, now() + interval '1 hour', now()", 8, 12),
          messages("'small', 'm' || n, 4, 3, now(), now()", 13, 15),
          `INSERT INTO retryspool_messages (id, state, attempts, max_attempts, next_retry, created, updated, size, priority, headers)
           SELECT 'r' || n, 0, 0, 3, now(), now(), now(), 0, 5, '{}' FROM generate_series(1, 4) AS n`,
          "VACUUM ANALYZE strata_messages"
        ],
        url
      )
      const before = yield* readOf(url, "strata_messages", "retryspool_messages")
      const looks = yield* Effect.scoped(
        Effect.gen(function* () {
          const pool = yield* shared(poolOf(url))
          const database = Layer.provide(Postgres.PostgresDatabase.layer({}), pool)
          return yield* Effect.provide(Effect.flatten(QueueLook.make), database)
        })
      )
      const read = (yield* readOf(url, "strata_messages", "retryspool_messages")) - before
      assert.isBelow(read, 40_000, "of 200,000 rows")
      const [none, large, small] = looks
      assert.deepInclude(none, { queue: undefined, estimated: [] })
      assert.strictEqual(none?.counts.incoming, 4)
      assert.deepInclude(large, { queue: "large", estimated: ["incoming"] })
      assert.isAbove(large?.counts.incoming ?? 0, 60_000)
      assert.isBelow(large?.counts.incoming ?? 0, 140_000)
      assert.deepInclude(small, { queue: "small", leased: 0, estimated: [] })
      assert.deepStrictEqual(small?.counts, { incoming: 7, active: 0, deferred: 5, hold: 0, bounce: 3 })
      assert.strictEqual(small?.oldestReady._tag, "Some")
    })
  )
)

it.live("a page of states by what they contain reads a part of the table", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const url = yield* empty
      yield* execute(
        [
          "ALTER TABLE states_store SET (autovacuum_enabled = off)",
          `INSERT INTO states_store (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
           SELECT 'state-' || lpad(n::text, 6, '0'), 1, convert_to('{"n":' || n || '}', 'UTF8'),
             CASE n WHEN 7 THEN 'Rare' ELSE 'Often' END, 0, 0 FROM generate_series(1, 100000) AS n`,
          "VACUUM ANALYZE states_store"
        ],
        url
      )
      const before = yield* readOf(url, "states_store")
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { states } = yield* clientOf(yield* serve(yield* shared(poolOf(url))))
          const rare = yield* states.states({ query: { manifest: "Rare" } })
          assert.deepStrictEqual(
            rare.states.map(({ persistenceId }) => persistenceId),
            ["state-000007"]
          )
          assert.strictEqual(rare.next, "state-005001")
          const absent = yield* states.states({ query: { text: '"n":5002}' } })
          assert.deepStrictEqual([absent.states.length, absent.next], [0, "state-005001"])
          const found = yield* states.states({ query: { text: '"n":5002}', from: absent.next ?? "" } })
          assert.deepStrictEqual(
            found.states.map(({ persistenceId }) => persistenceId),
            ["state-005002"]
          )
        })
      )
      assert.isBelow((yield* readOf(url, "states_store")) - before, 50_000)
    })
  )
)
