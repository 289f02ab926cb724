/** How tables and their functions are made: by which role and process, from which earlier state, and what stays as it is. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Stream } from "effect"
import { DurableStateStore, OffsetStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { scratchDatabase, waitForBackends } from "../support/database.ts"
import { session } from "./events.harness.ts"
import {
  assertWhole,
  execute,
  failsWith,
  freshRole,
  migrate,
  query,
  restore,
  serve,
  shape,
  shard,
  unique
} from "./harness.ts"
import { show, state } from "./states.harness.ts"

/** All tables and schemas that do not belong to Postgres, so that a test can tell that nothing was left behind. */
const objects = (url: string) =>
  query(
    `SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema)'
     UNION SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)' ORDER BY 1`,
    url
  ).pipe(Effect.map((rows) => rows.map(([name]) => name)))

/** Holds the lock under which migrations run, until the returned effect lets it go. */
const holdLock = Effect.fnUntraced(function* (url: string) {
  const held = yield* Deferred.make<void>()
  const end = yield* Deferred.make<void>()
  const { sql } = yield* serve({ url, layer: Postgres.layerStorage })
  const fiber = yield* sql`SELECT pg_advisory_xact_lock(hashtextextended('effect-strata', 0))`.pipe(
    Effect.andThen(Deferred.succeed(held, undefined)),
    Effect.andThen(Deferred.await(end)),
    sql.withTransaction,
    Effect.forkScoped
  )
  yield* Deferred.await(held)
  return Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber))
})

/** The functions in a schema, as they are defined. The number of which keys of locks are made is another one in each database. */
const functions = (url: string, schema: string) =>
  query(
    `SELECT regexp_replace(pg_get_functiondef(oid), 'BEGIN RETURN \\d+; END', 'BEGIN RETURN 0; END') FROM pg_proc WHERE pronamespace = '"${schema}"'::regnamespace ORDER BY 1`,
    url
  )

const isLocking = (all: ReadonlyArray<{ readonly query: string; readonly state: string }>, count: number) =>
  all.filter(({ query, state }) => state === "active" && query.includes("pg_advisory_xact_lock")).length === count

