/** Content that is small when it is sent, and large when it is read: it may cost its author an error, and nobody else. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Fiber, Layer, Logger, Stream } from "effect"
import { EventStore, SpoolStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fails, jsonLines, strataProcess, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { event, follow, serveEvents } from "../postgres/events.harness.ts"
import { execute, failsWith, query } from "../postgres/harness.ts"
import { serveSpool } from "../postgres/spool.harness.ts"
import { withDatabase } from "../support/database.ts"

/** 420 KB as JavaScript writes it, and 19.7 MB as `jsonb` does. */
const growing = Array.from({ length: 60_000 }, () => 5e-324)
const growingSql = `(SELECT jsonb_agg(5e-324::numeric) FROM generate_series(1, 60000))`
const growingJson = JSON.stringify(growing)

const tooLarge = /is larger than the driver takes, with about \d{8} bytes of JSON; raise maxMessageSize/

/** Some 30 KB as it is stored, and 1.1 GB as text: the server cannot make it, and the statement that finds it fails as a whole. */
const hugeSql = `('[' || repeat('1e131000,', 8199) || '1e131000]')::jsonb`

const hugeTooLarge = /is larger than the driver takes, with about 1073741824 bytes of JSON/

describe("JSON whose text is longer than the server can make", () => {
  it.live("is one event that cannot be read, and can be passed: read, subscribe, export", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        const served = yield* serveEvents({ url, options: { schema: "public" } })
        const { events, table } = served
        const { eventType } = event("a")
        const others = yield* follow(served, { after: "start", eventTypes: [eventType] })
        const all = yield* follow(served, { after: "start" })
        yield* events.append([event("a"), event("b"), event("a")])
        yield* execute(
          [`INSERT INTO ${table} (id, aggregate_id, event_type, data) VALUES ('huge', 'a', 'Huge', ${hugeSql})`],
          url
        )
        yield* events.append([event("a"), event("b")])
        yield* others.until(6n)
        yield* failsWith(Fiber.join(all.fiber), "EventStore.subscribe", "CorruptRow", hugeTooLarge)
        assert.deepStrictEqual(
          [others.seen, all.seen],
          [
            [1n, 2n, 3n, 5n, 6n],
            [1n, 2n, 3n]
          ]
        )

        const seen: Array<bigint> = []
        const read = Stream.runForEach(events.read(), ({ version }) => Effect.sync(() => seen.push(version)))
        yield* failsWith(read, "EventStore.read", "CorruptRow", new RegExp(`row 4 of .*${hugeTooLarge.source}`))
        assert.deepStrictEqual(seen, [1n, 2n, 3n])
        assert.strictEqual((yield* events.load(4n)).length, 2)

        const file = join(yield* temporaryDirectory, "events.jsonl")
        yield* fails(["events", "export", file], 1, new RegExp(`row 4 of events ${hugeTooLarge.source}`), { url })
      })
    )
  )

  it.live("does not block a queue", () =>
    Effect.gen(function* () {
      const { spool, table } = yield* serveSpool()
      yield* spool.storeMany(["before", "huge", "after"].map((id) => ({ id, payload: id })))
      yield* execute([`UPDATE ${table} SET headers = jsonb_build_object('a', ${hugeSql}) WHERE id = 'huge'`])
      const claimed = yield* spool.claim({ limit: 3, lease: 0, owner: "o" })
      assert.deepStrictEqual(
        claimed.map(({ id, payload }) => [id, payload]),
        [
          ["before", "before"],
          ["after", "after"]
        ]
      )
      const [[state, error] = []] = yield* query(`SELECT state, last_error FROM ${table} WHERE id = 'huge'`)
      assert.strictEqual(state, 4)
      assert.match(String(error), hugeTooLarge)
      yield* failsWith(spool.listMessages("bounce"), "SpoolStore.listMessages", "CorruptRow", hugeTooLarge)
    })
  )
})

