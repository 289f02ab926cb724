/** What is imported is exactly what the file or the other log has. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { appendFile, readFile, truncate, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { isDeepStrictEqual } from "node:util"
import { plainInsert, serveEvents, session } from "../postgres/events.harness.ts"
import { execute, freshSchema, open, query } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import {
  assertFailed,
  begin,
  fails,
  jsonLines,
  start,
  strata,
  strataProcess,
  succeeds,
  temporaryDirectory
} from "./harness.ts"

/** Enough that an import is interrupted in its middle, and that a verification has many pages. */
const total = 30_000

/** A file with the table of go-sync-kit's SQLite store, and with rows as its Go code writes them. */
const sqliteFile = (path: string, events: number) =>
  Effect.sync(() => {
    const database = new DatabaseSync(path)
    database.exec(`
      CREATE TABLE IF NOT EXISTS events (
        version INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL,
        event_type TEXT NOT NULL, data TEXT, metadata TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
      );
      CREATE INDEX IF NOT EXISTS idx_aggregate_id ON events (aggregate_id);
      BEGIN`)
    const insert = database.prepare(
      "INSERT INTO events (id, aggregate_id, event_type, data, metadata, created_at) VALUES (?, ?, ?, ?, ?, ?)"
    )
    for (let n = 1; n <= events; n++) {
      insert.run(
        // The ids are not in the order of the versions, and some versions are missing.
        `event-${(n * 7919) % 1_000_003}`,
        `user-${n % 977}`,
        n % 3 === 0 ? "UserCreated" : "UserRenamed",
        n % 10 === 0 ? "null" : `{"n":${n},"big":9007199254740993,"name":"Jöhn \\"${n}\\""}`,
        n % 5 === 0 ? `{"by":"go"}` : "null",
        new Date(1_700_000_000_000 + n * 977)
          .toISOString()
          .replace("T", " ")
          .slice(0, n % 2 === 0 ? 19 : 23)
      )
      if (n % 1000 === 0) database.exec(`DELETE FROM events WHERE version = ${n}`)
    }
    database.exec("COMMIT")
    database.close()
  })

type Parts = ReadonlyArray<unknown>

const sqliteRows = (path: string) =>
  Effect.sync((): ReadonlyArray<Parts> => {
    const database = new DatabaseSync(path, { readOnly: true })
    const rows = database.prepare("SELECT * FROM events ORDER BY version").all()
    database.close()
    return rows.map((row) => [
      row["id"],
      row["aggregate_id"],
      row["event_type"],
      row["data"],
      row["metadata"],
      new Date(`${String(row["created_at"]).replace(" ", "T")}Z`).toISOString()
    ])
  })

/** The rows of the log in its order, JSON as Go would write it. */
const storedRows = (schema: string) =>
  Effect.map(
    query(
      `SELECT id, aggregate_id, event_type, data::text, metadata::text, created_at, version::text FROM ${schema}.events
       ORDER BY events.version`
    ),
    (rows) =>
      rows.map(([id, aggregateId, eventType, data, metadata, createdAt, version]) => ({
        version,
        parts: [id, aggregateId, eventType, data, metadata, createdAt instanceof Date ? createdAt.toISOString() : ""]
      }))
  )

/** The rows with their JSON as `jsonb` writes it, which has its own order of keys and its own blanks. */
const asJsonb = (rows: ReadonlyArray<Parts>) =>
  rows.map(([id, aggregateId, eventType, data, metadata, createdAt]) => [
    id,
    aggregateId,
    eventType,
    String(data).replace(/^\{"n":(\d+),"big":(\d+),"name":(.*)\}$/, `{"n": $1, "big": $2, "name": $3}`),
    String(metadata).replace(`{"by":"go"}`, `{"by": "go"}`),
    createdAt
  ])

