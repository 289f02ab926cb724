/** A log whose table has partitions keeps every promise of a plain one, and never lacks a partition. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Result, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { Decision, EventStore } from "effect-strata/testing"
import { randomInt } from "node:crypto"
import { jsonLines, succeeds } from "../cli/harness.ts"
import { layerSchema, scratchDatabase } from "../support/database.ts"
import { event, follow, plainInsert, serveEvents, type ServedEvents, session, versionsIn } from "./events.harness.ts"
import { execute, failsWith, freshRole, migrate, query } from "./harness.ts"

/** So small that each test crosses many boundaries. */
const size = 50n
const options = { partitions: { size } }

/**
 * What many write at once has to fit into three partitions while the next one is made, also on a machine that halts for a second: an
 * insert of plain SQL fails otherwise.
 */
const roomy = 1000n

const layer = Layer.provide(Postgres.layer({ partitions: { size: 200n } }), layerSchema())

Decision.suite("postgres, in partitions", layer)
EventStore.suite("postgres, in partitions", layer)

const served = serveEvents({ options })

/** How many partitions have events. */
const used = (table: string) =>
  Effect.map(query(`SELECT count(DISTINCT tableoid) FROM ${table}`), ([row]) => Number(row?.[0]))

/** The version below which there are partitions. */
const ending = (table: string) =>
  Effect.map(
    query(
      `SELECT max(split_part(pg_get_expr(relpartbound, oid), '''', 4)::bigint) FROM pg_class
       WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = '${table}'::regclass)`
    ),
    ([row]) => BigInt(String(row?.[0]))
  )

/** What the server says when it refuses a statement. */
const refusal = (statement: Effect.Effect<unknown, { readonly reason: { readonly cause: unknown } }>) =>
  Effect.map(Effect.flip(statement), ({ reason }) => String(reason.cause))

/** What plain programs append in a transaction, of which some are rolled back, until there are enough events. */
const plainWriter = Effect.fnUntraced(function* (table: string, number: number, isDone: () => boolean) {
  const run = yield* session()
  return Effect.whileLoop({
    while: () => !isDone(),
    body: () =>
      Effect.gen(function* () {
        yield* run("BEGIN")
        yield* run(
          `INSERT INTO ${table} (id, aggregate_id, event_type, data)
           SELECT gen_random_uuid(), 'plain ${number}', 'Plain', '{}' FROM generate_series(1, ${randomInt(1, 8)})`
        )
        yield* run(randomInt(4) === 0 ? "ROLLBACK" : "COMMIT")
      }),
    step: () => {}
  })
})

/** Appends in transactions of which some are rolled back, and single events beside them. */
const ourWriter = ({ events, withTransaction }: ServedEvents, number: number, isDone: () => boolean) => {
  const batch = () => Array.from({ length: randomInt(1, 8) }, () => event(`ours ${number}`))
  return Effect.whileLoop({
    while: () => !isDone(),
    body: () =>
      Effect.gen(function* () {
        const isRolledBack = randomInt(4) === 0
        const end = yield* Effect.result(
          withTransaction(
            Effect.andThen(events.append(batch()), isRolledBack ? Effect.fail("rolled back") : Effect.void)
          )
        )
        if (Result.isFailure(end)) assert.strictEqual(end.failure, "rolled back")
        yield* events.append(event(`ours ${number}`))
      }),
    step: () => {}
  })
}