describe("JSON that grows when it is read", () => {
  it.live("is refused by append and enqueue", () =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents()
      const { spool } = yield* serveSpool()
      const big = { aggregateId: "a", eventType: "Big", data: growing }
      const refused = [
        yield* Effect.flip(events.append(big)),
        yield* Effect.flip(events.append({ ...big, data: null, metadata: { growing } })),
        yield* Effect.flip(spool.storeMeta({ id: "big", payload: growing }))
      ]
      for (const error of refused)
        assert.match(`${error}`, /InvalidInput: .*: Expected (a )?JSON (object )?of at most \d+ bytes/)
    })
  )

  it.live("and stored by others is one row that cannot be read: readers of other types never learn of it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, table } = served
      yield* events.append(event("a"))
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data) VALUES ('big', 'big', 'Big', ${growingSql})`
      ])
      yield* events.append(event("a"))
      const says = /row 2 of events is larger than the driver takes/
      yield* failsWith(events.load(), "EventStore.load", "CorruptRow", says)
      const { eventType } = event("a")
      const read = yield* Stream.runCollect(events.read({ eventTypes: [eventType] }))
      assert.deepStrictEqual(
        read.map(({ version }) => version),
        [1n, 3n]
      )
      const others = yield* follow(served, { after: "start", eventTypes: [eventType] })
      const all = yield* follow(served, { after: "start" })
      yield* others.until(3n)
      yield* failsWith(Fiber.join(all.fiber), "EventStore.subscribe", "CorruptRow", says)
      // At the tail, too.
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data) VALUES ('bigger', 'big', 'Big', ${growingSql})`
      ])
      yield* events.append(event("a"))
      yield* others.until(5n)
      assert.deepStrictEqual(others.seen, [1n, 3n, 5n])
    })
  )

  it.live.each([
    { what: "the payload", change: `payload = ${growingSql}` },
    { what: "the headers", change: `headers = jsonb_build_object('a', ${growingSql})` }
  ])("does not block a queue: $what", ({ change }) =>
    Effect.gen(function* () {
      const logged: Array<string> = []
      const { spool, table } = yield* serveSpool()
      yield* spool.storeMany(["before", "big", "after", "other"].map((id) => ({ id, payload: id })))
      yield* execute([`UPDATE ${table} SET ${change} WHERE id = 'big'`])
      yield* failsWith(spool.getMeta("big"), "SpoolStore.getMeta", "CorruptRow", tooLarge)
      const update = spool.updateMeta("big", { size: 5n })
      yield* failsWith(update, "SpoolStore.updateMeta", "CorruptRow", tooLarge)

      const logger = Logger.make(({ message }) => void logged.push(String(message)))
      const claimed = yield* Effect.provide(spool.claim({ limit: 3, lease: 0, owner: "o" }), Logger.layer([logger]))
      assert.deepStrictEqual(
        claimed.map(({ id, payload }) => [id, payload]),
        [
          ["before", "before"],
          ["after", "after"]
        ]
      )
      assert.match(logged.join("\n"), tooLarge)
      const [[state, error] = []] = yield* query(`SELECT state, last_error FROM ${table} WHERE id = 'big'`)
      assert.strictEqual(state, 4)
      assert.match(String(error), tooLarge)

      // One that is active is recovered, and bounces at the next claim.
      yield* execute([`UPDATE ${table} SET state = 1, lease_owner = 'dead', lease_until = now() WHERE id = 'big'`])
      const ids = (yield* spool.recover()).map(({ id }) => id)
      assert.sameMembers(ids, ["before", "after"])
      assert.strictEqual((yield* spool.claim({ limit: 10, lease: 0, owner: "o" })).length, 3)
      assert.strictEqual((yield* spool.countByState()).bounce, 1)
    })
  )

  it.live("nor does a long error of another program", () =>
    Effect.gen(function* () {
      const { spool, table } = yield* serveSpool()
      yield* spool.storeMeta({ id: "a" })
      yield* execute([
        `UPDATE ${table} SET last_error = repeat('é', 20000000), retry_policy_name = repeat('p', 20000000) WHERE id = 'a'`
      ])
      const [message] = yield* spool.claim({ limit: 1, lease: 0, owner: "o" })
      assert.strictEqual(message?.lastError, "é".repeat(SpoolStore.maxTextLength))
      assert.strictEqual((yield* spool.listMessages("active")).messages.length, 1)
    })
  )

  it.live("is refused by import, and named by export", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        const directory = yield* temporaryDirectory
        const file = join(directory, "events.jsonl")
        const line = (id: string, data: string, metadata = "null") =>
          `{"id":"${id}","aggregateId":"a","eventType":"T","data":${data},"metadata":${metadata}}\n`
        const importing = (text: string) =>
          Effect.as(
            Effect.promise(() => writeFile(file, text)),
            ["events", "import", "--unchecked", file]
          )
        const says = /would have \d{8} bytes once it is stored, more than \d{8}/
        yield* fails(yield* importing(line("fine", "1") + line("big", growingJson)), 1, says, { url })
        yield* fails(yield* importing(line("big", "1", `{"a":${growingJson}}`)), 1, says, { url })
        const many = JSON.stringify(Array.from({ length: 1000 }, () => 0)).replaceAll("0", "1e131000")
        yield* fails(yield* importing(line("many", many)), 1, /a number of more than 1000 digits/, { url })
        const sqlite = join(directory, "events.db")
        const database = new DatabaseSync(sqlite)
        database.exec(`CREATE TABLE events (version INTEGER PRIMARY KEY, id TEXT, aggregate_id TEXT, event_type TEXT,
          data TEXT, metadata TEXT, created_at TEXT)`)
        const insert = database.prepare("INSERT INTO events VALUES (?, ?, 'a', 'T', ?, 'null', '2026-01-31T12:00:00Z')")
        insert.run(1, "fine", "1")
        insert.run(2, "big", growingJson)
        database.close()
        yield* fails(["events", "import", "--sqlite", sqlite], 1, says, { url })
        assert.notInclude(yield* succeeds(["events", "read", "--json"], { url }), "big")
        const appended = [
          "events",
          "append",
          "--aggregate",
          "a",
          "--type",
          "T",
          "--data",
          `[${"5e-324,".repeat(15_000)}1]`
        ]
        yield* succeeds(appended, { url })

        yield* execute(
          [`INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('big', 'a', 'T', ${growingSql})`],
          url
        )
        const exported = join(directory, "exported.jsonl")
        yield* fails(["events", "export", exported], 1, /row 3 of events is larger than the driver takes/, { url })

        // The limit can be set, for those who have such events.
        const options = { url, env: { DB_MAX_MESSAGE_SIZE: String(64 * 1024 * 1024) } }
        const read = jsonLines(yield* succeeds(["events", "read", "--json"], options))
        assert.deepStrictEqual(read[2]?.["data"], growing)
        yield* succeeds(["events", "export", exported], options)
        yield* succeeds(["events", "import", exported, "--verify"], options)
        yield* succeeds(yield* importing(line("imported", growingJson)), options)
        yield* fails(["events", "read"], 2, /DB_MAX_MESSAGE_SIZE|maxMessageSize/, {
          url,
          env: { DB_MAX_MESSAGE_SIZE: "1000" }
        })

        const context = yield* Layer.build(Postgres.layerConfig()).pipe(
          Effect.provideService(
            ConfigProvider.ConfigProvider,
            ConfigProvider.fromUnknown({ DATABASE_URL: url, DB_MAX_MESSAGE_SIZE: String(64 * 1024 * 1024) })
          )
        )
        const events = yield* Context.get(context, EventStore.EventStore).load()
        assert.strictEqual(events.length, 4)
        assert.strictEqual(Context.get(context, PgClient.PgClient).config.maxMessageSize, 64 * 1024 * 1024)
      })
    )
  )

  it.live("pages of large events fill no memory while they are exported and imported", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        yield* execute(
          [
            `INSERT INTO events (id, aggregate_id, event_type, data)
             SELECT 'e' || n, 'a', 'T', to_jsonb(repeat('x', 15000000)) FROM generate_series(1, 20) AS n`
          ],
          url
        )
        const file = join(yield* temporaryDirectory, "events.jsonl")
        const options = { url, env: { NODE_OPTIONS: "--max-old-space-size=200" } }
        for (const args of [
          ["events", "export", file],
          ["events", "import", file, "--verify"]
        ]) {
          const { status, stderr, stdout } = yield* strataProcess(args, options)
          assert.strictEqual(status, 0, stderr)
          assert.match(stdout, /^20 events /)
        }
      })
    )
  )
})