/** Shows only the first row that differs, as nobody reads a difference of thousands of rows. */
const assertSame = (actual: ReadonlyArray<Parts>, expected: ReadonlyArray<Parts>) => {
  const first = expected.findIndex((row, index) => !isDeepStrictEqual(row, actual[index]))
  assert.deepStrictEqual(actual[first], expected[first], `row ${first}`)
  assert.strictEqual(actual.length, expected.length)
}

describe("import --sqlite", () => {
  it.live(
    "interrupted in the middle and run again, brings exactly the events of the file, and their new versions",
    () =>
      Effect.gen(function* () {
        const file = join(yield* temporaryDirectory, "events.db")
        yield* sqliteFile(file, total)
        const source = yield* sqliteRows(file)
        const schema = yield* freshSchema()
        const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
        yield* succeeds(["migrate"], options)
        yield* succeeds(["events", "append", "--aggregate", "mine", "--type", "T", "--id", "mine"], options)

        const importing = yield* start(["events", "import", "--sqlite", file], options)
        yield* importing.says("imported 3,000 of")
        yield* importing.interrupt
        const interrupted = yield* importing.ended
        assert.strictEqual(interrupted.status, 130, interrupted.stderr)
        assert.match(interrupted.stderr, /interrupted after [\d,]+ events; run it again to go on\n$/)
        const partly = (yield* storedRows(schema)).length - 1
        assert.isAtLeast(partly, 3000)
        assert.isBelow(partly, source.length)
        assert.strictEqual(partly % 1000, 0)
        yield* fails(["events", "import", "--sqlite", file, "--map", join(file, "no")], 1, /ENOTDIR/, options)
        yield* Effect.flip(Effect.tryPromise(() => readFile(`${file}.versions.jsonl`)))

        const [result] = jsonLines(yield* succeeds(["events", "import", "--sqlite", file, "--json"], options))
        const added = source.length - partly
        assert.deepInclude(result, { events: source.length, added, already: partly })
        const [, ...stored] = yield* storedRows(schema)
        assertSame(
          stored.map(({ parts }) => parts),
          asJsonb(source)
        )
        const mapping = jsonLines(yield* Effect.promise(() => readFile(`${file}.versions.jsonl`, "utf8")))
        assertSame(
          mapping.map(({ id, to }) => [id, to]),
          stored.map(({ parts, version }) => [parts[0], version])
        )
        assert.strictEqual(mapping.find(({ id }) => id === "event-7919")?.["from"], "1")

        const again = yield* succeeds(["events", "import", "--sqlite", file], options)
        assert.match(again, /^0 events imported from .*, 29,970 were there already/)
        assert.strictEqual((yield* storedRows(schema)).length, source.length + 1)
        assert.include(yield* succeeds(["events", "import", "--sqlite", file, "--verify"], options), "29,970 events of")
      }).pipe(Effect.scoped)
  )

  it.live("--verify finds what is missing, changed, later or in another order", () =>
    Effect.gen(function* () {
      const file = join(yield* temporaryDirectory, "events.db")
      yield* sqliteFile(file, 20)
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      yield* succeeds(["events", "import", "--sqlite", file], options)
      const table = `${schema}.events`
      const of = (n: number) => `WHERE id = 'event-${n * 7919}'`
      yield* execute([
        `UPDATE ${table} SET created_at = created_at + interval '1 microsecond' ${of(3)}`,
        `UPDATE ${table} SET data = '{"n":1}' ${of(5)}`,
        `DELETE FROM ${table} ${of(7)}`,
        `UPDATE ${table} SET version = DEFAULT ${of(9)}`
      ])
      const { status, stderr } = yield* strata(["events", "import", "--sqlite", file, "--verify"], options)
      assert.strictEqual(status, 1)
      assert.match(stderr, /^version 3 of .*: the event "event-23757" has another time in the log$/m)
      assert.match(stderr, /^version 5 of .* has another aggregate, type, data or metadata in the log$/m)
      assert.match(stderr, /^version 7 of .* is not in the log$/m)
      assert.match(stderr, /^version 10 of .* is in the log before an event that it should follow$/m)
      assert.match(stderr, /14 events of 20 of .* differ from the log; the first 10 are above$/m)

      // An import refuses an event if the log has another event with its id.
      yield* fails(["events", "import", "--sqlite", file], 1, /version 5 of .*: another event with the id/, options)
    }).pipe(Effect.scoped)
  )

  it.live("refuses an event that cannot be stored as it is, and names it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      const attempt = (name: string, change: string, says: RegExp) =>
        Effect.gen(function* () {
          const file = join(directory, name)
          yield* sqliteFile(file, 3)
          yield* Effect.sync(() => {
            const database = new DatabaseSync(file)
            database.exec(change)
            database.close()
          })
          yield* fails(["events", "import", "--sqlite", file], 1, says, options)
        })
      yield* attempt("nul", String.raw`UPDATE events SET data = '"\u0000"' WHERE version = 2`, /version 2 of .*NUL/)
      yield* attempt("json", `UPDATE events SET data = '{' WHERE version = 2`, /version 2 of .*have to be JSON/)
      yield* attempt("time", `UPDATE events SET created_at = 'soon' WHERE version = 3`, /version 3 of .*no time: soon/)
      yield* attempt("table", "DROP TABLE events", /no SQLite file of go-sync-kit: no such table/)
      const text = join(directory, "text")
      yield* Effect.promise(() => writeFile(text, "no database, but long enough to be taken for one".repeat(20)))
      yield* fails(["events", "import", "--sqlite", text], 1, /is no SQLite file of go-sync-kit: file is not/, options)
      yield* fails(["events", "import", "--sqlite", `${text}-2`], 1, /there is no file/, options)
      assert.strictEqual((yield* storedRows(schema)).length, 0)
    }).pipe(Effect.scoped)
  )
})