describe("starting at once", () => {
  it.live("on an empty database, ten processes all come up, and each can write", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const script = fileURLToPath(new URL("fixtures/migrate.ts", import.meta.url))
      const children = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, n) => n),
        (n) =>
          Effect.acquireRelease(
            Effect.sync(() =>
              spawn(process.execPath, ["--conditions=@effect-strata/source", script, url, `${n}`], {
                stdio: ["pipe", "pipe", "pipe"]
              })
            ),
            (child) => Effect.sync(() => child.kill("SIGKILL"))
          )
      )
      const ends = children.map((child) => {
        let errors = ""
        child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()))
        return once(child, "close").then(([code]) => (code === 0 ? "0" : `${code}: ${errors}`))
      })
      yield* Effect.promise(() => Promise.all(children.map((child) => once(child.stdout, "data"))))
      for (const child of children) child.stdin.end("go\n")
      assert.deepStrictEqual(
        yield* Effect.promise(() => Promise.all(ends)),
        children.map(() => "0")
      )
      assert.deepStrictEqual(yield* objects(url), [
        "app",
        "app.events",
        "app.events_archived",
        "app.events_archives",
        "app.events_log",
        "app.events_mark",
        "app.events_tags",
        "app.offsets_store",
        "app.retryspool_messages",
        "app.states_store",
        "app.strata_messages",
        "app.strata_migrations"
      ])
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM app.offsets_store`, url), [[10]])
      assert.deepStrictEqual(yield* query(`SELECT id, table_name, file FROM app.strata_migrations ORDER BY id`, url), [
        [1, "offsets_store", "0001_offsets.sql"],
        [2, "events", "0002_events.sql"],
        [3, "states_store", "0003_states.sql"],
        [4, "retryspool_messages", "0004_spool.sql"],
        [15, "events", "0015_events_log.sql"],
        [16, "strata_messages", "0016_messages.sql"],
        [18, "retryspool_messages", "0018_spool_queues_own.sql"],
        [20, "states_store", "0020_states_write.sql"],
        [21, "states_store", "0021_states_write_many.sql"],
        [24, "retryspool_messages", "0024_spool_claim.sql"],
        [25, "retryspool_messages", "0025_spool_lease.sql"],
        [26, "strata_messages", "0026_messages_claim.sql"],
        [34, "events", "0034_events_tags.sql"],
        [45, "events", "0045_events_indexes_concurrently.sql"],
        [46, "states_store", "0046_states_index_concurrently.sql"],
        [47, "retryspool_messages", "0047_spool_indexes_concurrently.sql"],
        [48, "events", "0048_events_times_concurrently.sql"],
        [53, "events", "0053_events_mark.sql"],
        [59, "events", "0059_events_missed.sql"],
        [61, "events", "0061_events_key.sql"],
        [63, "events", "0063_events_archive.sql"],
        [64, "events", "0064_events_tags_types.sql"],
        [66, "events", "0066_events_append.sql"],
        [68, "strata_messages", "0068_messages_index_concurrently.sql"],
        [69, "events", "0069_events_comments.sql"]
      ])
    })
  )

  it.live(
    "under either name of the same tables, with limits of the session and any isolation, all wait for their turn",
    () =>
      Effect.gen(function* () {
        const url = yield* scratchDatabase()
        const release = yield* holdLock(url)
        const applicationName = yield* unique
        // Milliseconds, long enough for the statements before the lock on a busy machine.
        const session = { statement_timeout: "500", lock_timeout: "500", idle_in_transaction_session_timeout: "500" }
        const starting = yield* Effect.forEach(
          [
            migrate(url, {}, { applicationName, startupParameters: session }),
            migrate(url, { schema: "public" }, { applicationName, startupParameters: session }),
            migrate(url, {}, { applicationName, startupParameters: { default_transaction_isolation: "serializable" } }),
            migrate(
              url,
              {},
              { applicationName, startupParameters: { default_transaction_isolation: "repeatable read" } }
            )
          ],
          (start) => Effect.forkChild(start)
        )
        assert.isTrue(isLocking(yield* waitForBackends(applicationName, (all) => isLocking(all, 4), url), 4))
        // The server sleeps for longer than the limits of those sessions.
        yield* query("SELECT 1 FROM pg_sleep(0.7)", url)
        yield* release
        yield* Effect.forEach(starting, (fiber) => Fiber.join(fiber))
        assert.deepStrictEqual(yield* query(`SELECT id FROM strata_migrations ORDER BY id`, url), [
          [1],
          [2],
          [3],
          [4],
          [15],
          [16],
          [18],
          [20],
          [21],
          [24],
          [25],
          [26],
          [34],
          [45],
          [46],
          [47],
          [48],
          [53],
          [59],
          [61],
          [63],
          [64],
          [66],
          [68],
          [69]
        ])
      })
  )

  it.live("two sets of tables in one new schema both come up, each with its own record or with a common one", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const release = yield* holdLock(url)
      const applicationName = yield* unique
      const sets = [
        {
          offsets: "a_offsets",
          events: "a_events",
          states: "a_states",
          spool: "a_spool",
          messages: "a_messages",
          migrations: "a_migrations"
        },
        {
          offsets: "b_offsets",
          events: "b_events",
          states: "b_states",
          spool: "b_spool",
          messages: "b_messages",
          migrations: "b_migrations"
        },
        { offsets: "c_offsets", events: "c_events", states: "c_states", spool: "c_spool", messages: "c_messages" },
        { offsets: "d_offsets", events: "d_events", states: "d_states", spool: "d_spool", messages: "d_messages" }
      ]
      const starting = yield* Effect.forEach(sets, (tables) =>
        Effect.forkChild(migrate(url, { schema: "both", tables }, { applicationName }))
      )
      yield* waitForBackends(applicationName, (all) => isLocking(all, 4), url)
      yield* release
      yield* Effect.forEach(starting, (fiber) => Fiber.join(fiber))
      const stores = yield* Effect.forEach(sets, (tables) => serve({ url, options: { schema: "both", tables } }))
      yield* Effect.forEach(stores, (store, n) => shard(store, "row").write(BigInt(n)))
      assert.deepStrictEqual(yield* Effect.forEach(stores, (store) => shard(store, "row").read), [0n, 1n, 2n, 3n])
      assert.deepStrictEqual(yield* query(`SELECT DISTINCT table_name FROM "both".strata_migrations ORDER BY 1`, url), [
        ["c_events"],
        ["c_messages"],
        ["c_offsets"],
        ["c_spool"],
        ["c_states"],
        ["d_events"],
        ["d_messages"],
        ["d_offsets"],
        ["d_spool"],
        ["d_states"]
      ])
    })
  )
})

describe("a role", () => {
  it.live("with USAGE on the schema and SELECT, INSERT, UPDATE, DELETE on the table can do everything", () =>
    Effect.gen(function* () {
      const { role, url: roleUrl } = yield* freshRole()
      const url = yield* scratchDatabase()
      const asRole = new URL(url)
      asRole.username = role
      asRole.password = new URL(roleUrl).password
      yield* migrate(url, { schema: "app" })
      yield* execute(
        [
          `GRANT USAGE ON SCHEMA app TO ${role}`,
          `GRANT SELECT, INSERT, UPDATE, DELETE ON app.offsets_store TO ${role}`
        ],
        url
      )
      const stores = yield* serve({ url: asRole.href, options: { schema: "app" }, layer: Postgres.layerStorage })
      const { offsets } = stores
      const { id, read, write } = shard(stores, "row")
      yield* offsets.ping
      yield* offsets.advanceOffset(id, { from: Option.none(), to: 1n })
      yield* offsets.advanceOffset(id, { from: Option.some(1n), to: 2n })
      yield* write(3n)
      assert.strictEqual(yield* offsets.resetOffset("row", 4n), 1)
      assert.strictEqual(yield* read, 4n)
      assert.lengthOf(yield* Stream.runCollect(offsets.listOffsets()), 1)
      assert.strictEqual(yield* offsets.deleteOffsets("row"), 1)
      yield* assertWhole(stores, url)

      // To find that nothing is pending, `layer` reads the records, and needs no other right for it.
      const whole = serve({ url: asRole.href, options: { schema: "app" } })
      yield* failsWith(whole, "Postgres.migrate", "Denied", /permission denied for table strata_migrations: grant it/)
      yield* execute([`GRANT SELECT ON app.strata_migrations TO ${role}`], url)
      yield* assertWhole(yield* whole, url)
    })
  )

  it.live("that may create schemas makes a missing one; a role that may not is Denied, and leaves nothing", () =>
    Effect.gen(function* () {
      const { role, url: roleUrl } = yield* freshRole()
      const url = yield* scratchDatabase()
      const asRole = new URL(url)
      asRole.username = role
      asRole.password = new URL(roleUrl).password
      const fresh = migrate(asRole.href, { schema: "fresh" })
      yield* failsWith(fresh, "Postgres.migrate", "Denied", /permission denied for database .*: grant it/)
      yield* execute([`CREATE SCHEMA theirs`, `GRANT USAGE ON SCHEMA theirs TO ${role}`], url)
      yield* failsWith(
        migrate(asRole.href, { schema: "theirs" }),
        "Postgres.migrate",
        "Denied",
        /permission denied for schema theirs: grant it/
      )
      assert.deepStrictEqual(yield* objects(url), ["theirs"])
      yield* execute([`GRANT CREATE ON DATABASE ${new URL(url).pathname.slice(1)} TO ${role}`], url)
      yield* fresh
      assert.deepStrictEqual(yield* objects(url), [
        "fresh",
        "fresh.events",
        "fresh.events_archived",
        "fresh.events_archives",
        "fresh.events_log",
        "fresh.events_mark",
        "fresh.events_tags",
        "fresh.offsets_store",
        "fresh.retryspool_messages",
        "fresh.states_store",
        "fresh.strata_messages",
        "fresh.strata_migrations",
        "theirs"
      ])
    })
  )
})

describe("names", () => {
  const possible: ReadonlyArray<readonly [what: string, schema: string, table: string]> = [
    ["a plain one", "plain", "offsets"],
    ["quotes", `a"b'c`, `o"f'f`],
    ["spaces and dots", "my schema.x", "my table.y"],
    ["many spaces, and lines", "my  schema\n  x", "my  table\n  y"],
    ["upper case", "App", "Offsets"],
    ["unicode", "схема 🐘", "таблица"],
    ["reserved words", "select", "table"],
    ["psql's variables", `:"offsets"`, `:"migrations"`],
    ["psql's variables as texts", `:'events'`, `:'states'`],
    ["quotes of a body", "$body$", "$function$"],
    ["an attack", `x"; DROP TABLE y; --`, `$1 \\`],
    ["63 bytes", "é".repeat(31) + "s", "t".repeat(63)]
  ]

  it.live.each(possible)("of a schema and its tables can be %s", ([, schema, table]) =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const tables = {
        offsets: table,
        events: `${table.slice(0, 50)} log`,
        messages: `${table.slice(0, 50)} jobs`,
        spool: `${table.slice(0, 50)} mail`,
        states: `${table.slice(0, 50)} now`,
        migrations: `${table.slice(0, 55)} made`
      }
      const options = { schema, tables }
      for (let start = 0; start < 2; start++) {
        const stores = yield* serve({ url, options })
        const { id, read, write } = shard(stores, "row")
        assert.strictEqual(yield* read, start === 0 ? -1n : 2n)
        yield* write(1n)
        yield* stores.offsets.advanceOffset(id, { from: Option.some(1n), to: 2n })
        assert.strictEqual(yield* stores.offsets.resetOffset("row", 2n), 1)
        yield* stores.offsets.ping
        // Each function has the table's name in its body.
        const event = { aggregateId: "a", eventType: "T", data: null, id: `e${start}` }
        yield* stores.events.append({ ...event, tags: ["t"] }, { expected: start === 0 ? "none" : BigInt(start) })
        assert.lengthOf(yield* Stream.runCollect(stores.events.read({ tags: ["t"] })), start + 1)
        const states = ["a", "b"].map((id) => state(id, BigInt(start)))
        yield* Effect.forEach(states, (one) => stores.states.writeState(one), { concurrency: "unbounded" })
        yield* stores.states.writeState(state("c", BigInt(start)))
        yield* stores.spool.storeMeta({ id: `m${start}` })
        assert.strictEqual((yield* stores.spool.claim({ limit: 9, lease: "1 minute", owner: "o" })).length, 1)
        yield* stores.spool.storeMeta({ queue: "q", id: `m${start}` })
        assert.strictEqual(
          (yield* stores.spool.claim({ queue: "q", limit: 9, lease: "1 minute", owner: "o" })).length,
          1
        )
      }
      assert.sameMembers(
        [...(yield* objects(url))],
        [
          schema,
          ...[
            ...Object.values(tables),
            ...["log", "tags", "mark", "archives", "archived"].map((ending) => `${tables.events}_${ending}`)
          ].map((name) => `${schema}.${name}`)
        ]
      )
    })
  )

  const impossible: ReadonlyArray<readonly [what: string, name: string]> = [
    ["empty", ""],
    ["64 bytes", "t".repeat(64)],
    ["64 bytes of 32 characters", "é".repeat(32)],
    ["with a NUL", "a\0b"],
    ["with a lone surrogate", "a\ud800"]
  ]

  it.live.each(impossible)("that no table can have (%s) are InvalidInput, named by field", ([, name]) =>
    Effect.gen(function* () {
      for (const layer of [Postgres.layer, Postgres.layerStorage]) {
        for (const [field, options] of [
          ["schema", { schema: name }],
          ["tables.offsets", { tables: { offsets: name } }],
          ["tables.states", { tables: { states: name } }],
          ["tables.migrations", { tables: { migrations: name } }]
        ] as const) {
          // The names are checked before any I/O: no server listens there.
          const error = yield* Effect.flip(serve({ url: "postgres://127.0.0.1:1/none", options, layer }))
          assert.strictEqual(error._tag, "InvalidInput")
          assert.match(error.message, new RegExp(`^Postgres.layer: invalid input: ${field}: Expected a[^;]+$`))
        }
      }
    })
  )

  it.live.each([
    ["events", 56],
    ["states", 57],
    ["messages", 57],
    ["spool", 57]
  ] as const)("leave room for the ending of a function's name: that of %s can have %i bytes", ([table, bytes]) =>
    Effect.gen(function* () {
      const options = { tables: { [table]: "t".repeat(bytes + 1) } }
      const error = yield* Effect.flip(serve({ url: "postgres://127.0.0.1:1/none", options, layer: Postgres.layer }))
      assert.strictEqual(
        error.message,
        `Postgres.layer: invalid input: tables.${table}: Expected a name of at most ${bytes} bytes`
      )
    })
  )
})

