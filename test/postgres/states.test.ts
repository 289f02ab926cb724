/** What states are on a server: adopted tables, foreign writers, roles, names, one transaction with all. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Stream } from "effect"
import { DurableStateStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { protobuf } from "effect-strata/protobuf"
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { account, AccountSchema } from "../codecs/messages.ts"
import { postgresUrl, scratchDatabase } from "../support/database.ts"
import { assertWhole, execute, failsWith, freshRole, freshSchema, migrate, query, serve, shape } from "./harness.ts"
import { served, show, state } from "./states.harness.ts"

const files = [
  "0003_states.sql",
  "0020_states_write.sql",
  "0021_states_write_many.sql",
  "0046_states_index_concurrently.sql"
].map((file) => fileURLToPath(new URL(`../../resources/postgres/${file}`, import.meta.url)))

/** The table as eGo's own DDL makes it, with rows as eGo writes them. */
const ego = (schema: string) => [
  `CREATE SCHEMA ${schema}`,
  `CREATE TABLE IF NOT EXISTS ${schema}.states_store (
    persistence_id VARCHAR(255) PRIMARY KEY, version_number BIGINT NOT NULL, state_payload BYTEA NOT NULL,
    state_manifest VARCHAR(255) NOT NULL, timestamp BIGINT NOT NULL, shard_number BIGINT NOT NULL)`,
  `CREATE INDEX IF NOT EXISTS idx_states_store_version_number ON ${schema}.states_store (version_number)`,
  // An Any of test.Account { account_id: "a-42", balance_cents: 4200 }, and the message by itself under its own name.
  `INSERT INTO ${schema}.states_store VALUES
    ('a-42', 2, '\\x0a20747970652e676f6f676c65617069732e636f6d2f746573742e4163636f756e7412090a04612d343210e820',
      'google.protobuf.Any', 1755381600123456789, 3),
    ('concrete', 1, '\\x0a04612d343210e820', 'test.Account', 0, 0),
    ('unregistered', 1, '\\x0a1f747970652e676f6f676c65617069732e636f6d2f746573742e4f7264657273',
      'google.protobuf.Any', 0, 0)`
]

const accounts = DurableStateStore.typed({ codec: protobuf(AccountSchema), initial: () => account({}) })