describe("export and import", () => {
  it.live("carry all events from one log to another, also in parts", () =>
    Effect.gen(function* () {
      const file = join(yield* temporaryDirectory, "events.jsonl")
      const [from, to] = [yield* freshSchema(), yield* freshSchema()]
      const options = { url: postgresUrl, env: { DB_SCHEMA: from } }
      yield* succeeds(["migrate"], options)
      yield* succeeds(["migrate", "--schema", to], options)
      const insert = (first: number, last: number) =>
        execute([
          `INSERT INTO ${from}.events (id, aggregate_id, event_type, data, metadata, created_at)
           SELECT 'id "' || n, 'ä' || n % 7, 'T', CASE WHEN n % 2 = 0 THEN '{"n": 12345678901234567890.123}'::jsonb END,
             CASE WHEN n % 3 = 0 THEN '{"m": "\\\\ \\" \\t"}'::jsonb END, '2026-01-31 12:00:00.123456+13'::timestamptz + n * interval '1 s'
           FROM generate_series(${first}, ${last}) AS n`
        ])
      yield* insert(1, 2500)
      // One version is missing.
      yield* execute([`DELETE FROM ${from}.events WHERE version = 1000`])
      yield* succeeds(["events", "export", file], options)
      const whole = yield* Effect.promise(() => readFile(file, "utf8"))

      // The file ends in the middle of a line, as after a crash. The export goes on after the last whole line.
      yield* Effect.promise(() => truncate(file, Math.floor(Buffer.byteLength(whole) / 2)))
      yield* fails(["events", "import", file, "--schema", to], 1, /is not complete: .*export it again/, options)
      yield* insert(2501, 3000)
      const more = yield* succeeds(["events", "export", file], options)
      assert.match(more, /^2,999 events in .*, [\d,]+ of them new\n$/)
      const text = yield* Effect.promise(() => readFile(file, "utf8"))
      assert.strictEqual(text, yield* succeeds(["events", "export"], options))
      assert.isTrue(text.startsWith(whole.slice(0, whole.lastIndexOf(`{"events":`))))

      yield* succeeds(["events", "import", file, "--schema", to], options)
      const rowsOf = (schema: string) =>
        query(
          `SELECT id, aggregate_id, event_type, coalesce(data::text, 'null'), coalesce(metadata::text, 'null'), created_at::text
           FROM ${schema}.events ORDER BY version`
        )
      assert.deepStrictEqual(yield* rowsOf(to), yield* rowsOf(from))
      const piped = yield* succeeds(["events", "import", "-", "--schema", to], { ...options, input: text })
      assert.match(piped, /^0 events imported from stdin, 2,999 were there already\n$/)

      // Where an event comes from is no content of it.
      yield* execute([
        `UPDATE ${to}.events SET metadata = CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata ELSE '{}' END
           || '{"traceparent": "00-1", "correlationId": "c", "causationId": "d"}' WHERE version < 10`
      ])
      const otherTraces = yield* succeeds(["events", "import", "-", "--schema", to], { ...options, input: text })
      assert.match(otherTraces, /^0 events imported from stdin, 2,999 were there already\n$/)
      yield* execute([`UPDATE ${to}.events SET metadata = metadata || '{"by": "me"}' WHERE version = 2`])
      yield* fails(["events", "import", "-", "--schema", to], 1, /another event with the id/, {
        ...options,
        input: text
      })
    }).pipe(Effect.scoped)
  )

  it.live("carry the tags of events", () =>
    Effect.gen(function* () {
      const [from, to] = [yield* freshSchema(), yield* freshSchema()]
      const options = { url: postgresUrl, env: { DB_SCHEMA: from } }
      yield* succeeds(["migrate"], options)
      yield* succeeds(["migrate", "--schema", to], options)
      const flags = ["events", "append", "--aggregate", "a", "--type", "T"]
      yield* succeeds([...flags, "--tag", 'b "é', "--tag", "a:1"], options)
      yield* succeeds(flags, options)
      const input = `{"aggregateId":"a","eventType":"T","data":3,"tags":["a:1"]}\n`
      yield* succeeds(["events", "append"], { ...options, input })
      const exported = yield* succeeds(["events", "export"], options)
      assert.include(exported, `"tags":["a:1","b \\"é"]`)
      yield* succeeds(["events", "import", "-", "--schema", to], { ...options, input: exported })
      const tagsOf = (schema: string) =>
        query(`SELECT tag, id FROM ${schema}.events_tags JOIN ${schema}.events USING (version) ORDER BY 1, version`)
      assert.deepStrictEqual(yield* tagsOf(to), yield* tagsOf(from))
      assert.lengthOf(yield* tagsOf(to), 3)
      const read = yield* succeeds(["events", "read", "--tag", "a:1", "--json", "--schema", to], options)
      assert.lengthOf(jsonLines(read), 2)
      const twice = `{"id":"x","aggregateId":"a","eventType":"T","data":3,"tags":["a","a"]}\n`
      yield* fails(
        ["events", "import", "-", "--unchecked", "--schema", to],
        1,
        /"tags" has to be a list of at most 64 texts/,
        { ...options, input: twice }
      )
    }).pipe(Effect.scoped)
  )

  it.live("refuse a file that was changed, is of another log, or is no export", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const file = join(directory, "events.jsonl")
      const [from, to] = [yield* freshSchema(), yield* freshSchema()]
      const options = { url: postgresUrl, env: { DB_SCHEMA: from } }
      yield* succeeds(["migrate"], options)
      yield* succeeds(["migrate", "--schema", to], options)
      const event = `{"aggregateId":"a","eventType":"T","data":{"amount":100}}\n`
      yield* succeeds(["events", "append"], { ...options, input: event.repeat(3) })
      yield* succeeds(["events", "export", file], options)
      yield* fails(["events", "export", file, "--schema", to], 1, /is of another log/, options)

      const text = yield* Effect.promise(() => readFile(file, "utf8"))
      yield* Effect.promise(() => writeFile(file, text.replace("100", "900")))
      yield* fails(["events", "import", file, "--schema", to], 1, /is damaged/, options)
      yield* fails(["events", "export", file], 1, /is damaged/, options)
      yield* Effect.promise(() => writeFile(file, text))
      yield* Effect.promise(() => appendFile(file, text))
      yield* fails(["events", "import", file, "--schema", to], 1, /is damaged/, options)
      assert.strictEqual((yield* storedRows(to)).length, 0)

      const notes = join(directory, "notes.txt")
      yield* Effect.promise(() => writeFile(notes, "do not lose this"))
      yield* fails(["events", "export", notes], 1, /is there already, and is no export/, options)
      assert.strictEqual(yield* Effect.promise(() => readFile(notes, "utf8")), "do not lose this")
      const unchecked = yield* succeeds(["events", "import", "-", "--unchecked", "--schema", to], {
        ...options,
        input: text.split("\n").slice(0, 2).join("\n")
      })
      assert.match(unchecked, /^2 events imported from stdin\n$/)
    }).pipe(Effect.scoped)
  )
})

