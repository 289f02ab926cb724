/** Files that somebody else has made or may read: what the command reads, writes, and leaves. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Fs from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as Pglite from "../../src/pglite/index.ts"
import { assertFailed, fails, start, strata, strataProcess, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { plainInsert } from "../postgres/events.harness.ts"
import { execute, freshRole, freshSchema } from "../postgres/harness.ts"
import { withDatabase } from "../support/database.ts"

const modeOf = (path: string) => (Fs.statSync(path).mode & 0o777).toString(8)

/** A database with an event, and a directory. */
const withEvent = (body: (url: string, directory: string) => Effect.Effect<void, unknown>) =>
  withDatabase((url) =>
    Effect.gen(function* () {
      yield* succeeds(["migrate"], { url })
      yield* execute([plainInsert("events", "e1")], url)
      yield* body(url, yield* temporaryDirectory)
    })
  )

const line = `{"id":"$(touch pwned)","aggregateId":"a","eventType":"T","data":1}\n`

describe("export", () => {
  it.live("makes a file that only its owner can read", () =>
    withEvent((url, directory) =>
      Effect.gen(function* () {
        const file = join(directory, "events.jsonl")
        yield* succeeds(["events", "export", file], { url })
        assert.strictEqual(modeOf(file), "600")
        // A mode that somebody has chosen stays.
        Fs.chmodSync(file, 0o640)
        yield* execute([plainInsert("events", "e2")], url)
        assert.include(yield* succeeds(["events", "export", file], { url }), "2 events in")
        assert.strictEqual(modeOf(file), "640")
      })
    )
  )

  it.live("follows no symbolic link, and writes to nothing but files", () =>
    withEvent((url, directory) =>
      Effect.gen(function* () {
        const target = join(directory, "target")
        for (const content of [undefined, "", `{"version":"1`]) {
          if (content !== undefined) Fs.writeFileSync(target, content)
          const file = join(directory, `link to ${content}`)
          Fs.symlinkSync(target, file)
          yield* fails(["events", "export", file], 1, /is a symbolic link; name the file itself/, { url })
          assert.strictEqual(Fs.existsSync(target) ? Fs.readFileSync(target, "utf8") : undefined, content)
        }
        yield* fails(["events", "export", directory], 1, /EISDIR/, { url })
        yield* fails(["events", "export", "/dev/null"], 1, /is no file; leave out the name to write to stdout/, { url })
      })
    )
  )
})

describe("import", () => {
  it.live("follows no symbolic link to write which version became which", () =>
    withEvent((url, directory) =>
      Effect.gen(function* () {
        const file = join(directory, "events.jsonl")
        Fs.writeFileSync(file, line)
        const target = join(directory, "profile")
        Fs.writeFileSync(target, "# mine\n")
        const mapping = `${file}.versions.jsonl`
        for (const planted of [`${mapping}.draft`, mapping]) Fs.symlinkSync(target, planted)
        yield* succeeds(["events", "import", "--unchecked", file], { url })
        assert.strictEqual(Fs.readFileSync(target, "utf8"), "# mine\n")
        assert.isFalse(Fs.lstatSync(mapping).isSymbolicLink())
        assert.include(Fs.readFileSync(mapping, "utf8"), "touch pwned")
        assert.strictEqual(modeOf(mapping), "600")
        assert.sameMembers(Fs.readdirSync(directory), [
          "events.jsonl",
          "events.jsonl.versions.jsonl",
          "events.jsonl.versions.jsonl.draft",
          "profile"
        ])
      })
    )
  )
})

const sqliteOf = (directory: string, name: string, ...statements: ReadonlyArray<string>) => {
  const path = join(directory, name)
  const database = new DatabaseSync(path)
  for (const statement of statements) database.exec(statement)
  database.close()
  return path
}

