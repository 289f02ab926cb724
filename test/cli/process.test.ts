/** The command as a process: its exit status, its pipes, and the end of the process. Signals are tested where they matter. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { execute, freshSchema, unique, urlWith } from "../postgres/harness.ts"
import { postgresUrl, waitForBackends } from "../support/database.ts"
import {
  assertFailed,
  bin,
  jsonLines,
  launch,
  node,
  start,
  strataProcess,
  succeeds,
  temporaryDirectory
} from "./harness.ts"

describe("a process of the command", () => {
  it.live("ends with 0, 1 or 2, writes results to stdout, and says on stderr what has failed", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      const migrated = yield* strataProcess(["migrate"], options)
      assert.deepInclude(migrated, { status: 0, stderr: "" })
      assert.match(migrated.stdout, /^Run: 0001_offsets\.sql, /)
      const get = ["offsets", "get", "accounts"]
      assertFailed(get, yield* strataProcess(get, options), 1, /^strata: shard 0 of .* has no offset\n$/)
      const unknown = ["evnts"]
      assertFailed(unknown, yield* strataProcess(unknown, options), 2, /^strata: Unknown subcommand "evnts"/)
    }).pipe(Effect.scoped)
  )

  it.live("reads stdin, closes an embedded database, and ends by itself", () =>
    Effect.gen(function* () {
      const flags = ["--pglite", join(yield* temporaryDirectory, "data")]
      yield* succeeds(["migrate", ...flags])
      const input = `{"aggregateId":"a","eventType":"T","data":"Jöhn"}\n`
      const { status, stderr, stdout } = yield* strataProcess(["events", "append", "--json", ...flags], { input })
      assert.deepStrictEqual({ status, stderr }, { status: 0, stderr: "" })
      assert.deepInclude(jsonLines(stdout)[0], { version: "1", data: "Jöhn" })
      // The process that wrote has closed the database.
      assert.include(yield* succeeds(["events", "read", ...flags]), "Jöhn")
    }).pipe(Effect.scoped)
  )
})

describe("output that nobody reads any more", () => {
  it.live("ends the command quietly", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      const many = `SELECT 'e' || n, 'a', 'T', to_jsonb(repeat('x', 1000)) FROM generate_series(1, 20000) AS n`
      yield* execute([`INSERT INTO ${schema}.events (id, aggregate_id, event_type, data) ${many}`])
      const reading = yield* start(["events", "read", "--json"], options)
      yield* reading.says(`"version":"1"`)
      yield* Effect.sync(() => reading.child.stdout?.destroy())
      const { status, stderr } = yield* reading.ended
      assert.deepStrictEqual({ status, stderr }, { status: 0, stderr: "" })
    }).pipe(Effect.scoped)
  )

  it.live.each([
    ["a pipe", ["events", "tail", "--after", "start", "--json"]],
    ["a pipe, of a table", ["events", "tail", "--after", "start"]],
    ["a pipe, of something that is shown again and again", ["status", "--watch", "--interval", "1h"]]
  ] as const)("ends a command that waits, and its connections: %s", ([, args]) =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const applicationName = yield* unique
      const url = urlWith((url) => url.searchParams.set("application_name", applicationName))
      const options = { url, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      yield* execute([`INSERT INTO ${schema}.events (id, aggregate_id, event_type) VALUES ('e', 'a', 'T')`])
      const command = node(bin, args).map((part) => `'${part}'`)
      const errors = join(yield* temporaryDirectory, "errors")
      // The shell makes a pipe, where Node would make a pair of sockets, and waits for both ends.
      const piped = yield* launch(["/bin/sh", "-c", `${command.join(" ")} 2>'${errors}' | head -n 1`], options)
      const { status, stderr, stdout } = yield* piped.ended
      assert.deepStrictEqual({ status, stderr }, { status: 0, stderr: "" })
      assert.strictEqual(yield* Effect.promise(() => readFile(errors, "utf8")), "")
      assert.strictEqual(stdout.split("\n").length, 2)
      assert.deepStrictEqual(yield* waitForBackends(applicationName, (all) => all.length === 0), [])
    }).pipe(Effect.scoped)
  )

  it.live("ends a command that waits where the output is a socket", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      yield* execute([`INSERT INTO ${schema}.events (id, aggregate_id, event_type) VALUES ('e', 'a', 'T')`])
      const tailing = yield* start(["events", "tail", "--after", "start", "--json"], options)
      yield* tailing.says(`"version":"1"`)
      yield* Effect.sync(() => tailing.child.stdout?.destroy())
      const { status, stderr } = yield* tailing.ended
      assert.deepStrictEqual({ status, stderr }, { status: 0, stderr: "" })
    }).pipe(Effect.scoped)
  )

  it.live("ends what only shows something, and lets what changes something go on", () =>
    Effect.gen(function* () {
      const from = { url: postgresUrl, env: { DB_SCHEMA: yield* freshSchema() } }
      const to = { url: postgresUrl, env: { DB_SCHEMA: yield* freshSchema() }, unread: true }
      const file = join(yield* temporaryDirectory, "events.jsonl")
      yield* succeeds(["migrate"], from)
      yield* succeeds(["events", "append", "--aggregate", "a", "--type", "T", "--data", "1"], from)
      yield* succeeds(["events", "export", file], from)
      yield* succeeds(["migrate"], to)
      yield* succeeds(["events", "import", file], to)
      assert.strictEqual(yield* succeeds(["events", "tail", "--after", "start"], to), "")
      assert.strictEqual(yield* succeeds(["status", "--watch"], to), "")
      assert.include(yield* succeeds(["events", "read"], { ...to, unread: false }), " a ")
    }).pipe(Effect.scoped)
  )
})

describe("output that cannot be written", () => {
  // 8 blocks of a file are less than the event has: the first write is cut, as by a disk that is nearly full.
  const places = [
    ["a device that is full", (command: string) => `${command} >/dev/full`],
    ["a disk that is nearly full", (command: string) => `trap '' XFSZ; ulimit -f 8; ${command} >"$FILE"`]
  ] as const
  it.live.each(existsSync("/dev/full") ? places : places.slice(1))(
    "ends the command with 1, and it says so: %s",
    ([, redirected]) =>
      Effect.gen(function* () {
        const file = join(yield* temporaryDirectory, "output")
        const options = { url: postgresUrl, env: { DB_SCHEMA: yield* freshSchema(), FILE: file } }
        yield* succeeds(["migrate"], options)
        const large = JSON.stringify("x".repeat(100_000))
        yield* succeeds(["events", "append", "--aggregate", "a", "--type", "T", "--data", large], options)
        for (const args of [
          ["events", "read", "--json"],
          ["events", "export"]
        ]) {
          const command = node(bin, args).map((part) => `'${part}'`)
          const { ended } = yield* launch(["/bin/sh", "-c", redirected(command.join(" "))], options)
          assertFailed(args, yield* ended, 1, /^strata: the output could not be written: \w+: /)
        }
      }).pipe(Effect.scoped)
  )
})