describe("a database of migrations 1 to 7", () => {
  const tables = {
    events: "My events",
    offsets: "My offsets",
    states: "My states",
    messages: "My messages",
    spool: "My spool",
    migrations: "My migrations"
  }
  const sets = [
    {
      what: "with the tables' own names",
      schema: "public",
      options: {},
      names: ["events", "offsets_store", "states_store", "strata_messages", "retryspool_messages", "strata_migrations"],
      run: [1, 2, 3, 4, 15, 16, 18, 20, 21, 24, 25, 26, 34, 45, 46, 47, 48, 53, 59, 61, 63, 64, 66, 68, 69]
    },
    {
      what: "with a schema, other names and all that is optional",
      schema: "My schema",
      options: { schema: "My schema", tables, notify: "rows", index: "containment" },
      names: Object.values(tables),
      run: [1, 2, 3, 4, 5, 6, 15, 16, 18, 20, 21, 23, 24, 25, 26, 34, 45, 46, 47, 48, 53, 59, 61, 63, 64, 66, 68, 69]
    }
  ] as const

  it.live.each(sets)("$what has what a new one has once it is migrated, keeps its rows, and works", (set) =>
    Effect.gen(function* () {
      const { names, options, run, schema } = set
      const migrations = `"${schema}"."${names[5]}"`
      const url = yield* restore("migrations1to7.sql")
      const fresh = yield* scratchDatabase()
      yield* migrate(fresh, options)
      assert.notDeepEqual(yield* functions(url, schema), yield* functions(fresh, schema))

      yield* migrate(url, options)
      assert.deepStrictEqual(yield* functions(url, schema), yield* functions(fresh, schema))
      for (const name of names) {
        const parts = (url: string) =>
          Effect.map(shape(url, `"${schema}"."${name}"`), (rows) => rows.map((row) => row.slice(0, 3)))
        assert.deepStrictEqual(yield* parts(url), yield* parts(fresh))
      }
      const recorded = query(`SELECT DISTINCT id FROM ${migrations} WHERE id <> 7 ORDER BY 1`, url)
      assert.deepStrictEqual(
        yield* recorded,
        run.map((id) => [id])
      )

      // Nothing is pending, so a process that starts does not wait for the lock.
      const release = yield* holdLock(url)
      const stores = yield* serve({ url, options })
      yield* release

      const { events, offsets, spool, states } = stores
      assert.deepStrictEqual(
        (yield* events.load()).map(({ aggregateId, data, eventType, metadata, version }) => [
          version,
          aggregateId,
          eventType,
          data,
          metadata
        ]),
        [
          [1n, "a", "Made", { n: 1 }, null],
          [2n, "a", "Changed", { n: 2 }, { by: "anna" }],
          [3n, "b", "Made", null, null]
        ]
      )
      const again = { id: "first", aggregateId: "a", eventType: "Made", data: { n: 1 } }
      assert.strictEqual((yield* events.append(again, { onDuplicate: "ignore" }))[0]?.version, 1n)
      const conflict = yield* Effect.flip(
        events.append({ aggregateId: "a", eventType: "T", data: 0 }, { expected: 1n })
      )
      assert.strictEqual(conflict._tag, "VersionConflict")
      const next = yield* events.append({ aggregateId: "a", eventType: "T", data: 0 }, { expected: 2n })
      assert.strictEqual(next[0]?.version, 4n)

      assert.strictEqual(yield* shard(stores, "p").read, 3n)
      yield* offsets.advanceOffset({ projectionName: "p", shardNumber: 0 }, { from: Option.some(3n), to: 4n })

      assert.strictEqual(yield* show(stores, "s"), "4: \u0001\u0002")
      yield* Effect.forEach([state("s", 5n, "five"), state("t", 1n)], (one) => states.writeState(one), {
        concurrency: "unbounded"
      })
      yield* states.writeState(state("s", 6n, "six"))
      assert.instanceOf(yield* Effect.flip(states.writeState(state("s", 5n))), DurableStateStore.StaleState)
      assert.strictEqual(yield* show(stores, "s"), "6: six")

      const messages = yield* spool.claim({ limit: 9, lease: "1 minute", owner: "new" })
      assert.deepStrictEqual(
        messages.map(({ id, payload }) => [id, payload]),
        [["waits", { to: "anna" }]]
      )
      assert.strictEqual((yield* spool.getMeta("active")).state, "active")
      assert.deepStrictEqual(
        (yield* spool.recover({ grace: 0 })).map(({ id }) => id),
        ["active"]
      )
    })
  )
})