const columns = "id TEXT, aggregate_id TEXT, event_type TEXT, data TEXT, metadata TEXT, created_at TEXT"
const table = `CREATE TABLE events (version INTEGER PRIMARY KEY AUTOINCREMENT, ${columns})`
const endless = `WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
  SELECT n AS version, 'e' || n AS id, 'a' AS aggregate_id, 'T' AS event_type, '1' AS data, 'null' AS metadata,
    '2026-01-31' AS created_at FROM numbers`

describe("a SQLite file", () => {
  it.live("with something else than the table of go-sync-kit is refused, before any of it runs", () =>
    withEvent((url, directory) =>
      Effect.gen(function* () {
        const says = /is no SQLite file of go-sync-kit: .*events/
        const files = [
          sqliteOf(directory, "view.db", `CREATE VIEW events AS ${endless}`),
          sqliteOf(directory, "none.db", "CREATE TABLE other (a)"),
          sqliteOf(
            directory,
            "generated.db",
            table.replace("data TEXT", "data TEXT AS (hex(zeroblob(400000000)))"),
            "INSERT INTO events (id, aggregate_id, event_type) VALUES ('a', 'a', 'T')"
          ),
          sqliteOf(directory, "key.db", table.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT PRIMARY KEY")),
          sqliteOf(
            directory,
            "virtual.db",
            `CREATE VIRTUAL TABLE events USING fts5(version, id, aggregate_id, event_type, data)`
          )
        ]
        for (const file of files) yield* fails(["events", "import", "--sqlite", file], 1, says, { url })
      })
    )
  )

  it.live("whose pages lead back to themselves ends with Ctrl-C or SIGTERM", () =>
    withEvent((url, directory) =>
      Effect.gen(function* () {
        // A table of several levels, of which each inner page leads to its first child again and again.
        const file = sqliteOf(
          directory,
          "cycle.db",
          "PRAGMA page_size = 512",
          table,
          `INSERT INTO events (id, aggregate_id, event_type, data, metadata, created_at)
           WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)
           SELECT 'e' || n, 'a', 'T', '1', 'null', '2026-01-31' FROM numbers`
        )
        const bytes = Fs.readFileSync(file)
        for (let page = 1; page < bytes.length / 512; page++) {
          const at = page * 512
          if (bytes[at] !== 5) continue
          const first = bytes.readUInt16BE(at + 12)
          const child = bytes.readUInt32BE(at + first)
          for (let cell = 0; cell < bytes.readUInt16BE(at + 3); cell++) {
            bytes.writeUInt32BE(child, at + bytes.readUInt16BE(at + 12 + 2 * cell))
          }
          bytes.writeUInt32BE(child, at + 8)
        }
        Fs.writeFileSync(file, bytes)
        const importing = yield* start(["events", "import", "--sqlite", file, "--map", join(directory, "map")], { url })
        // It fails with what is wrong with the file, or ends once it is told to.
        yield* Effect.raceFirst(
          Effect.asVoid(importing.ended),
          Effect.gen(function* () {
            yield* Effect.sleep("2 seconds")
            importing.child.kill("SIGTERM")
          })
        )
        const { status } = yield* importing.ended
        assert.include([1, 130, 143, "SIGTERM"], status)
      }).pipe(Effect.scoped)
    )
  )

  it.live("with a text that is far too long is refused without being read", () =>
    withEvent((url, directory) =>
      Effect.gen(function* () {
        const file = sqliteOf(
          directory,
          "long.db",
          table,
          `INSERT INTO events VALUES (1, 'a', 'a', 'T', hex(zeroblob(250000000)), 'null', '2026-01-31')`
        )
        const options = { url, env: { NODE_OPTIONS: "--max-old-space-size=100" } }
        const args = ["events", "import", "--sqlite", file]
        assertFailed(
          args,
          yield* strataProcess(args, options),
          1,
          /version 1 of .* cannot be imported: .* 500000017 bytes/
        )
      })
    )
  )
})

describe("PGlite", () => {
  it.live("closes a directory that others may enter, before there is anything in it", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporaryDirectory, "data")
      Fs.mkdirSync(directory)
      Fs.chmodSync(directory, 0o777)
      yield* Effect.scoped(Layer.build(Layer.fresh(Pglite.layer({ dataDir: directory }))))
      assert.strictEqual(modeOf(directory), "700")
      // One that was open to others is closed at the next start, too.
      Fs.chmodSync(directory, 0o755)
      yield* Effect.scoped(Layer.build(Layer.fresh(Pglite.layer({ dataDir: directory }))))
      assert.strictEqual(modeOf(directory), "700")
    }).pipe(Effect.scoped)
  )
})

