/** Claims while somebody holds a snapshot, for which the server keeps everything that has been claimed in its place. */
import { assert, it } from "@effect/vitest"
import { Context, DateTime, Effect } from "effect"
import { SpoolStore } from "effect-strata"
import { TestClock } from "effect/testing"
import { serveEvents, session } from "./events.harness.ts"

const queue = "queue"
const limit = 100
const ids = (messages: ReadonlyArray<{ readonly id: string }>) => messages.map(({ id }) => id)
const start = DateTime.makeUnsafe("2026-01-01T00:00:00Z")
const numbered = (from: number, count: number) =>
  Array.from({ length: count }, (_, index) => from + index).map((number) => ({
    id: `m${String(number).padStart(6, "0")}`,
    queue,
    created: DateTime.add(start, { milliseconds: number })
  }))

const serve = Effect.fnUntraced(function* (schema?: string) {
  const served = yield* serveEvents({
    client: { maxConnections: 1 },
    ...(schema === undefined ? {} : { options: { schema } })
  })
  const spool = Context.get(served.context, SpoolStore.SpoolStore)
  const claim = spool.claim({ queue, limit, lease: "1 minute", owner: "owner" })
  const settle = (messages: ReadonlyArray<SpoolStore.SpoolMessage>) =>
    spool.settle(messages.map(({ attempts: attempt, id }) => ({ outcome: "done", id, owner: "owner", attempt })))
  return { ...served, spool, claim, settle, table: `${served.schema}.retryspool_messages` }
})

it.effect("a claim does not look at what has been claimed before it", () =>
  Effect.gen(function* () {
    const { claim, schema, settle, spool, sql } = yield* serve()
    const holder = yield* session()
    yield* holder("BEGIN ISOLATION LEVEL REPEATABLE READ")
    yield* holder("SELECT txid_current()")
    /** How many entries of the index have been read so far. */
    const entries = Effect.gen(function* () {
      yield* sql`SELECT pg_stat_force_next_flush()`
      const [row] = yield* sql`
        SELECT idx_tup_read AS count FROM pg_stat_user_indexes
        WHERE schemaname = ${schema} AND indexrelname = 'retryspool_messages_ready'`
      return Number(row?.["count"])
    })
    yield* spool.storeMany(numbered(0, 5000))
    const work = Effect.repeat(Effect.flatMap(claim, settle), { times: 19 })
    yield* work
    const before = yield* entries
    yield* work
    // 2000 have been claimed, the last 100 of them are read again, and more than 2000 would be, at each of 20 claims.
    assert.isBelow((yield* entries) - before, 20 * 1000)
    yield* holder("COMMIT")
  })
)

it.effect("and misses nothing that is older and becomes ready after it", () =>
  Effect.gen(function* () {
    const { claim, schema, spool, table } = yield* serve()
    const other = yield* serve(schema)
    const count = 1004
    yield* spool.storeMany(numbered(0, count))
    let next = 0
    /** The next hundred: these, and then those that come in the order in which they were stored. */
    const expect = (...first: ReadonlyArray<string>) =>
      Effect.map(claim, (messages) => {
        const rest = Math.min(limit - first.length, count - next)
        assert.deepStrictEqual(ids(messages), [...first, ...ids(numbered(next, rest))])
        next += rest
      })
    yield* expect()

    // In a transaction that begins before a claim, and ends after it; and given back by somebody else.
    const late = yield* session()
    yield* late("BEGIN")
    yield* late(
      `INSERT INTO ${table} (id, queue, state, max_attempts, next_retry, created) VALUES ('late', 'queue', 0, 9, now(), '2025-01-01')`
    )
    yield* expect()
    yield* late("COMMIT")
    yield* other.spool.moveToState("m000007", "active", "incoming")
    yield* expect()
    // After a second they are in their turn.
    yield* TestClock.adjust("1 second")
    yield* expect("late", "m000007")
    yield* expect()

    // What is urgent does not wait, whoever stores it.
    yield* other.spool.storeMeta({ id: "urgent", queue, priority: 1 })
    yield* expect("urgent")
    yield* expect()

    // Nor does what this process stores with a time of its own, or gives back.
    yield* spool.storeMeta({ id: "old", queue, created: start })
    yield* expect("old")
    yield* expect()
    yield* spool.moveToState("m000008", "active", "incoming")
    yield* expect("m000008")

    // Where there is less than is wanted, all of it is found.
    yield* other.spool.moveToState("m000009", "active", "incoming")
    yield* expect("m000009")
    assert.strictEqual(next, count)
    assert.deepStrictEqual(yield* claim, [])
  })
)

it.effect("and knows nothing of what a transaction has claimed that was rolled back", () =>
  Effect.gen(function* () {
    const { claim, spool, withTransaction } = yield* serve()
    yield* spool.storeMany(numbered(0, 300))
    yield* Effect.flip(withTransaction(Effect.andThen(claim, Effect.andThen(claim, Effect.fail("no")))))
    assert.deepStrictEqual(ids(yield* claim), ids(numbered(0, 100)))
  })
)