describe("functions", () => {
  it.live(
    "of the version before are found by its processes that still run, also by statements that they have prepared",
    () =>
      Effect.gen(function* () {
        const url = yield* restore("migrations1to7.sql")
        const former = yield* session(url)
        yield* former(`PREPARE append (TEXT) AS SELECT outcome, version FROM events_append(ARRAY[0], ARRAY[$1], ARRAY['former'],
        ARRAY['T'], ARRAY['1'], ARRAY['null'], ARRAY[true], ARRAY[false], ARRAY['any'], true)`)
        yield* former(`EXECUTE append ('before')`)
        const { events } = yield* serve({ url })
        yield* events.append({ aggregateId: "a", eventType: "T", data: 2, tags: ["t"] })
        const outcomes = yield* Effect.replicateEffect(former(`EXECUTE append ('after')`), 2)
        assert.deepStrictEqual(
          outcomes.map(([first]) => first),
          [
            { outcome: "stored", version: 6n },
            { outcome: "duplicate", version: null }
          ]
        )
        assert.lengthOf(yield* events.loadByAggregate("former"), 2)
      })
  )

  it.live("are made beside their tables, wherever on the search path these are", () =>
    Effect.gen(function* () {
      const url = yield* restore("migrations1to7.sql")
      yield* execute([`CREATE SCHEMA app`], url)
      yield* migrate(url, {}, { startupParameters: { search_path: "app, public" } })
      const fresh = yield* scratchDatabase()
      yield* migrate(fresh)
      assert.deepStrictEqual(yield* functions(url, "public"), yield* functions(fresh, "public"))
      assert.deepStrictEqual(yield* functions(url, "app"), [])
    })
  )

  it.live("leave no setting in the session that has made them", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const { sql } = yield* serve({ url, client: { maxConnections: 1 } })
      const settings = sql`SELECT current_setting('check_function_bodies'), current_setting('strata.function', true)`
      assert.deepStrictEqual(yield* settings.values, [["on", ""]])
    })
  )
})