describe("a URL with a password", () => {
  const secret = "hunter2"
  const url = `postgres://app:${secret}@127.0.0.1:1/app`

  it.live.each<{ readonly args: ReadonlyArray<string> }>([
    { args: ["events", "read", url] },
    { args: [url] },
    { args: ["events", url] },
    { args: ["events", "read", "--url", `mysql://app:${secret}@host/app`] },
    { args: ["events", "read", "--limit", url] },
    { args: ["events", "read", `--after=${url}`] },
    { args: ["events", "read", "--pglite", url] },
    { args: ["events", "read", `--urll=${url}`] },
    { args: ["events", "read", "--url", url, "--verbose"] },
    { args: ["events", "import", url] },
    { args: ["events", "import", "--sqlite", url] },
    { args: ["events", "read", `postgres://host/app?user=app&password=${secret}`] },
    { args: ["events", "read", `host=h user=app password=${secret}`] },
    { args: ["events", "read", `postgres://app:p@ss/${secret}@host/app`] },
    { args: ["offsets", "delete", url] }
  ])("is echoed without it: $args", ({ args }) =>
    Effect.gen(function* () {
      const { status, stderr, stdout } = yield* strata(args)
      assert.notStrictEqual(status, 0)
      assert.notInclude(stderr, secret)
      assert.notInclude(stdout, secret)
    })
  )

  it.live("is warned of as an argument, and comes from a file or the environment as well", () =>
    withDatabase((database) =>
      Effect.gen(function* () {
        const withPassword = new URL(database)
        withPassword.password = secret
        const given = yield* strata(["migrate", "--url", withPassword.href])
        assert.match(
          given.stderr,
          /^strata: warning: everybody on this machine can see the password of --url.*--url-file/
        )
        assert.notInclude(given.stderr, secret)
        withPassword.password = ""
        assert.notInclude((yield* strata(["migrate", "--url", withPassword.href])).stderr, "warning")

        const file = join(yield* temporaryDirectory, "url")
        Fs.writeFileSync(file, `${database}\n`)
        const read = yield* strata(["migrate", "--url-file", file])
        assert.deepStrictEqual([read.status, read.stderr], [0, ""])
        const from = yield* strata(["migrate"], { env: { DATABASE_URL_FILE: file } })
        assert.deepStrictEqual([from.status, from.stderr], [0, ""])
        yield* fails(["migrate", "--url-file", `${file}.none`], 1, /no such file/)
        yield* fails(["migrate", "--url-file", file, "--url", database], 2, /--url and --url-file name two databases/)
        Fs.writeFileSync(file, `no url: ${secret}`)
        const wrong = yield* strata(["migrate", "--url-file", file])
        assert.notInclude(wrong.stderr, secret)
        assert.strictEqual(wrong.status, 2)
      })
    )
  )

  it.live("is not in the list of processes while the command waits", () =>
    Effect.gen(function* () {
      const { url } = yield* freshRole("SUPERUSER")
      const schema = yield* freshSchema()
      yield* succeeds(["migrate", "--schema", schema], { url })
      yield* execute([plainInsert(`${schema}.events`, "e1")])
      const tail = yield* start(["events", "tail", "--after", "start", "--schema", schema, `--url=${url}`])
      yield* tail.says("Plain")
      const list = `/proc/${tail.child.pid}/cmdline`
      const shown = Fs.existsSync(list) ? Fs.readFileSync(list, "utf8") : "strata"
      assert.notInclude(shown, new URL(url).password)
      assert.include(shown, "strata")
    }).pipe(Effect.scoped)
  )
})