describe("the table", () => {
  it.live("of eGo is adopted as it is, and shared with it in both directions", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const table = `${schema}.states_store`
      yield* execute(ego(schema))
      const rows = query(`SELECT *, xmin::text, ctid::text FROM ${table} ORDER BY 1`)
      const before = [yield* shape(postgresUrl, table), yield* rows]
      const { sql, states } = yield* served({ options: { schema } })
      assert.deepStrictEqual([yield* shape(postgresUrl, table), yield* rows], before)
      assert.deepStrictEqual(
        (yield* Stream.runCollect(states.listStates())).map((row) => [
          row.persistenceId,
          row.versionNumber,
          row.manifest,
          row.timestamp,
          row.shard
        ]),
        [
          ["a-42", 2n, "google.protobuf.Any", 1755381600123456789n, 3],
          ["concrete", 1n, "test.Account", 0n, 0],
          ["unregistered", 1n, "google.protobuf.Any", 0n, 0]
        ]
      )

      const { modify, read } = yield* Effect.provideService(accounts, DurableStateStore.DurableStateStore, states)
      const expected = account({ accountId: "a-42", balanceCents: 4200n })
      assert.deepStrictEqual((yield* read("a-42")).value, expected)
      assert.deepStrictEqual((yield* read("concrete")).value, expected)
      yield* failsWith(read("unregistered"), "DurableStateStore.read", "CorruptRow", /no codec for "test.Orders"/)

      // What is written is what eGo writes; its statement finds it, and overwrites it.
      yield* modify("concrete", (message) => message)
      yield* modify("new", () => expected)
      const ours = `SELECT encode(state_payload, 'hex'), state_manifest, version_number FROM ${table} WHERE persistence_id`
      const any = "0a20747970652e676f6f676c65617069732e636f6d2f746573742e4163636f756e7412090a04612d343210e820"
      assert.deepStrictEqual(yield* query(`${ours} = 'concrete'`), [[any, "google.protobuf.Any", 2n]])
      assert.deepStrictEqual(yield* query(`${ours} = 'new'`), [[any, "google.protobuf.Any", 1n]])
      yield* sql`
        INSERT INTO ${sql.literal(table)}
          (persistence_id,version_number,state_payload,state_manifest,timestamp,shard_number)
        VALUES (${"new"},${1n},${new Uint8Array()},${"google.protobuf.Empty"},${5n},${1n})
        ON CONFLICT (persistence_id) DO UPDATE SET version_number = excluded.version_number,
          state_payload = excluded.state_payload, state_manifest = excluded.state_manifest,
          timestamp = excluded.timestamp, shard_number = excluded.shard_number`
      const overwritten = Option.getOrThrow(yield* states.getLatestState("new"))
      assert.deepStrictEqual([overwritten.manifest, overwritten.shard], ["google.protobuf.Empty", 1])
    })
  )

  it.live("gets the index of eGo where it has none, once, and one under another name where that is taken", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const indexes = query(
        `SELECT indrelid::regclass::text, indexrelid::regclass::text FROM pg_index
         WHERE indrelid::regclass::text LIKE '${schema}.%states%' AND NOT indisprimary ORDER BY 1`
      )
      yield* execute(ego(schema).filter((statement) => !statement.startsWith("CREATE INDEX")))
      for (let start = 0; start < 2; start++) {
        yield* served({ options: { schema } })
        assert.deepStrictEqual(yield* indexes, [
          [`${schema}.states_store`, `${schema}.idx_states_store_version_number`]
        ])
        yield* execute([`DELETE FROM ${schema}.strata_migrations`])
      }
      yield* execute([`ALTER TABLE ${schema}.states_store RENAME TO states_old`])
      yield* served({ options: { schema } })
      const long = `states_${"x".repeat(50)}`
      yield* served({ options: { schema, tables: { states: long } } })
      assert.strictEqual((yield* indexes).length, 3)
    })
  )

  it.live.each(["My states", "My  own\n  states", `we"ird'; DROP`, "é".repeat(28), "x".repeat(57), "a$do$b$1%s"])(
    "can have the name %s, with its index",
    (name) =>
      Effect.gen(function* () {
        const { states } = yield* served({ options: { tables: { states: name } } })
        yield* states.writeState(state("a", 1n, "1"))
        yield* states.overwriteState(state("b", 1n, "1"))
        assert.instanceOf(yield* Effect.flip(states.writeState(state("a", 0n))), DurableStateStore.StaleState)
        assert.strictEqual((yield* Stream.runCollect(states.listStates())).length, 2)
        assert.strictEqual((yield* states.getStates(["a", "b"])).length, 2)
        assert.isTrue(yield* states.deleteState("a"))
      })
  )

  it.live("needs SELECT, INSERT, UPDATE and DELETE from a role that only uses it, whatever its search path", () =>
    Effect.gen(function* () {
      const { schema, table } = yield* served()
      const { role, url } = yield* freshRole()
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT SELECT, INSERT, UPDATE, DELETE ON ${table} TO ${role}`
      ])
      const client = { startupParameters: { search_path: "nowhere" } }
      const { states } = yield* serve({ url, client, options: { schema }, layer: Postgres.layerStorage })
      yield* states.ping
      yield* states.writeState(state("a", 1n, "1"))
      yield* states.writeState(state("a", 1n, "1"))
      assert.instanceOf(yield* Effect.flip(states.writeState(state("a", 1n, "2"))), DurableStateStore.StaleState)
      yield* states.overwriteState(state("a", 1n, "2"))
      assert.strictEqual((yield* Stream.runCollect(states.listStates({ shard: 0 }))).length, 1)
      assert.isTrue(yield* states.deleteState("a"))
    })
  )

  it.live.skipIf(spawnSync("psql", ["--version"]).status !== 0)("can be made by hand, with psql, twice", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* migrate(url)
      const definition = Effect.fnUntraced(function* (table: string) {
        const parts = yield* shape(url, table)
        return parts.map(([, text]) => String(text).replace(/INDEX .* USING/, "INDEX USING")).toSorted()
      })
      const expected = yield* definition("public.states_store")
      yield* execute([`CREATE SCHEMA app`], url)
      for (const name of [undefined, undefined, `My "states"`]) {
        const given = name === undefined ? [] : ["-v", `states=${name}`]
        const { status, stderr } = spawnSync(
          "psql",
          [
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            ...given,
            "-c",
            `SET search_path TO app`,
            ...files.flatMap((file) => ["-f", file]),
            url
          ],
          { encoding: "utf8" }
        )
        assert.strictEqual(status, 0, stderr)
        assert.deepStrictEqual(yield* definition(`app."${(name ?? "states_store").replaceAll('"', '""')}"`), expected)
        const options = { schema: "app", tables: { states: name ?? "states_store" } }
        const { states } = yield* serve({ url, options, layer: Postgres.layerStorage })
        yield* states.writeState(state("a", 1n))
      }
    })
  )

  it.live("that is not there is SchemaMissing", () =>
    Effect.gen(function* () {
      const { states } = yield* served({ layer: Postgres.layerStorage })
      const missing = (at: string) => [`DurableStateStore.${at}`, "SchemaMissing", /run the migrations/] as const
      yield* failsWith(states.ping, ...missing("ping"))
      yield* failsWith(states.writeState(state("a", 1n)), ...missing("writeState"))
      yield* failsWith(states.getLatestState("a"), ...missing("getLatestState"))
      yield* failsWith(Stream.runDrain(states.listStates()), ...missing("listStates"))
    })
  )

  it.live("of an earlier version gets its functions by the migrations, and is SchemaMissing without them", () =>
    Effect.gen(function* () {
      const { schema, states } = yield* served()
      yield* states.writeState(state("a", 1n))
      const gone = `SELECT format('DROP FUNCTION %s', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = '${schema}'::regnamespace AND proname = 'states_store_write'`
      yield* execute((yield* query(gone)).map(([statement]) => String(statement)))
      yield* execute([`DELETE FROM ${schema}.strata_migrations WHERE id IN (20, 21)`])
      const write = states.writeState(state("a", 2n))
      yield* failsWith(write, "DurableStateStore.writeState", "SchemaMissing", /run the migrations/)
      yield* migrate(postgresUrl, { schema })
      yield* write
      assert.strictEqual(yield* show({ states }, "a"), "2: ")
    })
  )

  it.live("can hold rows that do not fit: they are CorruptRow, by id, and the others are read", () =>
    Effect.gen(function* () {
      const { states, table } = yield* served()
      const row = (id: string, version: string, manifest: string, shard: string) =>
        execute([`INSERT INTO ${table} VALUES ('${id}', ${version}, '', '${manifest}', 0, ${shard})`])
      yield* row("version", "-1", "m", "0")
      yield* row("shard", "1", "m", "-1")
      yield* row("large shard", "1", "m", "9007199254740993")
      yield* row("manifest", "1", "", "0")
      yield* states.writeState(state("fine", 1n))
      for (const [id, field] of [
        ["version", "versionNumber"],
        ["shard", "shard"],
        ["large shard", "shard"],
        ["manifest", "manifest"]
      ] as const) {
        yield* failsWith(
          states.getLatestState(id),
          "DurableStateStore.getLatestState",
          "CorruptRow",
          new RegExp(`row ${id} of states_store does not fit the model \\(${field}: .*\\); mend or delete it`)
        )
      }
      assert.strictEqual(yield* show({ states }, "fine"), "1: ")
      yield* states.overwriteState(state("version", 1n, "mended"))
      assert.strictEqual(yield* show({ states }, "version"), "1: mended")
    })
  )

  it.live("takes the largest payload that is allowed, and gives it back", () =>
    Effect.gen(function* () {
      const { states } = yield* served()
      const payload = new Uint8Array(DurableStateStore.maxPayloadBytes).fill(7)
      const persistenceId = "🐘".repeat(255)
      yield* states.writeState({ ...state(persistenceId, 1n), payload, manifest: persistenceId })
      const [listed] = yield* Stream.runCollect(states.listStates())
      assert.strictEqual(listed?.payload.length, payload.length)
      const stale = yield* Effect.flip(states.writeState(state(persistenceId, 0n)))
      assert.isTrue(stale._tag === "StaleState" && stale.current.payload.length === payload.length)
    })
  )
})