describe("tables that are there", () => {
  it.live("and that a newer version has migrated are refused, naming both versions", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* migrate(url)
      yield* execute(
        [`INSERT INTO strata_migrations (id, table_name, file) VALUES (9999, 'events', '9999_events.sql')`],
        url
      )
      for (const start of [migrate(url), serve({ url })]) {
        yield* failsWith(
          start,
          "Postgres.migrate",
          "SchemaMissing",
          /"strata_migrations" records migration 9999, .* none above \d+: a newer effect-strata has migrated these tables; use that version/
        )
      }
      yield* assertWhole(yield* serve({ url, layer: Postgres.layerStorage }), url)
    })
  )

  it.live("are left as they are when a migration fails, with all that went before it undone", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      // A type of this name keeps the table from being made, after the schema and the table of records have been made.
      yield* execute([`CREATE SCHEMA app`, `CREATE TYPE app.offsets_store AS ENUM ('x')`], url)
      yield* failsWith(
        migrate(url, { schema: "app" }),
        "Postgres.migrate",
        "Unexpected",
        /type "offsets_store" already exists/
      )
      assert.deepStrictEqual(yield* objects(url), ["app"])
      yield* execute([`DROP TYPE app.offsets_store`], url)
      yield* migrate(url, { schema: "app" })
      assert.deepStrictEqual(yield* objects(url), [
        "app",
        "app.events",
        "app.events_archived",
        "app.events_archives",
        "app.events_log",
        "app.events_mark",
        "app.events_tags",
        "app.offsets_store",
        "app.retryspool_messages",
        "app.states_store",
        "app.strata_messages",
        "app.strata_migrations"
      ])
    })
  )

  it.live("because eGo made them are adopted as they are, and shared with it in both directions", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* execute(
        [
          `CREATE TABLE IF NOT EXISTS offsets_store (
            projection_name VARCHAR(255) NOT NULL, shard_number BIGINT NOT NULL, current_offset BIGINT NOT NULL,
            timestamp BIGINT NOT NULL, PRIMARY KEY (projection_name, shard_number))`,
          `CREATE INDEX idx_offsets_store_name ON offsets_store (projection_name)`,
          `CREATE INDEX idx_offsets_store_shard ON offsets_store (shard_number)`,
          `INSERT INTO offsets_store VALUES ('ego', 0, 1755381600123456789, 1755381600123), ('ego', 1, -1, 0), ('ünï 🐘', 7, 0, 1)`
        ],
        url
      )
      const rows = query(`SELECT *, xmin::text, ctid::text FROM offsets_store ORDER BY 1, 2`, url)
      const before = [yield* shape(url, "offsets_store"), yield* rows]
      yield* migrate(url)
      const stores = yield* serve({ url })
      assert.deepStrictEqual([yield* shape(url, "offsets_store"), yield* rows], before)
      assert.deepStrictEqual(yield* Stream.runCollect(stores.offsets.listOffsets()), [
        new OffsetStore.Offset({
          projectionName: "ego",
          shardNumber: 0,
          value: 1755381600123456789n,
          timestamp: 1755381600123n
        }),
        new OffsetStore.Offset({ projectionName: "ego", shardNumber: 1, value: -1n, timestamp: 0n }),
        new OffsetStore.Offset({ projectionName: "ünï 🐘", shardNumber: 7, value: 0n, timestamp: 1n })
      ])

      // eGo's own statements, on what the library wrote.
      const ego = (yield* serve({ url, layer: Postgres.layerStorage })).sql
      const { id, read, write } = shard(stores, "ego", 3)
      yield* write(10n)
      const select = ego`SELECT projection_name, shard_number, current_offset FROM offsets_store
        WHERE projection_name = ${"ego"} AND shard_number = ${3} LIMIT 1`.values
      assert.deepStrictEqual(yield* select, [["ego", 3n, 10n]])
      yield* Effect.all([
        ego`DELETE FROM offsets_store WHERE projection_name = ${"ego"} AND shard_number = ${3}`,
        ego`INSERT INTO offsets_store (projection_name,shard_number,current_offset,timestamp) VALUES (${"ego"},${3},${11n},${5n})`
      ]).pipe(ego.withTransaction)
      assert.strictEqual(yield* read, 11n)
      yield* stores.offsets.advanceOffset(id, { from: Option.some(11n), to: 12n })
      assert.deepStrictEqual(yield* select, [["ego", 3n, 12n]])
      yield* ego`UPDATE offsets_store SET current_offset = ${13n}, timestamp = ${6n} WHERE projection_name = ${"ego"}`
      assert.deepStrictEqual(yield* Effect.forEach([0, 1, 3], (number) => shard(stores, "ego", number).read), [
        13n,
        13n,
        13n
      ])
      assert.strictEqual(yield* stores.offsets.resetOffset("ego", 14n), 3)
      assert.deepStrictEqual(yield* select, [["ego", 3n, 14n]])
    })
  )
})
