/** Claims while a transaction holds a snapshot: the server keeps the index entries of all claimed messages for it. */
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
    spool.settle(messages.map((message) => ({ outcome: "done", ...SpoolStore.leaseOf(message, "owner") })))
  return { ...served, spool, claim, settle, table: `${served.schema}.strata_messages` }
})

it.effect("a claim does not read the index entries of messages that were claimed before it", () =>
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
        WHERE schemaname = ${schema} AND indexrelname = 'strata_messages_ready'`
      return Number(row?.["count"])
    })
    yield* spool.storeMany(numbered(0, 5000))
    const work = Effect.repeat(Effect.flatMap(claim, settle), { times: 19 })
    yield* work
    const before = yield* entries
    yield* work
    // 2000 messages have been claimed. Each of 20 claims reads the entries of the last 100 again. From the front of the
    // index it would read those of all of them, more than 2000.
    assert.isBelow((yield* entries) - before, 20 * 1000)
    yield* holder("COMMIT")
  })
)

it.effect("a claim finds older messages that become ready after the claims before it", () =>
  Effect.gen(function* () {
    const { claim, schema, spool, table } = yield* serve()
    const other = yield* serve(schema)
    const count = 1004
    yield* spool.storeMany(numbered(0, count))
    let next = 0
    /** Expects the next hundred messages: these, and then the next ones in the order in which they were stored. */
    const expect = (...first: ReadonlyArray<string>) =>
      Effect.map(claim, (messages) => {
        const rest = Math.min(limit - first.length, count - next)
        assert.deepStrictEqual(ids(messages), [...first, ...ids(numbered(next, rest))])
        next += rest
      })
    yield* expect()

    // Two older messages become ready without a word to this process: one is stored by a transaction that begins before a
    // claim and commits after it, another process moves the other one.
    const late = yield* session()
    yield* late("BEGIN")
    yield* late(
      `INSERT INTO ${table} (id, queue, state, max_attempts, next_retry, created) VALUES ('late', 'queue', 0, 9, now(), '2025-01-01')`
    )
    yield* expect()
    yield* late("COMMIT")
    yield* other.spool.moveToState({ queue, id: "m000007" }, "active", "incoming")
    yield* expect()
    // After a second, claims look at the whole queue again.
    yield* TestClock.adjust("1 second")
    yield* expect("late", "m000007")
    yield* expect()

    // A message of a higher priority does not wait for that second, whichever process stores it.
    yield* other.spool.storeMeta({ id: "urgent", queue, priority: 1 })
    yield* expect("urgent")
    yield* expect()

    // Nor does a message that this process stores with an older time of creation, or moves.
    yield* spool.storeMeta({ id: "old", queue, created: start })
    yield* expect("old")
    yield* expect()
    yield* spool.moveToState({ queue, id: "m000008" }, "active", "incoming")
    yield* expect("m000008")

    // A claim that finds fewer messages than it wants looks at the whole queue.
    yield* other.spool.moveToState({ queue, id: "m000009" }, "active", "incoming")
    yield* expect("m000009")
    assert.strictEqual(next, count)
    assert.deepStrictEqual(yield* claim, [])
  })
)

it.effect("a claim finds the messages that a transaction had claimed before it was rolled back", () =>
  Effect.gen(function* () {
    const { claim, spool, withTransaction } = yield* serve()
    yield* spool.storeMany(numbered(0, 300))
    yield* Effect.flip(withTransaction(Effect.andThen(claim, Effect.andThen(claim, Effect.fail("no")))))
    assert.deepStrictEqual(ids(yield* claim), ids(numbered(0, 100)))
  })
)