const parts = ["event", "state", "offset", "row"] as const
type Part = (typeof parts)[number]

describe("one transaction", () => {
  /** An event, a state, an offset and a row of the application's own. */
  const everything = Effect.fnUntraced(function* () {
    const application = yield* served()
    const { events, offsets, schema, sql, states, transactor } = application
    const accounts = sql.literal(`${schema}.accounts`)
    yield* sql`CREATE TABLE ${accounts} (id INT PRIMARY KEY)`
    const id = { projectionName: "accounts", shardNumber: 0 }
    const steps: Record<Part, Effect.Effect<unknown, unknown>> = {
      event: events.append({ aggregateId: "a", eventType: "Opened", data: {} }, { expected: "none" }),
      state: states.writeState(state("a", 1n, "1")),
      offset: offsets.advanceOffset(id, { from: Option.none(), to: 1n }),
      row: sql`INSERT INTO ${accounts} VALUES (1)`
    }
    const stored = Effect.all([
      Effect.map(events.loadByAggregate("a"), (all) => all.length),
      Effect.map(states.getLatestState("a"), Option.isSome),
      Effect.map(offsets.getCurrentOffset(id), Option.isSome),
      Effect.map(sql`SELECT FROM ${accounts}`, (rows) => rows.length)
    ])
    return { application, transactor, sql, steps, stored }
  })

  it.live("commits an event, a state, an offset and the application's own row together", () =>
    Effect.gen(function* () {
      const { application, sql, steps, stored, transactor } = yield* everything()
      for (const withTransaction of [transactor.withTransaction, sql.withTransaction]) {
        const all = Effect.all(Object.values(steps), { discard: true })
        yield* Effect.exit(withTransaction(Effect.andThen(all, Effect.fail("at the end"))))
        assert.deepStrictEqual(yield* stored, [0, false, false, 0])
      }
      yield* transactor.withTransaction(
        Effect.gen(function* () {
          yield* Effect.all(Object.values(steps), { discard: true })
          assert.deepStrictEqual(yield* stored, [1, true, true, 1])
        })
      )
      assert.deepStrictEqual(yield* stored, [1, true, true, 1])
      yield* assertWhole(application)
    })
  )

  it.live.each(parts)("leaves nothing where the %s fails", (failing) =>
    Effect.gen(function* () {
      const { application, steps, stored, transactor } = yield* everything()
      const last = steps[failing]
      const others = Object.values(steps).filter((step) => step !== last)
      // It is there already, so doing it again is what fails. The same state again would be fine, another one is not.
      yield* failing === "state" ? application.states.writeState(state("a", 1n, "other")) : last
      const expected = yield* stored
      assert.strictEqual(expected.filter((part) => part === 1 || part === true).length, 1)
      const exit = yield* Effect.exit(transactor.withTransaction(Effect.all([...others, last])))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(yield* stored, expected)
      yield* assertWhole(application)
    })
  )
})

