/**
 * The comments on tables come while processes of the version before run: no transaction that is open holds them up, and they hold
 * up none.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { scratchDatabase } from "../support/database.ts"
import { session } from "./events.harness.ts"
import { assertWhole, execute, migrate, open, query, serve, shard } from "./harness.ts"
import { state } from "./states.harness.ts"

const comments = (url: string) =>
  Effect.map(
    query(
      `SELECT relname::text, objsubid, description FROM pg_description JOIN pg_class ON pg_class.oid = objoid
       WHERE classoid = 'pg_class'::regclass AND relnamespace = 'public'::regnamespace ORDER BY 1, 2`,
      url
    ),
    (rows) => rows.map((row) => row.join(" "))
  )

/** What makes the tables those of the version before. */
const undoComments = `DO $$
  DECLARE
      commented RECORD;
  BEGIN
      FOR commented IN SELECT objoid::regclass AS name, attname FROM pg_description
          LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid AND objsubid > 0
          WHERE classoid = 'pg_class'::regclass AND objoid::regclass::text !~ '[.]'
      LOOP
          IF commented.attname IS NULL THEN
              EXECUTE format('COMMENT ON TABLE %s IS NULL', commented.name);
          ELSE
              EXECUTE format('COMMENT ON COLUMN %s.%I IS NULL', commented.name, commented.attname);
          END IF;
      END LOOP;
      DELETE FROM strata_migrations WHERE file LIKE '%comments.sql';
  END $$`

const tables = [
  "events",
  "events_tags",
  "events_log",
  "events_mark",
  "offsets_store",
  "states_store",
  "strata_messages",
  "retryspool_messages"
]

/** A database without comments, and a process of the version before that writes into every table. */
const former = Effect.fnUntraced(function* () {
  const url = yield* scratchDatabase()
  yield* migrate(url, { schema: "public" })
  const expected = yield* comments(url)
  assert.isAbove(expected.length, 40)
  yield* execute([undoComments], url)
  assert.deepStrictEqual(yield* comments(url), [])
  const stores = yield* serve({ url, layer: Postgres.layerStorage, options: { schema: "public" } })
  const { events, offsets, spool, states } = stores
  const write = Effect.fnUntraced(function* (n: number) {
    const event = { id: `${n}`, aggregateId: "a", eventType: "T", data: n, tags: ["t"] }
    yield* events.append(event, { expected: BigInt(n) || "none" })
    yield* offsets.writeOffset({ projectionName: "p", shardNumber: 0, value: BigInt(n) })
    yield* states.writeState(state("s", BigInt(n) + 1n))
    for (const queue of [{ queue: "mails" }, {}]) {
      yield* spool.storeMeta({ id: `${n}`, payload: n, ...queue })
      assert.lengthOf(yield* spool.claim({ ...queue, limit: 1, lease: "1 minute", owner: "former" }), 1)
    }
  })
  /** What was written, and whether nothing has leaked. */
  const assertWritten = Effect.fnUntraced(function* (times: number) {
    assert.strictEqual(yield* shard(stores, "p").read, BigInt(times) - 1n)
    assert.lengthOf(yield* Stream.runCollect(events.read({ tags: ["t"] })), times)
    assert.deepStrictEqual(yield* comments(url), expected)
    yield* assertWhole(stores, url)
  })
  return { url, write, assertWritten, withTransaction: stores.transactor.withTransaction }
})

it.live("comments wait for no transaction that reads or writes, and it goes on afterwards", () =>
  Effect.gen(function* () {
    const { assertWritten, url, withTransaction, write } = yield* former()
    yield* write(0)
    const writing = yield* open(withTransaction, write(1))
    const reader = yield* session(url)
    yield* reader("BEGIN")
    for (const table of tables) yield* reader(`SELECT FROM ${table}`)
    yield* migrate(url, { schema: "public" })
    yield* reader("COMMIT")
    yield* writing.commit
    yield* write(2)
    yield* assertWritten(3)
  })
)

it.live("nobody who reads or writes waits for comments that are not committed yet", () =>
  Effect.gen(function* () {
    const { assertWritten, url, write } = yield* former()
    yield* write(0)
    // The migration can say only at its end that it was run.
    const holder = yield* session(url)
    yield* holder("BEGIN")
    yield* holder("LOCK strata_migrations IN EXCLUSIVE MODE")
    const migrating = yield* Effect.forkScoped(migrate(url, { schema: "public" }))
    const held = query(
      `SELECT DISTINCT relation::regclass::text FROM pg_locks
       WHERE locktype = 'relation' AND mode = 'ShareUpdateExclusiveLock' AND granted
         AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'strata_migrations'::regclass)`,
      url
    )
    const isCommented = (rows: ReadonlyArray<ReadonlyArray<unknown>>) =>
      tables.every((table) => rows.some(([name]) => name === table))
    yield* Effect.repeat(held, { until: isCommented })
    yield* write(1)
    const reader = yield* session(url)
    for (const table of tables) yield* reader(`SELECT FROM ${table}`)
    assert.deepStrictEqual(yield* comments(url), [])
    yield* holder("COMMIT")
    yield* Fiber.join(migrating)
    yield* assertWritten(2)
  })
)
