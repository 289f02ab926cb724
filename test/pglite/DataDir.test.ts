import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import * as Pglite from "../../src/pglite/index.ts"

const root = Fs.mkdtempSync(Path.join(Os.tmpdir(), "strata-pglite-"))
const template = Path.join(root, "template")
afterAll(() => Fs.rmSync(root, { recursive: true, force: true }))

const open = <A, E>(dataDir: string, use: Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.provide(use, Layer.fresh(Pglite.layer({ dataDir })))

const query = (sql: string) =>
  SqlClient.SqlClient.use((client) => client.unsafe<{ readonly n: number; readonly rows: number }>(sql))

const failure = <A, E>(dataDir: string, use: Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.map(Effect.flip(open(dataDir, use)), (error) =>
    error instanceof Pglite.PgliteError ? error : assert.fail(`unexpected ${String(error)}`)
  )

// initdb takes seconds, a copy of its result milliseconds.
const database = (name: string): string => {
  const path = Path.join(root, name)
  Fs.cpSync(template, path, { recursive: true })
  return path
}

const locks = (path: string) => Fs.readdirSync(path).filter((name) => name.endsWith(".lock"))

const spawned: Array<ChildProcess> = []
const run = (mode: string, dataDir: string) => {
  const script = fileURLToPath(new URL("process.ts", import.meta.url))
  const child = spawn(process.execPath, [script, mode, dataDir], { stdio: ["ignore", "pipe", "inherit"] })
  spawned.push(child)
  return { child, lines: createInterface({ input: child.stdout }) }
}
afterAll(() => spawned.forEach((child) => child.kill("SIGKILL")))

describe("Pglite.layer({ dataDir })", () => {
  beforeAll(() => Effect.runPromise(open(template, query("CREATE TABLE seen (n int)"))))

  it.live("makes the directory and its parents, and keeps what was written", () =>
    Effect.gen(function* () {
      const path = Path.join(root, "deep", "er", "data")
      yield* open(path, query("CREATE TABLE kept AS SELECT 1 AS n"))
      assert.deepStrictEqual(yield* open(path, query("SELECT n, 1 AS rows FROM kept")), [{ n: 1, rows: 1 }])
      assert.deepStrictEqual(
        Fs.readdirSync(path).filter((name) => name.startsWith("strata")),
        []
      )
      assert.strictEqual(Fs.statSync(path).mode & 0o077, 0)
    })
  )

  it.live("is for one layer at a time", () =>
    Effect.gen(function* () {
      const path = database("shared")
      const link = Path.join(root, "link")
      Fs.symlinkSync(path, link)
      const refused = yield* open(
        path,
        Effect.all([failure(path, query("SELECT 1")), failure(link, query("SELECT 1"))])
      )
      for (const error of refused) {
        assert.strictEqual(error.reason, "InUse")
        assert.include(error.message, `process ${process.pid}`)
      }
      assert.strictEqual(refused[0].dataDir, path)
      assert.include(refused[1].message, link)
      yield* open(path, query("SELECT 1"))
      const opened = yield* Effect.forEach(
        Array.from({ length: 6 }),
        () => Effect.exit(open(path, Effect.andThen(query("INSERT INTO seen VALUES (1)"), Effect.sleep("400 millis")))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(opened.filter((exit) => exit._tag === "Success").length, 1)
    })
  )

  it.live("loses no acknowledged commit to SIGKILL, which does not block the next process", () =>
    Effect.gen(function* () {
      const path = database("killed")
      for (const commits of [50, 300]) {
        const { child, lines } = run("forever", path)
        let acknowledged = 0
        yield* Effect.callback<void>((resume) => {
          lines.on("line", (line) => {
            acknowledged = Number(line)
            if (acknowledged >= commits) resume(Effect.void)
          })
        })
        const refused = yield* failure(path, query("SELECT 1"))
        assert.strictEqual(refused.reason, "InUse")
        assert.include(refused.message, `process ${child.pid}`)
        child.kill("SIGKILL")
        yield* Effect.promise(() => Promise.all([once(child, "exit"), once(lines, "close")]))
        assert.strictEqual(locks(path).length, 1)
        const [row] = yield* open(path, query("SELECT max(n) AS n, count(*)::int AS rows FROM numbers"))
        assert.isAtLeast(row?.n ?? 0, acknowledged)
        // No gap either: what survived is a prefix of what was committed.
        assert.strictEqual(row?.rows, row?.n)
        yield* open(path, query("TRUNCATE numbers"))
      }
    })
  )

  it.live("leaves nothing running: the process exits by itself", () =>
    Effect.gen(function* () {
      const path = database("exits")
      const { child } = run("once", path)
      const [code] = yield* Effect.promise(() => once(child, "exit")).pipe(Effect.timeout("4 minutes"))
      assert.strictEqual(code, 0)
      assert.deepStrictEqual(locks(path), [])
      assert.deepStrictEqual(yield* open(path, query("SELECT max(n) AS n, 3 AS rows FROM numbers")), [
        { n: 3, rows: 3 }
      ])
    })
  )

  it.live("starts over when making the database was cut short", () =>
    Effect.gen(function* () {
      const path = database("half")
      Fs.writeFileSync(Path.join(path, "strata.initializing"), "")
      Fs.rmSync(Path.join(path, "base"), { recursive: true })
      yield* open(path, query("CREATE TABLE complete (n int)"))
      yield* open(path, query("SELECT * FROM complete"))
    })
  )

  it.live("takes the lock of a process that is gone, but not one that it cannot check", () =>
    Effect.gen(function* () {
      const path = database("stale")
      const host = encodeURIComponent(Os.hostname())
      const names = [`strata.4194303.0.00ff.${host}.lock`, "strata.half written.lock"]
      // The id of this process, as it was before it was ours.
      if (process.platform === "linux") names.push(`strata.${process.pid}.1-00000000.00ff.${host}.lock`)
      for (const name of names) Fs.writeFileSync(Path.join(path, name), "")
      yield* open(path, query("SELECT 1"))
      assert.deepStrictEqual(locks(path), ["strata.half written.lock"])
      const foreign = Path.join(path, "strata.1.0.00ff.elsewhere.example.lock")
      Fs.writeFileSync(foreign, "")
      const refused = yield* failure(path, query("SELECT 1"))
      assert.strictEqual(refused.reason, "InUse")
      assert.include(refused.message, "process 1 on elsewhere.example")
      assert.include(refused.message, foreign)
    })
  )

  it.live("says why a directory cannot be used", () =>
    Effect.gen(function* () {
      const file = Path.join(root, "file")
      Fs.writeFileSync(file, "")
      const other = Path.join(root, "other")
      Fs.mkdirSync(other)
      Fs.writeFileSync(Path.join(other, "thesis.txt"), "")
      const old = database("old")
      Fs.writeFileSync(Path.join(old, "PG_VERSION"), "16\n")
      const control = database("control")
      Fs.truncateSync(Path.join(control, "global", "pg_control"), 100)
      const noLog = database("no-log")
      Fs.rmSync(Path.join(noLog, "pg_wal"), { recursive: true })
      const cases: ReadonlyArray<readonly [string, string]> = [
        [file, "is not a directory"],
        [Path.join(file, "below"), "is not a directory"],
        [other, "is not empty, and what it holds is no Postgres database"],
        [old, "was initialized by PostgreSQL version 16, which is not compatible with this version 18"],
        [control, 'could not read file "global/pg_control"'],
        [noLog, 'required WAL directory "pg_wal" does not exist'],
        [" ", "has an empty name"]
      ]
      for (const [path, message] of cases) {
        const error = yield* failure(path, query("SELECT 1"))
        assert.strictEqual(error.reason, "Unusable")
        assert.include(error.message, message)
        assert.include(error.message, path.trim())
      }
      assert.deepStrictEqual(Fs.readdirSync(other), ["thesis.txt"])
    })
  )

  /** Makes a directory read-only until the test ends, so that it can be removed. */
  const readOnly = (path: string) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        Fs.chmodSync(path, 0o500)
        return path
      }),
      () => Effect.sync(() => Fs.chmodSync(path, 0o700))
    )

  it.live("says so when it may not write", () =>
    Effect.gen(function* () {
      // What permissions forbid does not stop root: only the kernel's own file systems do.
      const path = process.getuid?.() === 0 ? "/sys/strata" : yield* readOnly(database("read-only"))
      const error = yield* failure(path, query("SELECT 1"))
      assert.strictEqual(error.reason, "Unusable")
      assert.include(error.message, "cannot be read and written by this process")
    })
  )

  it.live("keeps the write-ahead log small", () =>
    Effect.gen(function* () {
      const path = database("log")
      const fill = query("INSERT INTO seen SELECT n FROM generate_series(1, 20000) n")
      const work = Effect.andThen(Effect.repeat(fill, { times: 320 }), query("TRUNCATE seen"))
      yield* open(path, work)
      const bytes = Fs.readdirSync(Path.join(path, "pg_wal")).length * 16 * 1024 * 1024
      assert.isAtMost(bytes, 256 * 1024 * 1024)
    })
  )
})