describe("partitions", () => {
  it.live("are there for writers of every kind, of whom some roll back, and readers that keep up miss nothing", () =>
    Effect.gen(function* () {
      const stores = yield* serveEvents({ options: { partitions: { size: roomy } } })
      const reader = yield* follow(stores, { after: "start" })
      let last = 0n
      const isDone = () => last >= 6n * roomy
      const watch = Effect.whileLoop({
        while: () => !isDone(),
        body: () => stores.events.latestVersion,
        step: (version) => void (last = version)
      })
      const plain = yield* Effect.forEach([1, 2, 3], (number) => plainWriter(stores.table, number, isDone))
      yield* Effect.all([watch, ...plain, ...[1, 2, 3].map((number) => ourWriter(stores, number, isDone))], {
        concurrency: "unbounded",
        discard: true
      })
      const versions = yield* versionsIn(stores.table)
      yield* reader.until(versions.at(-1) ?? 0n)
      assert.deepStrictEqual(reader.seen, versions)
      assert.isAbove(yield* used(stores.table), 5)
      assert.isTrue((yield* ending(stores.table)) >= (versions.at(-1) ?? 0n) + 2n * roomy)
    }).pipe(Effect.scoped)
  )

  it.live("are made while others read and append: nobody waits for anybody", () =>
    Effect.gen(function* () {
      const { table } = yield* served
      const other = yield* session()
      yield* other("BEGIN")
      yield* other(plainInsert(table, "open"))
      yield* other(`SELECT count(*) FROM ${table}`)
      const before = yield* ending(table)
      const writer = yield* session()
      yield* writer("SET lock_timeout TO '30s'")
      for (let number = 0; number < 80; number++) yield* writer(plainInsert(table, `event ${number}`))
      assert.isTrue((yield* ending(table)) > before)
      yield* other("COMMIT")
    }).pipe(Effect.scoped)
  )

  it.live("that cannot be made at once are made by the transactions that follow, and no append waits or fails", () =>
    Effect.gen(function* () {
      const { events, table } = yield* served
      const other = yield* session()
      yield* other("BEGIN")
      yield* other(`LOCK TABLE ONLY ${table} IN SHARE UPDATE EXCLUSIVE MODE`)
      const before = yield* ending(table)
      for (let number = 0; number < 60; number++) yield* events.append(event("a"))
      assert.strictEqual(yield* ending(table), before)
      yield* other("COMMIT")
      for (let number = 0; number < 5; number++) yield* events.append(event("a"))
      assert.isTrue((yield* ending(table)) > before)
    }).pipe(Effect.scoped)
  )

  it.live(
    "that a transaction runs out of are made by whom the append fails, who says so, and the next attempt has them",
    () =>
      Effect.gen(function* () {
        const { events, table, withTransaction } = yield* served
        const burn = query(`SELECT max(nextval('${table}_version_seq')) FROM generate_series(1, 500)`)
        yield* burn
        yield* failsWith(
          withTransaction(events.append(event("a"))),
          "EventStore.append",
          "Contention",
          /partition.*again/
        )
        yield* withTransaction(events.append(event("a")))
        yield* burn
        yield* events.append(event("b"))
        yield* burn
        yield* events.append(event("c", "own id"), { expected: "none" })
        yield* burn
        assert.match(yield* refusal((yield* session())(plainInsert(table, "plain"))), /no partition of relation/)
        yield* events.append(event("d"))
        yield* (yield* session())(plainInsert(table, "plain"))
        assert.strictEqual((yield* events.load()).length, 5)
      }).pipe(Effect.scoped)
  )

  it.live("are enough for one append of many events, also in a transaction", () =>
    Effect.gen(function* () {
      const { events, table, withTransaction } = yield* served
      const many = Array.from({ length: 1000 }, (_, number) => event(`aggregate ${number % 7}`))
      yield* events.append(many)
      yield* withTransaction(Effect.andThen(events.append(event("a")), events.append(many)))
      assert.strictEqual((yield* events.load()).length, 2001)
      assert.isAbove(yield* used(table), 39)
    }).pipe(Effect.scoped)
  )

  it.live(
    "are made for a role that may run no DDL, with the grants that strata grants prints, by ours and by plain inserts",
    () =>
      Effect.gen(function* () {
        const { role } = yield* freshRole()
        const url = yield* scratchDatabase()
        yield* migrate(url, { schema: "strata", ...options })
        const statements = jsonLines(yield* succeeds(["grants", role, "--schema", "strata", "--json"], { url }))
        yield* execute(
          statements.map(({ statement }) => String(statement)),
          url
        )
        const own = new URL(url)
        own.username = role
        own.password = "secret"
        const { events } = yield* serveEvents({
          url: own.href,
          layer: Postgres.layerStorage,
          options: { schema: "strata" }
        })
        const run = yield* session(own.href)
        assert.match(yield* refusal(run("CREATE TABLE strata.mine (id INT)")), /permission denied/)
        assert.match(
          yield* refusal(
            run("INSERT INTO strata.events (version, id, aggregate_id, event_type) VALUES (7, 'f', 'f', 'F')")
          ),
          /permission denied/
        )
        assert.match(yield* refusal(run("DELETE FROM strata.events_ids")), /permission denied/)
        for (let number = 0; number < 100; number++) {
          yield* events.append(event("a", `own ${number}`))
          yield* run(plainInsert("strata.events", `plain ${number}`))
        }
        yield* events.append(Array.from({ length: 200 }, () => event("b")))
        assert.isTrue(Option.isSome(yield* Effect.option(events.get("plain 99"))))
        const owners = yield* query(
          "SELECT DISTINCT relowner = (SELECT relowner FROM pg_class WHERE oid = 'strata.events'::regclass) FROM pg_class WHERE relispartition",
          url
        )
        assert.deepStrictEqual(owners, [[true]])
      }).pipe(Effect.scoped)
  )
})

