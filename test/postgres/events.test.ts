/** What appends and rows are on a server: adopted tables, racing writers, foreign writers, roles, names, guards. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Stream } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { postgresUrl } from "../support/database.ts"
import { event, goSyncKit, plainInsert, serveEvents, session } from "./events.harness.ts"
import { execute, failsWith, freshRole, freshSchema, query, shape } from "./harness.ts"

const files = [
  "0002_events.sql",
  "0034_events_tags.sql",
  "0066_events_append.sql",
  "0059_events_missed.sql",
  "0061_events_key.sql",
  "0064_events_tags_types.sql",
  "0045_events_indexes_concurrently.sql",
  "0048_events_times_concurrently.sql"
].map((file) => fileURLToPath(new URL(`../../resources/postgres/${file}`, import.meta.url)))

describe("the application's pool", () => {
  it.live.each([{ prepare: false }, { multiplex: true, maxConnections: 2 }, { maxConnections: 1 }])(
    "serves the store with %o",
    (client) =>
      Effect.gen(function* () {
        const { events, sql, withTransaction } = yield* serveEvents({ client: { applicationName: "pool", ...client } })
        const [first] = yield* events.append(event("a"), { expected: "none" })
        const followed = yield* events
          .subscribe({ after: "start" })
          .pipe(Stream.take(5), Stream.runCollect, Effect.forkChild({ startImmediately: true }))
        yield* withTransaction(Effect.andThen(sql`SELECT 1`, events.append([event("b"), event("a")])))
        yield* Effect.all([events.append(event("c")), events.append(event("c"))], { concurrency: 2 })
        assert.strictEqual((yield* Effect.flip(events.append(event("a"), { expected: 1n })))._tag, "VersionConflict")
        assert.deepStrictEqual(yield* events.get(first?.id ?? ""), first)
        assert.deepStrictEqual(yield* Fiber.join(followed), yield* events.load())
      })
  )
})

describe("queries by what events contain", () => {
  it.live("use the indexes that were asked for, and find the same without them", () =>
    Effect.gen(function* () {
      const options = { index: "containment" as const }
      const indexed = yield* serveEvents({ options, client: { maxConnections: 1 } })
      const plain = yield* serveEvents()
      const batch = Array.from({ length: 5_000 }, (_, n) => ({ ...event("a"), data: { n }, metadata: { n } }))
      for (const { events, sql, table } of [indexed, plain]) {
        yield* events.append([...batch, { ...event("b"), data: null }])
        yield* sql.unsafe(`ANALYZE ${table}`)
        for (const [filter, versions] of [
          // Beyond what a page of one event looks through before it asks an index.
          [{ data: { n: 4990 } }, [4991n]],
          [{ metadata: { n: 4992 } }, [4993n]],
          [{ data: { n: 4990 }, metadata: { n: 8 } }, []],
          [{ data: null }, [5_001n]]
        ] as const) {
          const found = yield* Stream.runCollect(events.read({ ...filter, limit: 1 }))
          assert.deepStrictEqual(
            found.map(({ version }) => version),
            [...versions]
          )
        }
      }
      const scans = (schema: string) =>
        query(
          `SELECT indexrelname, idx_scan > 0 FROM pg_stat_user_indexes
           WHERE schemaname = '${schema}' AND indexrelname LIKE '%data_idx' ORDER BY 1`
        )
      yield* indexed.sql`SELECT pg_stat_force_next_flush()`
      assert.deepStrictEqual(yield* scans(indexed.schema), [
        ["events_data_idx", true],
        ["events_metadata_idx", true]
      ])
      assert.deepStrictEqual(yield* scans(plain.schema), [])
    })
  )
})

describe("the table", () => {
  it.live("of go-sync-kit is adopted with its events, and goes on from there", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* goSyncKit(schema)
      const { events, logged, table, watched } = yield* serveEvents({ options: { schema } })
      yield* watched(events.append({ ...event("user-123"), metadata: { by: "ts" } }, { expected: 2n }))
      const all = yield* events.load()
      assert.deepStrictEqual(
        all.map(({ data, metadata, streamName, version }) => [version, data, metadata, streamName]),
        [
          [1n, { name: "John" }, null, "stream_user-123"],
          [2n, null, { by: "go" }, "stream_user-123"],
          [3n, { text: "user-123" }, { by: "ts" }, "stream_user-123"]
        ]
      )
      assert.strictEqual(logged.filter((message) => message.includes("BIGSERIAL")).length, 1)
      // Its go program goes on too, with what it inserts.
      yield* execute([plainInsert(table, "go-4")])
      assert.strictEqual((yield* events.get("go-4")).version, 4n)
      const before = yield* shape(postgresUrl, table)
      assert.include(JSON.stringify(before), "(aggregate_id, version)")
      yield* serveEvents({ options: { schema } })
      assert.deepStrictEqual(yield* shape(postgresUrl, table), before)
    })
  )

  it.live("stays as it is when the migration runs again, and stores no NULL for metadata, as go-sync-kit expects", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* serveEvents()
      yield* events.append(event("a"))
      assert.deepStrictEqual(yield* query(`SELECT metadata::text FROM ${table}`), [["null"]])
      const before = yield* shape(postgresUrl, table)
      yield* execute([`DELETE FROM ${schema}.strata_migrations`])
      const again = yield* serveEvents({ options: { schema } })
      assert.deepStrictEqual(yield* shape(postgresUrl, table), before)
      assert.strictEqual((yield* again.events.load()).length, 1)
    })
  )

  it.live("that is something else is refused", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* execute([`CREATE SCHEMA ${schema}`, `CREATE TABLE ${schema}.events (id TEXT, version BIGINT)`])
      yield* failsWith(serveEvents({ options: { schema } }), "Postgres.migrate", "Unexpected", /is no log of events/)
    })
  )

  it.live.each(["My events", "My  own\n  events", `we"ird'; DROP`, "é".repeat(28), "x".repeat(56), "a$do$b$body$"])(
    "can have the name %s",
    (name) =>
      Effect.gen(function* () {
        const { events } = yield* serveEvents({ options: { schema: yield* freshSchema(), tables: { events: name } } })
        yield* events.append(event("a", "1"), { expected: "none" })
        const conflict = yield* Effect.flip(events.append(event("a", "2"), { expected: "none" }))
        assert.instanceOf(conflict, EventStore.VersionConflict)
        assert.strictEqual((yield* events.load()).length, 1)
      })
  )

  it.live("needs no more than SELECT and INSERT from a role that only uses it, whatever its search path", () =>
    Effect.gen(function* () {
      const { schema, table } = yield* serveEvents()
      const { role, url } = yield* freshRole()
      yield* execute([`GRANT USAGE ON SCHEMA ${schema} TO ${role}`, `GRANT SELECT, INSERT ON ${table} TO ${role}`])
      const client = { startupParameters: { search_path: "nowhere" } }
      const { events } = yield* serveEvents({ url, client, options: { schema }, layer: Postgres.layerStorage })
      const stored = yield* events.append(event("a", "1"), { expected: "none" })
      assert.deepStrictEqual(yield* events.append(event("a", "1"), { onDuplicate: "ignore" }), stored)
      assert.deepStrictEqual(yield* events.load(), stored)
    })
  )

  it.live.each([
    ["CACHE 10", "CACHE 1"],
    ["INCREMENT 2", "INCREMENT 1"],
    ["CYCLE", "NO CYCLE"]
  ] as const)("with a sequence of %s is refused", ([setting, fix]) =>
    Effect.gen(function* () {
      const { schema } = yield* serveEvents()
      yield* execute([`ALTER SEQUENCE ${schema}.events_version_seq ${setting}`])
      const says = new RegExp(`has ${setting}, .* run ALTER SEQUENCE \\S+events_version_seq ${fix}`)
      yield* failsWith(serveEvents({ options: { schema } }), "Postgres.layer", "Unexpected", says)
      const { events } = yield* serveEvents({ options: { schema }, layer: Postgres.layerStorage })
      yield* failsWith(events.append(event("a")), "EventStore.append", "Unexpected", says)
      yield* failsWith(events.load(), "EventStore.load", "Unexpected", says)
    })
  )

  it.live.skipIf(spawnSync("psql", ["--version"]).status !== 0)("can be made by hand, with psql, twice", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* execute([`CREATE SCHEMA ${schema}`])
      for (const name of [undefined, undefined, `My "events"`]) {
        const given = name === undefined ? [] : ["-v", `events=${name}`]
        const { status, stderr } = spawnSync(
          "psql",
          [
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            ...given,
            "-c",
            `SET search_path TO ${schema}`,
            ...files.flatMap((file) => ["-f", file]),
            postgresUrl
          ],
          { encoding: "utf8" }
        )
        assert.strictEqual(status, 0, stderr)
        const options = { schema, tables: { events: name ?? "events" } }
        const { events } = yield* serveEvents({ options, layer: Postgres.layerStorage })
        yield* events.append(event("a"), { expected: name === undefined ? "any" : "none" })
      }
    })
  )

  it.live("that is not there is SchemaMissing", () =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents({ layer: Postgres.layerStorage })
      yield* failsWith(events.append(event("a")), "EventStore.append", "SchemaMissing", /run the migrations/)
      yield* failsWith(events.load(), "EventStore.load", "SchemaMissing", /run the migrations/)
      yield* failsWith(events.loadByAggregate("a"), "EventStore.loadByAggregate", "SchemaMissing", /run the migrations/)
    })
  )
})

describe("racing writers", () => {
  it.live("with the same expectation: one of twenty wins each round, and the others burn no version", () =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents()
      let last = 0n
      for (let round = 0; round < 20; round++) {
        const expected = last === 0n ? "none" : last
        const exits = yield* Effect.forEach(
          Array.from({ length: 20 }, () => event("a")),
          (one) => Effect.exit(events.append(one, { expected })),
          { concurrency: "unbounded" }
        )
        const won = exits.filter(Exit.isSuccess).flatMap(({ value }) => value)
        assert.strictEqual(won.length, 1)
        for (const exit of exits.filter(Exit.isFailure)) {
          const error = Option.getOrThrow(Exit.findErrorOption(exit))
          assert.deepStrictEqual(
            error,
            new EventStore.VersionConflict({ aggregateId: "a", expected, actual: Option.some(won[0]?.version ?? -1n) })
          )
        }
        last = won[0]?.version ?? -1n
      }
      assert.strictEqual(last, 20n)
    })
  )

  it.live(
    "of one id: one of twenty stores it, the others get it back, or EventStore.DuplicateEvent, and burn no version",
    () =>
      Effect.gen(function* () {
        const { events } = yield* serveEvents()
        for (let round = 0; round < 10; round++) {
          const all = yield* Effect.forEach(
            Array.from({ length: 20 }, () => event("a", `ignored ${round}`)),
            (one) => events.append(one, { onDuplicate: "ignore" }),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(new Set(all.map(([stored]) => stored?.version)).size, 1)
          const exits = yield* Effect.forEach(
            Array.from({ length: 20 }, () => event("a", `refused ${round}`)),
            (one) => Effect.result(events.append(one)),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(exits.filter(({ _tag }) => _tag === "Success").length, 1)
        }
        assert.strictEqual(yield* events.latestVersion, 20n)
      })
  )

  it.live(
    "with large batches, in opposite orders, neither block each other in a circle nor exhaust the lock table",
    () =>
      Effect.gen(function* () {
        const { events } = yield* serveEvents()
        const batch = (writer: number) =>
          Array.from({ length: 3000 }, (_, index) => event(`aggregate ${index}`, `${writer}/${index}`))
        yield* Effect.forEach(
          Array.from({ length: 6 }, (_, writer) => (writer % 2 === 0 ? batch(writer) : batch(writer).toReversed())),
          (one) => events.append(one),
          { concurrency: "unbounded" }
        )
        yield* Effect.forEach(
          Array.from({ length: 40 }, (_, n) => n),
          (n) => {
            const pair = [event("left"), event("right")]
            return events
              .append(n % 2 === 0 ? pair : pair.toReversed(), {
                expected: n % 3 === 0 ? "any" : { left: "some", right: "any" }
              })
              .pipe(Effect.catchTag("VersionConflict", () => Effect.void))
          },
          { concurrency: "unbounded" }
        )
        assert.isAtLeast(Number(yield* events.latestVersion), 18_000)
      })
  )

  it.live("that insert by plain SQL: the same id is EventStore.DuplicateEvent, in a transaction Contention", () =>
    Effect.gen(function* () {
      const { events, table, withTransaction } = yield* serveEvents()
      const foreign = yield* session()
      for (const [id, run] of [
        ["outside", (self: ReturnType<typeof events.append>) => self],
        ["inside", withTransaction]
      ] as const) {
        yield* foreign("BEGIN")
        yield* foreign(plainInsert(table, id))
        const fiber = yield* Effect.forkChild(Effect.exit(run(events.append(event("a", id)))), {
          startImmediately: true
        })
        yield* waitUntilBlocked(table)
        yield* foreign("COMMIT")
        const exit = yield* Fiber.join(fiber)
        if (id === "outside") assert.deepStrictEqual(exit, Exit.fail(new EventStore.DuplicateEvent({ id })))
        else yield* failsWith(exit, "EventStore.append", "Contention", /run the transaction again/)
      }
    })
  )
})

/** Waits until a statement waits for a transaction that has inserted into the table. */
const waitUntilBlocked = (table: string) =>
  query(
    `SELECT count(*)::int FROM pg_locks JOIN pg_locks AS mine USING (pid)
     WHERE NOT pg_locks.granted AND mine.relation = '${table}'::regclass`
  ).pipe(Effect.delay(20), Effect.repeat({ until: (rows) => rows[0]?.[0] !== 0, times: 200 }))