describe("beside other writers", () => {
  it.live("an import waits for an append that expects something of an aggregate, as any append does", () =>
    Effect.gen(function* () {
      const file = join(yield* temporaryDirectory, "events.db")
      yield* sqliteFile(file, 3)
      const { events, schema, withTransaction } = yield* serveEvents()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      const first = { aggregateId: "user-1", eventType: "T", data: null, id: "first" }
      const appending = yield* open(withTransaction, events.append(first, { expected: "none" }))
      const importing = yield* begin(["events", "import", "--sqlite", file], options)
      const locks = `SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pg_sleep(0.02) IS NOT NULL`
      // The server, not the test, sleeps between two looks.
      while ((yield* query(locks)).length === 0) yield* query("SELECT 1 FROM pg_sleep(0.02)")
      assert.isTrue(importing.isRunning())
      yield* appending.commit
      assert.strictEqual((yield* importing.ended).status, 0)
      const ids = (yield* storedRows(schema)).map(({ parts }) => parts[0])
      assert.deepStrictEqual(ids, ["first", "event-7919", "event-15838", "event-23757"])
    }).pipe(Effect.scoped)
  )

  it.live("an export ends below the version of an event in flight, names the holder, and goes on later", () =>
    Effect.gen(function* () {
      const file = join(yield* temporaryDirectory, "events.jsonl")
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      const table = `${schema}.events`
      yield* execute([plainInsert(table, "e1")])
      const slow = yield* session()
      yield* slow("BEGIN")
      yield* slow(plainInsert(table, "e2"))
      yield* execute([plainInsert(table, "e3")])
      const { status, stderr, stdout } = yield* strata(["events", "export", file], options)
      assert.deepStrictEqual([status, stdout], [0, `1 event in ${file}\n`])
      assert.match(stderr, /^strata: warning: .* is held up at version 2 by pid \d+, idle in transaction/)
      yield* slow("COMMIT")
      assert.strictEqual(yield* succeeds(["events", "export", file], options), `3 events in ${file}, 2 of them new\n`)
      const lines = jsonLines(yield* Effect.promise(() => readFile(file, "utf8")))
      assert.deepStrictEqual(
        lines.map(({ id }) => id),
        ["e1", "e2", "e3", undefined]
      )
    }).pipe(Effect.scoped)
  )
})

describe("import --sqlite without SQLite", () => {
  it.live("says which Node has it", () =>
    Effect.gen(function* () {
      const env = { NODE_OPTIONS: "--no-experimental-sqlite" }
      const args = ["events", "import", "--sqlite", "x"]
      const ended = yield* strataProcess(args, { url: postgresUrl, env })
      assertFailed(args, ended, 1, /Node [\d.]+ has no SQLite; run this with Node 22.13 or later/)
    })
  )
})