describe("the ids of a log with partitions", () => {
  it.live("are unique over all of them, for ours and for plain inserts, and lead to their events", () =>
    Effect.gen(function* () {
      const { events, table } = yield* served
      const [first] = yield* events.append(event("a", "first"))
      yield* events.append(Array.from({ length: 120 }, () => event("b")))
      const run = yield* session()
      yield* run(plainInsert(table, "second"))
      assert.isAbove(yield* used(table), 2)
      assert.match(yield* refusal(run(plainInsert(table, "first"))), /duplicate key/)
      assert.match(yield* refusal(run(plainInsert(table, "second"))), /duplicate key/)
      assert.strictEqual((yield* Effect.flip(events.append(event("b", "second"))))._tag, "DuplicateEvent")
      assert.deepStrictEqual((yield* events.append(event("a", "first"), { onDuplicate: "ignore" }))[0], first)
      assert.deepStrictEqual(yield* events.get("first"), first)
      assert.strictEqual((yield* events.get("second"))?.aggregateId, "plain")
      assert.deepStrictEqual(
        yield* query(
          `SELECT count(*)::int FROM ${table} FULL JOIN ${table}_ids USING (id, version) WHERE event_type IS NULL OR id IS NULL`
        ),
        [[0]]
      )
    }).pipe(Effect.scoped)
  )

  it.live("are not taken by what is rolled back, and free once their event is deleted, or all are", () =>
    Effect.gen(function* () {
      const { events, table } = yield* served
      const run = yield* session()
      yield* run("BEGIN")
      yield* run(plainInsert(table, "id"))
      yield* run("ROLLBACK")
      yield* events.append(event("a", "id"))
      yield* run(`DELETE FROM ${table}`)
      yield* events.append(event("a", "id"))
      yield* run(`TRUNCATE ${table}`)
      yield* events.append(event("a", "id"))
      assert.strictEqual((yield* events.load()).length, 1)
    }).pipe(Effect.scoped)
  )
})

describe("the versions of a log with partitions", () => {
  it.live("are refused where they were drawn before the transaction had locked the table, or not at all", () =>
    Effect.gen(function* () {
      const { logged, table } = yield* served
      assert.isFalse(logged.some((text) => text.includes("BIGSERIAL")))
      const run = yield* session()
      const insert = (version: string, id: string) =>
        run(`INSERT INTO ${table} (version, id, aggregate_id, event_type) VALUES (${version}, '${id}', 'a', 'A')`)
      yield* run(plainInsert(table, "first"))
      yield* run(`SELECT nextval('${table}_version_seq')`)
      const refused = /drawn while its transaction/
      assert.match(yield* refusal(insert(`currval('${table}_version_seq')`, "early")), refused)
      assert.match(yield* refusal(insert("40", "forged")), refused)
      assert.match(yield* refusal(insert("1", "again")), /drawn while|duplicate key/)
      // The next one is drawn under the lock.
      yield* run("BEGIN")
      yield* run(plainInsert(table, "second"))
      yield* run(`SELECT nextval('${table}_version_seq')`)
      yield* insert(`currval('${table}_version_seq')`, "third")
      yield* run("COMMIT")
      // A transaction that has given the lock back has nothing of it.
      yield* run("BEGIN")
      yield* run("SAVEPOINT part")
      yield* run(plainInsert(table, "fourth"))
      yield* run("ROLLBACK TO part")
      yield* run(`SELECT nextval('${table}_version_seq')`)
      assert.match(yield* refusal(insert(`currval('${table}_version_seq')`, "early")), refused)
      yield* run("ROLLBACK")
      assert.deepStrictEqual(yield* query(`SELECT id FROM ${table} ORDER BY version`), [
        ["first"],
        ["second"],
        ["third"]
      ])
    }).pipe(Effect.scoped)
  )
})