describe("listing", () => {
  it.live("reads each page by the index, and no more than fits", () =>
    Effect.gen(function* () {
      const { schema, sql, states, table } = yield* served()
      yield* sql`
        INSERT INTO ${sql.literal(table)} SELECT 'entity ' || n, 1, decode(repeat('00', 20000), 'hex'), 'm', 0, n % 10
        FROM generate_series(1, 2000) AS n`
      yield* execute([`ANALYZE ${schema}.states_store`])
      const pages: Array<number> = []
      yield* Stream.runForEachArray(states.listStates(), (page) => Effect.sync(() => pages.push(page.length)))
      assert.strictEqual(
        pages.reduce((sum, length) => sum + length, 0),
        2000
      )
      // 20,000 bytes each, so some 210 in 4 MiB.
      assert.isAtMost(Math.max(...pages), 211)
      const shard = yield* Stream.runCollect(states.listStates({ shard: 3 }))
      assert.strictEqual(shard.length, 200)
    })
  )

  it.live("lists what exists throughout exactly once, while others write, delete and insert", () =>
    Effect.gen(function* () {
      const { sql, states, table } = yield* served()
      yield* sql`INSERT INTO ${sql.literal(table)} SELECT 'stays ' || n, 1, '', 'm', 0, 0 FROM generate_series(1, 1500) AS n`
      const writing = yield* Effect.forkChild(
        Effect.gen(function* () {
          for (let version = 2n; ; version++) {
            const id = `stays ${(version * 7n) % 1500n}`
            yield* states.overwriteState(state(id, version))
            yield* states.writeState(state(`goes ${version}`, 1n))
            yield* states.deleteState(`goes ${version - 1n}`)
          }
        })
      )
      for (let times = 0; times < 5; times++) {
        const listed = yield* Stream.runCollect(states.listStates())
        const staying = listed.map(({ persistenceId }) => persistenceId).filter((id) => /^stays [1-9]/.test(id))
        assert.strictEqual(staying.length, 1500)
        assert.strictEqual(new Set(staying).size, 1500)
      }
      yield* Fiber.interrupt(writing)
    })
  )
})
