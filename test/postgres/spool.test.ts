/** What the spool is on a server: adopted tables, plans, roles, names, connections, other processes. */
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Fiber, Latch, Logger, Queue, Schema, Stream } from "effect"
import { Spool, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { postgresUrl, waitForBackends } from "../support/database.ts"
import { execute, failsWith, freshRole, freshSchema, query, shape, unique } from "./harness.ts"
import { retrySpool, serveSpool } from "./spool.harness.ts"

const files = [
  "0004_spool.sql",
  "0024_spool_claim.sql",
  "0025_spool_lease.sql",
  "0016_messages.sql",
  "0026_messages_claim.sql",
  "0018_spool_queues_own.sql",
  "0047_spool_indexes_concurrently.sql",
  "0068_messages_index_concurrently.sql"
].map((file) => fileURLToPath(new URL(`../../resources/postgres/${file}`, import.meta.url)))

/** The two tables, as messages name them by their queue. */
const kinds = [
  { what: "RetrySpool's table", table: "retryspool_messages", queue: {} },
  { what: "the table of queues", table: "strata_messages", queue: { queue: "mails" } }
] as const

describe("the table", () => {
  it.live.each([true, false])(
    "of RetrySpool is adopted with its messages (policies: %s), and shared with it",
    (policy) =>
      Effect.gen(function* () {
        const schema = yield* freshSchema()
        yield* retrySpool(schema, policy)
        const rows = query(
          `SELECT id, state, attempts, next_retry::text, created::text, last_error, size, headers::text, ctid::text, xmin::text
         FROM ${schema}.retryspool_messages ORDER BY 1`
        )
        const before = yield* rows
        const { spool, sql, table } = yield* serveSpool({ options: { schema } })
        assert.deepStrictEqual(yield* rows, before)
        const { created, nextRetry, updated, ...fresh } = yield* spool.getMeta("go-new")
        assert.deepStrictEqual(fresh, {
          id: "go-new",
          state: "incoming",
          attempts: 0,
          maxAttempts: 3,
          lastError: "",
          size: 42n,
          priority: 0,
          headers: {},
          retryPolicyName: ""
        })
        assert.strictEqual(DateTime.formatIso(created), "2025-08-16T22:00:00.123Z")
        assert.strictEqual(DateTime.formatIso(nextRetry), "0001-01-01T00:00:00.000Z")
        assert.deepStrictEqual(updated, created)
        // `updated` was read in milliseconds, of a row that has microseconds.
        yield* spool.updateMeta("go-new", { lastError: "seen" }, { ifUpdated: updated })
        const pages = yield* Stream.runCollect(spool.iterate("incoming", { batchSize: 1 }))
        assert.deepStrictEqual(
          pages.map(({ id }) => id),
          ["go-new"]
        )
        assert.deepStrictEqual(
          (yield* spool.recover()).map(({ id }) => id),
          ["go-active"]
        )
        const claimed = yield* spool.claim({ limit: 10, lease: "1 minute", owner: "ts" })
        assert.deepStrictEqual(
          claimed.map(({ id, priority, state }) => [id, priority, state]),
          [
            ["go-new", 0, "active"],
            ["go-due", 5, "active"],
            ["go-active", 15, "active"]
          ]
        )
        assert.deepStrictEqual(
          yield* spool.settle([
            {
              outcome: "deferred",
              id: "go-due",
              owner: "ts",
              attempt: 2,
              delay: "1 hour",
              error: "",
              headers: { a: "b" }
            }
          ]),
          []
        )
        yield* spool.storeMeta({ id: "ts-new", payload: { a: 1 }, headers: { b: "c" } })

        // RetrySpool's own statements: no column that it scans into a Go string is NULL in what was written here.
        const read = (id: string) =>
          Effect.map(
            sql.unsafe(
              `SELECT state, attempts, max_attempts, last_error, size, priority, headers::text
             FROM ${table} WHERE id = $1`,
              [id]
            ).values,
            ([row]) => row
          )
        assert.deepStrictEqual(yield* read("ts-new"), [0, 0, 10, "", 7n, 5, `{"b": "c"}`])
        assert.deepStrictEqual(yield* read("go-due"), [2, 2, 3, "", 7n, 5, `{"a": "b", "to": "anna"}`])
        yield* sql.unsafe(
          `INSERT INTO ${table} (id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers)
         VALUES ('go-later', 0, 0, 3, now(), now(), now(), '', 0, 5, 'null')`
        )
        yield* sql.unsafe(`UPDATE ${table} SET state = 1, updated = now() WHERE id = 'ts-new' AND state = 0`)
        const [later] = yield* spool.claim({ limit: 10, lease: "1 minute", owner: "ts" })
        assert.strictEqual(later?.id, "go-later")
        assert.strictEqual((yield* spool.getMeta("ts-new")).state, "active")
      })
  )

  it.live("has the indexes and settings of a queue, and stays as it is when the migration runs again", () =>
    Effect.gen(function* () {
      const { schema, table } = yield* serveSpool()
      const before = yield* shape(postgresUrl, table)
      assert.strictEqual(before.filter(([, definition]) => String(definition).startsWith("CREATE")).length, 4)
      const options = query(`SELECT reloptions::text FROM pg_class WHERE oid = '${table}'::regclass`)
      assert.match(String((yield* options)[0]?.[0]), /fillfactor=70.*autovacuum_vacuum_scale_factor=0.01/)
      yield* execute([`ALTER TABLE ${table} SET (fillfactor = 50)`, `DELETE FROM ${schema}.strata_migrations`])
      yield* serveSpool({ options: { schema } })
      assert.deepStrictEqual(yield* shape(postgresUrl, table), before)
      assert.match(String((yield* options)[0]?.[0]), /fillfactor=50/)
    })
  )

  it.live("is refused where a table of that name is no spool", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* execute([`CREATE SCHEMA ${schema}`, `CREATE TABLE ${schema}.retryspool_messages (id TEXT, state INTEGER)`])
      yield* failsWith(serveSpool({ options: { schema } }), "Postgres.migrate", "Unexpected", /is no spool of messages/)
    })
  )

  it.live.each(["My messages", `we"ird'; DROP`, "é".repeat(28), "x".repeat(57), "a$do$b$body$"])(
    "can have the name %s",
    (name) =>
      Effect.gen(function* () {
        const { spool } = yield* serveSpool({ options: { schema: yield* freshSchema(), tables: { spool: name } } })
        yield* spool.storeMeta({ id: "a" })
        assert.strictEqual((yield* spool.claim({ limit: 1, lease: "1 minute", owner: "o" })).length, 1)
      })
  )

  it.live("needs no more than SELECT, INSERT, UPDATE and DELETE from a role that only uses it", () =>
    Effect.gen(function* () {
      const { schema, table } = yield* serveSpool()
      const { role, url } = yield* freshRole()
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT SELECT, INSERT, UPDATE, DELETE ON ${table}, ${schema}.strata_messages TO ${role}`
      ])
      const client = { startupParameters: { search_path: "nowhere" } }
      const { spool } = yield* serveSpool({ url, client, options: { schema }, layer: Postgres.layerStorage })
      yield* spool.storeMeta({ id: "a" })
      const [message] = yield* spool.claim({ limit: 1, lease: 0, owner: "o" })
      assert.strictEqual(message?.id, "a")
      yield* spool.recover()
      yield* spool.deleteMeta("a")
      yield* spool.storeMeta({ queue: "mails", id: "a", rememberId: "1 hour" })
      const [mail] = yield* spool.claim({ queue: "mails", limit: 1, lease: 0, owner: "o" })
      if (mail === undefined) return assert.fail("not claimed")
      assert.deepStrictEqual(yield* spool.settle([{ outcome: "done", ...SpoolStore.leaseOf(mail, "o") }]), [])
      yield* spool.forgetIds()
    })
  )

  it.live("that was never migrated makes every operation fail with SchemaMissing", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const { spool } = yield* serveSpool({ options: { schema }, layer: Postgres.layerStorage })
      yield* failsWith(spool.ping, "SpoolStore.ping", "SchemaMissing", /run the migrations/)
      const claim = spool.claim({ limit: 1, lease: 0, owner: "o" })
      yield* failsWith(claim, "SpoolStore.claim", "SchemaMissing", /run the migrations/)
    })
  )

  it.live("with a row that another program has broken makes the read fail with the name of the row", () =>
    Effect.gen(function* () {
      const { spool, table } = yield* serveSpool()
      yield* spool.storeMeta({ id: "broken", payload: 1 })
      for (const [change, says] of [
        ["state = 9", "state: Expected"],
        [`state = 0, headers = '{"a": 1}'`, "headers.a: Expected string"],
        [`headers = '{}', payload = '12345678901234567890'`, "JavaScript cannot hold the number 12345678901234567890"]
      ] as const) {
        yield* execute([`UPDATE ${table} SET ${change}`])
        const says_ = new RegExp(`row broken of retryspool_messages does not fit the model .*${says}`)
        yield* failsWith(spool.getMeta("broken"), "SpoolStore.getMeta", "CorruptRow", says_)
      }
    })
  )

  it.live("with a row that another program has broken bounces that message, and workers get the others", () =>
    Effect.gen(function* () {
      const { spool, table } = yield* serveSpool()
      yield* spool.storeMany([{ id: "broken" }, { id: "whole" }])
      yield* execute([`UPDATE ${table} SET headers = '{"a": 1}' WHERE id = 'broken'`])
      const claim = spool.claim({ limit: 10, lease: 0, owner: "o" })
      assert.deepStrictEqual(
        (yield* claim).map(({ id }) => id),
        ["whole"]
      )
      const [row] = yield* query(`SELECT state, last_error FROM ${table} WHERE id = 'broken'`)
      assert.strictEqual(row?.[0], 4)
      assert.match(String(row?.[1]), /row broken of retryspool_messages does not fit the model .*headers.a/)
      yield* execute([`UPDATE ${table} SET state = 1 WHERE id = 'broken'`])
      assert.deepStrictEqual(
        (yield* spool.recover({ grace: 0 })).map(({ id }) => id),
        ["whole"]
      )
      assert.deepStrictEqual(
        (yield* claim).map(({ id }) => id),
        ["whole"]
      )
    })
  )

  it.live.skipIf(spawnSync("psql", ["--version"]).status !== 0)("can be made by hand, with psql, twice", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* execute([`CREATE SCHEMA ${schema}`])
      for (const name of [undefined, undefined, `My "messages"`]) {
        const given = name === undefined ? [] : ["-v", `spool=${name}`]
        const args = ["-X", "-v", "ON_ERROR_STOP=1", ...given, "-c", `SET search_path TO ${schema}`]
        const inOrder = files.flatMap((file) => ["-f", file])
        const { status, stderr } = spawnSync("psql", [...args, ...inOrder, postgresUrl], { encoding: "utf8" })
        assert.strictEqual(status, 0, stderr)
        const options = { schema, tables: { spool: name ?? "retryspool_messages" } }
        const { spool } = yield* serveSpool({ options, layer: Postgres.layerStorage })
        yield* spool.storeMeta({ id: crypto.randomUUID() })
        assert.isAbove((yield* spool.claim({ limit: 1, lease: "1 minute", owner: "o" })).length, 0)
      }
    })
  )
})

describe("statements", () => {
  it.live.each(kinds)(
    "of a worker never read the whole of $what, whatever the statistics say",
    ({ queue, table: name }) =>
      Effect.gen(function* () {
        const { schema, spool, sql } = yield* serveSpool({ client: { maxConnections: 1 } })
        const table = `${schema}.${name}`
        const scans = Effect.gen(function* () {
          yield* sql`SELECT pg_stat_force_next_flush()`
          const [row] = yield* query(
            `SELECT t.seq_scan, i.idx_tup_read FROM pg_stat_user_tables AS t JOIN pg_stat_user_indexes AS i USING (relid)
             WHERE relid = '${table}'::regclass AND indexrelname = '${name}_pkey'`
          )
          return { scans: row?.[0], entries: Number(row?.[1]) }
        })
        // The plans that are made for an empty table are the ones that may read the whole table later.
        const work = Effect.gen(function* () {
          const owner = crypto.randomUUID()
          const messages = yield* spool.claim({ ...queue, limit: 20, lease: "1 minute", owner })
          const leases = messages.map((message) => SpoolStore.leaseOf(message, owner))
          yield* spool.heartbeat(leases, "1 minute")
          const [first, ...rest] = leases
          if (first !== undefined) {
            yield* spool.settle([{ outcome: "deferred", ...first, delay: 0, error: "" }])
            yield* spool.settle(rest.map((lease) => Object.assign({ outcome: "done" as const }, lease)))
          }
          yield* spool.untilReady("queue" in queue ? queue.queue : undefined)
          yield* spool.recover(queue)
        })
        yield* Effect.repeat(work, { times: 9 })
        yield* spool.storeMany(
          Array.from({ length: 20_000 }, (_, n) => ({ ...queue, id: `${n}`, ...(n % 2 ? { delay: 0 } : {}) }))
        )
        const before = yield* scans
        yield* Effect.repeat(work, { times: 9 })
        const after = yield* scans
        assert.strictEqual(after.scans, before.scans)
        // Ten claims of 20 messages, each of which is looked up a few times. The key of the table of queues begins with the
        // queue: a statement that looks for something in the queue by it reads 20,000 entries.
        assert.isBelow(after.entries - before.entries, 10_000)
      })
  )

  it.live("that look for the messages of a queue in a state do not read all messages of the queue", () =>
    Effect.gen(function* () {
      const { schema, spool: filling } = yield* serveSpool()
      // Without statistics the planner takes the queue for a small one, also where it reads the key of the whole queue.
      yield* execute([`ALTER TABLE ${schema}.strata_messages SET (autovacuum_enabled = off)`])
      const messages = (queue: string, count: number, state: "incoming" | "active") =>
        filling.storeMany(Array.from({ length: count }, (_, n) => ({ queue, id: `${n}`, state })))
      yield* messages("mails", 10_000, "incoming")
      yield* messages("other", 100, "active")
      const { spool, sql } = yield* serveSpool({
        options: { schema },
        layer: Postgres.layerStorage,
        client: { maxConnections: 1 }
      })
      const entries = Effect.gen(function* () {
        yield* sql`SELECT pg_stat_force_next_flush()`
        const [row] = yield* query(
          `SELECT idx_tup_read FROM pg_stat_user_indexes WHERE relid = '${schema}.strata_messages'::regclass
           AND indexrelname = 'strata_messages_pkey'`
        )
        return Number(row?.[0])
      })
      const before = yield* entries
      yield* spool.untilReady("mails")
      yield* spool.recover({ queue: "mails" })
      yield* spool.purge({ state: "archived", queue: "mails", olderThan: 0 })
      yield* spool.listMessages("active", { queue: "mails" })
      assert.strictEqual((yield* entries) - before, 0)
    })
  )

  it.live.each(kinds)(
    "look messages of $what up by their keys, also where statistics say that none is active",
    (kind) =>
      Effect.gen(function* () {
        const { queue, table: name } = kind
        const { schema, spool, sql } = yield* serveSpool({ client: { maxConnections: 1 } })
        const table = `${schema}.${name}`
        yield* spool.storeMany(Array.from({ length: 2000 }, (_, n) => ({ ...queue, id: `${n}` })))
        yield* sql.unsafe(`ANALYZE ${table}`).unprepared
        const scans = Effect.gen(function* () {
          yield* sql`SELECT pg_stat_force_next_flush()`
          return yield* query(
            `SELECT idx_scan FROM pg_stat_user_indexes
           WHERE relid = '${table}'::regclass AND indexrelname = '${name}_state'`
          )
        })
        const before = yield* scans
        for (let round = 0; round < 8; round++) {
          const owner = `${round}`
          const messages = yield* spool.claim({ ...queue, limit: 20, lease: "1 minute", owner })
          const leases = messages.map((message) => SpoolStore.leaseOf(message, owner))
          yield* spool.heartbeat(leases, "1 minute")
          const [first, ...rest] = leases.map((lease) => Object.assign({ outcome: "done" as const }, lease))
          yield* spool.settle(rest)
          if (first !== undefined) yield* spool.settle([{ ...first, outcome: "archived" }])
        }
        assert.deepStrictEqual(yield* scans, before)
      })
  )

  it.live.each(kinds)("that renew leases touch no index of $what", ({ queue, table: name }) =>
    Effect.gen(function* () {
      const { schema, spool, sql } = yield* serveSpool({ client: { maxConnections: 1 } })
      const table = `${schema}.${name}`
      yield* spool.storeMany(Array.from({ length: 100 }, (_, n) => ({ ...queue, id: `${n}` })))
      const messages = yield* spool.claim({ ...queue, limit: 100, lease: "1 minute", owner: "o" })
      const leases = messages.map((message) => SpoolStore.leaseOf(message, "o"))
      const updates = Effect.gen(function* () {
        yield* sql`SELECT pg_stat_force_next_flush()`
        const [row] = yield* query(
          `SELECT n_tup_upd::int, n_tup_hot_upd::int FROM pg_stat_user_tables WHERE relid = '${table}'::regclass`
        )
        return row?.map(Number) ?? []
      })
      // Room is made on a page only once no transaction of the server, in whichever database, is older than the claim.
      const isOldest = query(
        `SELECT FROM ${table} HAVING max(xmin::text::bigint) < pg_snapshot_xmin(pg_current_snapshot())::text::bigint`
      )
      yield* Effect.repeat(isOldest, { until: (rows) => rows.length > 0 })
      const [all = 0, hot = 0] = yield* updates
      yield* spool.heartbeat(leases, "1 minute")
      const [allAfter = 0, hotAfter = 0] = yield* updates
      assert.strictEqual(allAfter - all, 100)
      // An update whose page is full cannot be a HOT one. With an index on the lease none could.
      assert.isAtLeast(hotAfter - hot, 50)
    })
  )

  it.live("that find nothing to change leave no connection behind", () =>
    Effect.gen(function* () {
      const applicationName = yield* unique
      const { spool } = yield* serveSpool({ client: { maxConnections: 2, applicationName } })
      yield* spool.storeMeta({ id: "a" })
      yield* Effect.forEach(
        Array.from({ length: 100 }, (_, n) => n),
        (n) =>
          Effect.all([
            Effect.flip(spool.moveToState("a", "hold", "bounce")),
            Effect.flip(spool.updateMeta("a", {}, { ifUpdated: DateTime.makeUnsafe(n) })),
            Effect.flip(spool.updateMeta("b", {})),
            Effect.flip(spool.deleteMeta("b")),
            Effect.flip(spool.storeMeta({ id: "a" }))
          ]),
        { concurrency: 10 }
      )
      assert.strictEqual((yield* spool.getMeta("a")).state, "incoming")
      const isIdle = (all: ReadonlyArray<{ readonly state: string }>) => all.every(({ state }) => state === "idle")
      const backends = yield* waitForBackends(applicationName, isIdle)
      assert.isAtMost(backends.length, 2)
      assert.isTrue(isIdle(backends))
    })
  )
})

describe("another process", () => {
  it.live("hears of what was stored here", () =>
    Effect.gen(function* () {
      const here = yield* serveSpool()
      const there = yield* serveSpool({ options: { schema: here.schema } })
      const heard = yield* Queue.unbounded<void>()
      yield* Effect.forkScoped(Stream.runForEach(there.spool.changes, () => Queue.offer(heard, undefined)))
      yield* Queue.take(heard)
      yield* here.withTransaction(here.spool.storeMeta({ id: "a" }))
      yield* Queue.take(heard)
      assert.strictEqual((yield* there.spool.getMeta("a")).id, "a")
    })
  )

  it.live("that moves a message by plain SQL takes its lease away", () =>
    Effect.gen(function* () {
      const { spool, table } = yield* serveSpool()
      yield* spool.storeMany([{ id: "a" }, { id: "b" }])
      yield* spool.claim({ limit: 2, lease: "1 minute", owner: "o" })
      yield* execute([`UPDATE ${table} SET state = 3 WHERE id = 'a'`])
      const lease = { id: "a", owner: "o", attempt: 1 }
      assert.deepStrictEqual(
        yield* spool.settle([
          { outcome: "done", ...lease },
          { outcome: "done", ...lease, id: "b" }
        ]),
        [new SpoolStore.LeaseLost(lease)]
      )
      assert.strictEqual((yield* spool.getMeta("a")).state, "hold")
    })
  )

  it.live("that takes a claimed message by RetrySpool's statements keeps it: no lease of ours comes back", () =>
    Effect.gen(function* () {
      const { spool, sql, table } = yield* serveSpool()
      const ids = ["changed", "recovered", "requeued", "taken"]
      yield* spool.storeMany(ids.map((id) => ({ id })))
      yield* spool.claim({ limit: 4, lease: "1 minute", owner: "o" })
      const leases = ids.map((id) => ({ id, owner: "o", attempt: 1 }))
      /** RetrySpool's `MoveToState`. */
      const move = (id: string, from: number, to: number) =>
        sql.unsafe(`UPDATE ${table} SET state = $1, updated = now() WHERE id = $2 AND state = $3`, [to, id, from])
      // Its recovery, and then its scheduler; with a pause of a deferred message in between; its recovery alone.
      yield* Effect.all([move("taken", 1, 0), move("taken", 0, 1)])
      yield* Effect.all([move("requeued", 1, 2), move("requeued", 2, 0), move("requeued", 0, 1)])
      yield* move("recovered", 1, 0)
      // What we change of a claimed message ourselves costs no lease, nor does what RetrySpool changes beside the state.
      yield* spool.updateMeta("changed", { lastError: "seen", headers: { a: "b" } })
      yield* sql.unsafe(
        `UPDATE ${table} SET state = 1, attempts = 1, priority = 3, updated = now() WHERE id = 'changed'`
      )
      const lost = leases.slice(1).map((lease) => new SpoolStore.LeaseLost(lease))
      assert.deepStrictEqual(yield* spool.heartbeat(leases, "1 minute"), lost)
      assert.deepStrictEqual(
        yield* spool.settle(leases.map((lease) => Object.assign({ outcome: "done" as const }, lease))),
        lost
      )
      assert.deepStrictEqual(
        yield* Effect.forEach(ids.slice(1), (id) => Effect.map(spool.getMeta(id), ({ state }) => state)),
        ["incoming", "active", "active"]
      )
      assert.strictEqual((yield* Effect.flip(spool.getMeta("changed")))._tag, "MessageNotFound")
      // RetrySpool has no lease: its claims are given up after their time, as ever, and then they are claimed anew.
      assert.strictEqual((yield* spool.recover()).length, 0)
      assert.strictEqual((yield* spool.recover({ grace: 0 })).length, 2)
      const again = yield* spool.claim({ limit: 4, lease: "1 minute", owner: "o" })
      assert.deepStrictEqual(
        yield* spool.settle(
          again.map(({ attempts, id }) => ({ outcome: "done" as const, id, owner: "o", attempt: attempts }))
        ),
        []
      )
    })
  )
})

/**
 * A spool, and `together`: while a transaction holds the message "b" by the SQL, it starts both effects and waits until both
 * wait for a lock, and then looks at something. If one of them had locked what comes before that message, and the other what comes
 * after it, each would then wait for the other. Returns their results.
 */
const crossing = Effect.gen(function* () {
  const applicationName = yield* unique
  const served = yield* serveSpool({ client: { applicationName } })
  const { sql, withTransaction } = served
  const bothWait = (all: ReadonlyArray<{ readonly state: string }>) =>
    all.filter(({ state }) => state === "active").length === 2
  const together = Effect.fnUntraced(function* <A, E>(
    holding: string,
    effects: ReadonlyArray<Effect.Effect<A, E>>,
    look: Effect.Effect<unknown, unknown> = Effect.void
  ) {
    const held = yield* Latch.make()
    const release = yield* Latch.make()
    const hold = sql.unsafe(holding).pipe(Effect.andThen(held.open), Effect.andThen(release.await))
    const holder = yield* Effect.forkScoped(withTransaction(hold))
    yield* held.await
    const fibers = yield* Effect.forEach(effects, (effect) => Effect.forkScoped(effect))
    assert.isTrue(bothWait(yield* waitForBackends(applicationName, bothWait)))
    yield* look
    yield* release.open
    yield* Fiber.join(holder)
    return yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
  })
  return { ...served, together }
})

describe("two settlements", () => {
  it.live("of the same messages in different orders do not block each other in a circle", () =>
    Effect.gen(function* () {
      const { spool } = yield* serveSpool({ client: { maxConnections: 10 } })
      const ids = Array.from({ length: 200 }, (_, n) => `${n}`)
      yield* spool.storeMany(ids.map((id) => ({ id })))
      yield* spool.claim({ limit: 200, lease: "1 minute", owner: "o" })
      const outcomes = ids.map((id) => ({ outcome: "bounced" as const, id, owner: "o", attempt: 1, error: "" }))
      const fibers = yield* Effect.forEach([outcomes, outcomes.toReversed(), outcomes, outcomes.toReversed()], (some) =>
        Effect.forkChild(spool.settle(some))
      )
      const lost = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      // Each message is settled by one of the four, and lost for the three others.
      assert.strictEqual(lost.flat().length, 3 * 200)
    })
  )

  it.live("lock the messages in the order of their ids in transactions, whichever order they were given in", () =>
    Effect.gen(function* () {
      const { spool, table, together, withTransaction } = yield* crossing
      const ids = ["a", "b", "c"]
      yield* spool.storeMany(ids.map((id) => ({ id })))
      yield* spool.claim({ limit: 3, lease: "1 minute", owner: "o" })
      const outcomes = ids.map((id) => ({ outcome: "done" as const, id, owner: "o", attempt: 1 }))
      const lost = yield* together(
        `SELECT FROM ${table} WHERE id = 'b' FOR UPDATE`,
        [withTransaction(spool.settle(outcomes)), withTransaction(spool.settle(outcomes.toReversed()))],
        // What comes after the message that they wait for is free.
        query(`SELECT FROM ${table} WHERE id = 'c' FOR UPDATE NOWAIT`)
      )
      assert.deepStrictEqual(lost.map((all) => all.length).toSorted(), [0, 3])
    })
  )
})

describe.each(kinds)("settlements by many fibers, in $what", ({ queue, table: name }) => {
  const claimed = Effect.gen(function* () {
    const served = yield* serveSpool()
    const ids = Array.from({ length: 40 }, (_, n) => `${n}`)
    yield* served.spool.storeMany(ids.map((id) => ({ ...queue, id })))
    yield* served.spool.claim({ ...queue, limit: 40, lease: "1 minute", owner: "o" })
    const leases = ids.map((id) => Object.assign({ id, owner: "o", attempt: 1 }, queue))
    return { ...served, leases, stored: `${served.schema}.${name}` }
  })

  it.live("go together, and each is told what it has lost", () =>
    Effect.gen(function* () {
      const { leases, spool, stored } = yield* claimed
      // The leases of every fourth message are of an earlier attempt.
      const asked = leases.map((lease, n) => Object.assign({}, lease, n % 4 === 0 ? { attempt: 7 } : {}))
      const fibers = yield* Effect.forEach(asked, (lease) =>
        Effect.forkChild(spool.settle([{ ...lease, outcome: "archived" }]), { startImmediately: true })
      )
      const lost = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(
        lost,
        asked.map((lease, n) => (n % 4 === 0 ? [new SpoolStore.LeaseLost(lease)] : []))
      )
      // The first goes alone. The others come meanwhile, and go in at most two statements.
      const [row] = yield* query(
        `SELECT count(*)::int, count(DISTINCT xmin::text) <= 3 AS few FROM ${stored} WHERE state = 5`
      )
      assert.deepStrictEqual(row, [30, true])
    })
  )

  it.live("leave out what another transaction has locked, or wait for that alone", () =>
    Effect.gen(function* () {
      const { leases, spool, sql, stored, withTransaction } = yield* claimed
      const held = yield* Latch.make()
      const release = yield* Latch.make()
      const hold = sql.unsafe(`SELECT FROM ${stored} WHERE id IN ('17', '18') FOR UPDATE`)
      const holding = withTransaction(Effect.andThen(hold, Effect.andThen(held.open, release.await)))
      const holder = yield* Effect.forkScoped(holding)
      yield* held.await
      const outcomes = leases.map((lease) => Object.assign({ outcome: "archived" as const }, lease))
      const tried = yield* Effect.forEach(outcomes.slice(0, 18), (outcome) => spool.trySettle([outcome]), {
        concurrency: "unbounded"
      })
      const locked = [new SpoolStore.MessageLocked({ ...queue, id: "17" })]
      assert.deepStrictEqual(
        tried,
        outcomes.slice(0, 18).map(({ id }) => ({ lost: [], locked: id === "17" ? locked : [] }))
      )
      const fibers = yield* Effect.forEach(outcomes.slice(17), (outcome) =>
        Effect.forkScoped(spool.settle([outcome]), { startImmediately: true })
      )
      const [first, second, ...others] = fibers
      for (const fiber of others) assert.deepStrictEqual(yield* Fiber.join(fiber), [])
      yield* release.open
      yield* Fiber.join(holder)
      for (const fiber of [first, second]) assert.deepStrictEqual(fiber && (yield* Fiber.join(fiber)), [])
      assert.strictEqual(yield* spool.countByState().pipe(Effect.map(({ archived }) => archived)), 40)
    })
  )

  it.live("fail only where the server refuses them", () =>
    Effect.gen(function* () {
      const { leases, schema, spool, stored } = yield* claimed
      yield* execute([
        `CREATE FUNCTION ${schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'it stays'; END $$`,
        `CREATE TRIGGER refuse BEFORE UPDATE ON ${stored} FOR EACH ROW WHEN (NEW.id = '17') EXECUTE FUNCTION ${schema}.refuse()`
      ])
      const exits = yield* Effect.forEach(
        leases,
        (lease) => Effect.exit(spool.settle([{ ...lease, outcome: "deferred", error: "550", delay: "1 hour" }])),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        exits.flatMap((exit, n) => (Exit.isFailure(exit) ? [n] : [])),
        [17]
      )
      assert.strictEqual(yield* spool.countByState().pipe(Effect.map(({ deferred }) => deferred)), 39)
    })
  )
})

describe("two batches", () => {
  it.live("insert messages in the order of their ids, whichever order they were given in", () =>
    Effect.gen(function* () {
      const { spool, table, together } = yield* crossing
      const messages = ["a", "b", "c"].map((id) => ({ id }))
      const exist = yield* together(
        `INSERT INTO ${table} (id, state, max_attempts, next_retry) VALUES ('b', 0, 1, now())`,
        [spool.storeMany(messages), spool.storeMany(messages.toReversed())]
      )
      assert.deepStrictEqual(exist.map((all) => all.length).toSorted(), [1, 3])
    })
  )
})

/** A transaction of another program, which has locked a message and does nothing more; and what is logged. */
const leakedLock = Effect.gen(function* () {
  const served = yield* serveSpool()
  const leaky = yield* serveSpool({ options: { schema: served.schema }, client: { applicationName: "leaky" } })
  const logged = yield* Queue.unbounded<string>()
  const logger = Logger.make(({ message }) => void Queue.offerUnsafe(logged, String(message)))
  const lock = Effect.fnUntraced(function* (id: string, name = "retryspool_messages") {
    const held = yield* Latch.make()
    const release = yield* Latch.make()
    const holding = leaky.sql
      .unsafe(`SELECT FROM ${leaky.schema}.${name} WHERE id = $1 FOR UPDATE`, [id])
      .pipe(Effect.andThen(held.open), Effect.andThen(release.await), leaky.withTransaction)
    const holder = yield* Effect.forkScoped(holding)
    yield* held.await
    return Effect.andThen(release.open, Fiber.join(holder))
  })
  const watched = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Logger.layer([logger]))
  return { ...served, lock, logged, watched }
})

describe("a transaction that has locked a message and never ends", () => {
  const holder = "locked by pid \\d+, idle in transaction for \\d+ s, application 'leaky'"

  it.live.each(["renewed", "recovered"])("is named in a warning where the message cannot be %s", (what) =>
    Effect.gen(function* () {
      const { lock, logged, spool, watched } = yield* leakedLock
      yield* spool.storeMany([{ id: "a" }, { id: "b" }])
      yield* spool.claim({ limit: 2, lease: what === "renewed" ? "1 minute" : 0, owner: "o" })
      if (what === "recovered") yield* spool.deleteMeta("b")
      const release = yield* lock("a")
      const leases = ["a", "b"].map((id) => ({ id, owner: "o", attempt: 1 }))
      const count = ({ length }: ReadonlyArray<unknown>) => length
      const renewal = Effect.map(spool.heartbeat(leases, "1 minute"), count)
      const look = watched(what === "renewed" ? renewal : Effect.map(spool.recover(), count))
      yield* Effect.repeat(look, {
        until: (found) => Effect.map(Queue.size(logged), (size) => size > 0 || found > 0)
      })
      assert.match(
        yield* Queue.take(logged),
        new RegExp(`^message "a" of retryspool_messages cannot be ${what} yet: ${holder}; trying again$`)
      )
      // Once is enough for a minute.
      yield* Effect.repeat(look, { times: 3 })
      assert.strictEqual(yield* Queue.size(logged), 0)
      yield* release
      assert.strictEqual(yield* look, what === "renewed" ? 0 : 1)
    })
  )

  it.live.each([false, true])("stops no worker, which names it (transactional: %s)", (transactional) =>
    Effect.gen(function* () {
      const { context, lock, logged, spool, watched } = yield* leakedLock
      const provide = Effect.provideContext(context)
      const mails = Spool.make({ name: "mails", payload: Schema.String })
      const begun = yield* Latch.make()
      const isLocked = yield* Latch.make()
      const locked = yield* provide(mails.enqueue("locked"))
      yield* Effect.forkScoped(
        watched(
          mails.run((to) => Effect.andThen(to === "locked" ? begun.open : Effect.void, isLocked.await), {
            lease: "3 seconds",
            transactional,
            // In a transaction the message is settled in the handler's place: it has the only one.
            concurrency: transactional ? 1 : 2
          })
        ).pipe(provide)
      )
      yield* begun.await
      const release = yield* lock(locked, "strata_messages")
      yield* provide(mails.enqueueAll(Array.from({ length: 279 }, (_, n) => ({ payload: `${n}` }))))
      yield* isLocked.open
      const unsettled = Effect.map(spool.countByState("mails"), ({ active, incoming }) => active + incoming)
      yield* Effect.repeat(unsettled, { until: (count) => count === 1 })
      assert.match(
        yield* Queue.take(logged),
        new RegExp(`^message "${locked}" of strata_messages cannot be (settled|renewed) yet: ${holder}; trying again$`)
      )
      // What comes now is handled and settled as ever.
      yield* provide(mails.enqueueAll([{ payload: "later" }, { payload: "last" }]))
      yield* Effect.repeat(unsettled, { until: (count) => count === 1 })
      assert.strictEqual((yield* spool.getMeta({ queue: "mails", id: locked })).state, "active")
      yield* release
      yield* Effect.repeat(unsettled, { until: (count) => count === 0 })
    })
  )
})