describe("the option partitions", () => {
  it.live(
    "is for a new log, whose indexes, triggers, comments and grants the divided table keeps, and may be left out later",
    () =>
      Effect.gen(function* () {
        const { role } = yield* freshRole()
        const url = yield* scratchDatabase()
        const all = { schema: "strata", notify: "rows", index: "containment" } as const
        yield* migrate(url, all)
        yield* execute([`GRANT SELECT, INSERT (id, data) ON strata.events TO ${role}`], url)
        const described = query(
          `SELECT regexp_replace(pg_get_indexdef(indexrelid), '.* (ON ONLY|ON) ', ''), '' FROM pg_index
         WHERE indrelid = 'strata.events'::regclass AND NOT indisunique
         UNION ALL SELECT tgname::text, '' FROM pg_trigger WHERE tgrelid = 'strata.events'::regclass AND tgname = 'events_notify_trigger'
         UNION ALL SELECT attname::text, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'strata.events'::regclass AND attnum > 0
         UNION ALL SELECT 'comment', obj_description('strata.events'::regclass, 'pg_class')
         UNION ALL SELECT 'may insert', has_column_privilege('${role}', 'strata.events', 'data', 'INSERT')::text
         UNION ALL SELECT 'may forge', has_column_privilege('${role}', 'strata.events', 'version', 'INSERT')::text
         ORDER BY 1, 2`,
          url
        )
        const before = yield* described
        yield* succeeds(["migrate", "--schema", "strata", "--partitions", "50"], { url })
        assert.deepStrictEqual(yield* described, before)
        assert.deepStrictEqual(
          yield* query("SELECT relkind::text FROM pg_class WHERE oid = 'strata.events'::regclass", url),
          [["p"]]
        )
        const { events } = yield* serveEvents({ url, options: { schema: "strata" } })
        yield* events.append(Array.from({ length: 120 }, () => event("a")))
        assert.strictEqual((yield* events.load()).length, 120)
      }).pipe(Effect.scoped)
  )

  it.live("is refused where the size is too small, and where the name is too long", () =>
    Effect.gen(function* () {
      const small = yield* Effect.flip(Effect.scoped(serveEvents({ options: { partitions: { size: 15n } } })))
      assert.strictEqual(small._tag, "InvalidInput")
      yield* failsWith(
        Effect.scoped(serveEvents({ options: { ...options, tables: { events: "e".repeat(44) } } })),
        "Postgres.migrate",
        "Unexpected",
        /more than 43 bytes/
      )
    }).pipe(Effect.scoped)
  )
})