describe("inside a transaction", () => {
  it.live("a conflict and a duplicate do not spoil it", () =>
    Effect.gen(function* () {
      const { events, withTransaction } = yield* serveEvents()
      yield* withTransaction(
        Effect.gen(function* () {
          yield* events.append(event("a", "1"))
          assert.instanceOf(
            yield* Effect.flip(events.append(event("a"), { expected: "none" })),
            EventStore.VersionConflict
          )
          assert.instanceOf(yield* Effect.flip(events.append(event("a", "1"))), EventStore.DuplicateEvent)
          yield* events.append(event("a", "2"), { expected: 1n })
        })
      )
      assert.deepStrictEqual(
        (yield* events.load()).map(({ id, version }) => [id, version]),
        [
          ["1", 1n],
          ["2", 2n]
        ]
      )
    })
  )

  it.live("of another isolation level, what cannot be checked is refused", () =>
    Effect.gen(function* () {
      const { events, sql } = yield* serveEvents()
      yield* events.append(event("a"))
      const failed = yield* Effect.exit(
        sql.withTransaction(
          Effect.andThen(
            sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`,
            events.append(event("a"), { expected: "some" })
          )
        )
      )
      yield* failsWith(failed, "EventStore.append", "Unexpected", /READ COMMITTED/)
    })
  )
})

describe("numbers", () => {
  it.live.each(["9007199254740993", "[1, -9007199254740993]", `{"a": 0.12345678901234567890}`, "1e400"])(
    "that JavaScript cannot hold are CorruptRow: %s",
    (json) =>
      Effect.gen(function* () {
        const { events, table } = yield* serveEvents()
        yield* events.append(event("a", "before"))
        yield* execute([plainInsert(table, "bad", "bad", json)])
        yield* events.append(event("a", "after"))
        yield* failsWith(
          events.load(),
          "EventStore.load",
          "CorruptRow",
          /row 2 of events does not fit .* hold the number/
        )
        yield* failsWith(events.get("bad"), "EventStore.get", "CorruptRow", /row 2 of events/)
        assert.strictEqual((yield* events.load(2n)).length, 1)
        assert.strictEqual((yield* events.loadByAggregate("a")).length, 2)
      })
  )

  it.live("that it can hold are read as they are, and so are digits in text", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      const small = [0.1 + 0.2, 1e-7, 5e-324, 1.7976931348623157e-300, -9007199254740991, 1 / 3, 123456789.12345679, 0]
      const data = [...small, 2 ** 53, 2 ** 60, -1e21, Number.MAX_VALUE]
      const text = { [`9007199254740993" \\`]: `\\"9007199254740993.0\\\\`, "\\": "90071992547409931" }
      yield* events.append([
        { ...event("a"), data },
        { ...event("a"), data: [text, 0.1 + 0.2, text] }
      ])
      yield* execute([plainInsert(table, "padded", "a", "[1.00000000000000000000, 1e3, 1e21, 1.7976931348623157e308]")])
      const [first, second, third] = yield* events.load()
      assert.deepStrictEqual(first?.data, data)
      assert.deepStrictEqual(second?.data, [text, 0.1 + 0.2, text])
      assert.deepStrictEqual(third?.data, [1, 1000, 1e21, Number.MAX_VALUE])
    })
  )
})