describe("the plans of reads over partitions", () => {
  it.live("go through the partitions in order, and leave out those that a page begins after", () =>
    Effect.gen(function* () {
      const { table } = yield* serveEvents({ options: { partitions: { size: 5000n } } })
      for (let part = 0; part < 3; part++) {
        yield* query(
          `INSERT INTO ${table} (id, aggregate_id, event_type)
           SELECT gen_random_uuid(), 'aggregate ' || n % 1000, 'Happened' FROM generate_series(1, 6000) AS n`
        )
      }
      yield* query(`ANALYZE ${table}`)
      const planOf = (statement: string) =>
        Effect.map(query(`EXPLAIN (COSTS OFF) ${statement}`), (rows) => rows.map(([line]) => String(line)).join("\n"))
      const page = yield* planOf(
        `SELECT * FROM ${table} WHERE version > 7000 AND version <= 18000 ORDER BY version LIMIT 10`
      )
      assert.notMatch(page, /Sort|Merge|events_0_/)
      assert.match(page, /Append[^]*events_5000_pkey[^]*events_10000_pkey[^]*events_15000_pkey/)
      const aggregate = yield* planOf(
        `SELECT * FROM ${table} WHERE aggregate_id = 'aggregate 1' AND version > 7000 ORDER BY version LIMIT 10`
      )
      assert.notMatch(aggregate, /Merge|events_0_/)
      const latest = yield* planOf(`SELECT max(version) FROM ${table} WHERE aggregate_id = 'aggregate 1'`)
      assert.notMatch(latest, /Merge|Seq Scan on events_(0|5000|10000)/)
      assert.match(latest, /Append[^]*events_15000_[^]*events_0_/)
    }).pipe(Effect.scoped)
  )

  /** Pages of each kind that an index has in order, so many times that the server has chosen how to plan them. */
  const readPages = Effect.fnUntraced(function* ({ events }: ServedEvents) {
    const pages = { after: 10n, limit: 5 }
    for (let time = 0; time < 10; time++) {
      yield* Stream.runDrain(events.read(pages))
      yield* Stream.runDrain(events.read({ ...pages, direction: "backward" }))
      yield* Stream.runDrain(events.read({ ...pages, eventTypes: ["Happened"] }))
      yield* Stream.runDrain(events.read({ ...pages, eventTypes: ["Rare"], limit: 1000 }))
    }
  })

  const happened = (table: string, count: number) =>
    `INSERT INTO ${table} (id, aggregate_id, event_type)
     SELECT gen_random_uuid(), 'aggregate ' || n % 1000, CASE n % 500 WHEN 0 THEN 'Rare' ELSE 'Happened' END
     FROM generate_series(1, ${count}) AS n`

  it.live.each([1, 1000])("are made once, and not for each page, of partitions that seem %i times as large", (times) =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ client: { maxConnections: 1 }, options: { partitions: { size: 1000n } } })
      const { schema, sql, table } = served
      for (let part = 0; part < 30; part++) yield* query(happened(table, 1000))
      yield* query(`ANALYZE ${table}`)
      // The larger they seem, the dearer looks a tenth of their rows, which is what the server takes an unknown limit for.
      yield* query(
        `UPDATE pg_class SET reltuples = reltuples * ${times} WHERE relnamespace = '${schema}'::regnamespace AND relname ~ '^events_[0-9]+$'`
      )
      yield* readPages(served)
      const plans = yield* sql<{ readonly custom: number; readonly generic: number }>`
        SELECT custom_plans::int AS custom, generic_plans::int AS generic FROM pg_prepared_statements
        WHERE statement LIKE '%ORDER BY%' AND generic_plans + custom_plans >= 10`
      assert.isAtLeast(plans.length, 4)
      // The first five times the server makes a plan for what it is given, to compare.
      assert.deepStrictEqual(
        plans.filter(({ custom }) => custom > 5),
        []
      )
    }).pipe(Effect.scoped)
  )

  it.live("read no whole partition that has grown since they were made", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents({ client: { maxConnections: 1 }, options: { partitions: { size: 50_000n } } })
      const { schema, sql, table } = served
      yield* query(`ALTER TABLE ${table}_0 SET (autovacuum_enabled = off)`)
      yield* query(happened(table, 20))
      yield* query(`VACUUM ANALYZE ${table}`)
      yield* readPages(served)
      yield* query(happened(table, 40_000))
      const rowsRead = sql<{ readonly rows: number }>`
        SELECT sum(seq_tup_read + idx_tup_fetch)::int AS rows FROM pg_stat_xact_user_tables
        WHERE schemaname = ${schema} AND relname LIKE 'events_0%'`
      const [all] = yield* sql.withTransaction(Effect.andThen(readPages(served), rowsRead))
      assert.isAbove(all?.rows ?? 0, 150)
      assert.isBelow(all?.rows ?? 0, 10_000)
    }).pipe(Effect.scoped)
  )
})
