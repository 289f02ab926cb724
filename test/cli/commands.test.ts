/** What subcommands say and do, on a server and on a Postgres inside the process: the same on both. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Command } from "effect/cli"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { strata as strataCommand } from "../../src/cli/Strata.ts"
import { execute, freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { fails, jsonLines, type Options, start, strata, succeeds, temporaryDirectory } from "./harness.ts"

/** An empty database, and the flags that each command needs to work on it. */
interface Backend {
  readonly flags: ReadonlyArray<string>
  readonly options: Options
}

const onServer = Effect.map(freshSchema(), (schema): Backend => ({
  flags: ["--schema", schema],
  options: { url: postgresUrl }
}))
const embedded = Effect.map(temporaryDirectory, (directory): Backend => ({
  flags: ["--pglite", join(directory, "data")],
  options: {}
}))

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/
const isoTime = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/

describe.each([
  ["a server", onServer],
  ["PGlite", embedded]
] as const)("on %s", (_, backend) => {
  it.live("migrate, offsets", () =>
    Effect.gen(function* () {
      const { flags, options } = yield* backend
      const run = (...args: ReadonlyArray<string>) => succeeds([...args, ...flags], options)

      if (flags[0] === "--schema") {
        const pending = jsonLines(yield* run("migrate", "--dry-run", "--json"))
        assert.match(String(pending[0]?.["file"]), /resources\/postgres\/0001_offsets\.sql$/)
      }
      assert.match(yield* run("migrate"), /^Run: 0001_offsets\.sql, 0002_events\.sql/)
      assert.strictEqual(yield* run("migrate"), "Nothing is pending\n")
      assert.strictEqual(yield* run("migrate", "--dry-run"), "")
      const [first] = jsonLines(yield* run("migrate", "status", "--json"))
      assert.strictEqual(first?.["file"], "0001_offsets.sql")
      assert.match(String(first?.["appliedAt"]), isoTime)

      const large = 2n ** 62n
      yield* run("offsets", "set", "accounts", "0", String(large), "--yes")
      yield* run("offsets", "set", "accounts", "3", "7", "--yes")
      yield* run("offsets", "set", "balances", "0", "9", "--yes")
      const table = yield* run("offsets", "list", "accounts")
      const [header, row, ...rest] = table.split("\n")
      assert.match(String(header), /^PROJECTION {2}SHARD +OFFSET {2}WRITTEN AT$/)
      assert.match(String(row), new RegExp(`^accounts +0  ${large}  \\d{4}-`))
      assert.strictEqual(rest.length, 2)
      const [got] = jsonLines(yield* run("offsets", "get", "accounts", "--json"))
      assert.deepInclude(got, { projectionName: "accounts", shardNumber: 0, value: String(large) })
      yield* fails(["offsets", "get", "accounts", "1", ...flags], 1, /shard 1 of .* has no offset/, options)
      assert.match(yield* run("offsets", "reset", "accounts", "5", "--yes"), /^2 shards of .* set to 5\n$/)
      const all = jsonLines(yield* run("offsets", "list", "--json"))
      assert.deepStrictEqual(
        all.map(({ projectionName, shardNumber, value }) => [projectionName, shardNumber, value]),
        [
          ["accounts", 0, "5"],
          ["accounts", 3, "5"],
          ["balances", 0, "9"]
        ]
      )
      const deleted = yield* run("offsets", "delete", "accounts", "--yes", "--json")
      assert.strictEqual(deleted, `{"projectionName":"accounts","shards":2}\n`)
    }).pipe(Effect.scoped)
  )

  it.live("events, status, doctor", () =>
    Effect.gen(function* () {
      const { flags, options } = yield* backend
      const run = (...args: ReadonlyArray<string>) => succeeds([...args, ...flags], options)
      yield* run("migrate")

      const append = ["events", "append", "--aggregate", "user-1", "--type", "UserCreated", "--expected", "none"]
      const [created] = jsonLines(
        yield* run(...append, "--data", `{"name":"Jöhn"}`, "--metadata", `{"by":"me"}`, "--json")
      )
      assert.deepInclude(created, {
        version: "1",
        aggregateId: "user-1",
        eventType: "UserCreated",
        data: { name: "Jöhn" },
        metadata: { by: "me" },
        streamName: "stream_user-1"
      })
      assert.match(String(created?.["id"]), uuid)
      assert.match(String(created?.["createdAt"]), isoTime)
      const lines = [2, 3, 4].map((n) =>
        JSON.stringify({ id: `e${n}`, aggregateId: `user-${n}`, eventType: "T", data: { n } })
      )
      const input = `${lines.join("\n")}\n`
      yield* succeeds(["events", "append", ...flags], { ...options, input })
      const again = yield* succeeds(["events", "append", "--ignore-duplicates", "--json", ...flags], {
        ...options,
        input
      })
      assert.deepStrictEqual(
        jsonLines(again).map(({ version }) => version),
        ["2", "3", "4"]
      )
      const versions = (text: string) => jsonLines(text).map(({ version }) => version)
      assert.deepStrictEqual(versions(yield* run("events", "read", "--json", "--after", "1", "--limit", "2")), [
        "2",
        "3"
      ])
      const backward = yield* run("events", "read", "--json", "--backward", "--type", "T", "--data", `{"n":3}`)
      assert.deepStrictEqual(versions(backward), ["3"])
      const table = yield* run("events", "read", "--aggregate", "user-1", "--aggregate", "user-4")
      assert.match(
        table,
        /^VERSION  CREATED AT +AGGREGATE  TYPE +DATA\n +1  \S+  user-1     UserCreated  {"name":"Jöhn"}\n +4  \S+  user-4     T            {"n":4}\n$/
      )
      const shown = yield* run("events", "show", "e3")
      assert.match(shown, /^version      3\nid           e3\naggregateId  user-3\n/)
      assert.include(shown, `data         {\n               "n": 3\n             }\n`)

      const [stats] = jsonLines(yield* run("events", "stats", "--json"))
      assert.deepInclude(stats, { events: 4, aggregates: 4, types: 2, latestVersion: "4" })
      assert.deepStrictEqual(stats?.["byType"], [
        { name: "T", events: 3, isEstimate: false },
        { name: "UserCreated", events: 1, isEstimate: false }
      ])

      const file = join(yield* temporaryDirectory, "events.jsonl")
      assert.match(yield* run("events", "export", file), /^4 events in /)
      assert.strictEqual((yield* Effect.promise(() => readFile(file, "utf8"))).split("\n").length, 6)
      assert.match(yield* run("events", "import", file), /^0 events imported from .*, 4 were there already/)
      assert.match(
        yield* run("events", "import", "--verify", file),
        /^4 events of .* are in the log, unchanged and in the same order\n$/
      )

      yield* run("offsets", "set", "users", "0", "1", "--yes")
      const [status] = jsonLines(yield* run("status", "--json"))
      assert.deepInclude(status, {
        latestVersion: "4",
        tail: null,
        states: "0",
        messages: { incoming: "0", active: "0", deferred: "0", hold: "0", bounce: "0" }
      })
      assert.deepStrictEqual(status?.["offsets"], [
        { projectionName: "users", shardNumber: 0, value: "1", behind: "3" }
      ])
      assert.match(
        yield* run("status"),
        /^server .*\nevents +up to version 4.*\ntail +nobody is appending\nstates +0\nmessages +0 incoming, .*\n\nPROJECTION/
      )

      // Nothing may be wrong but that the server of the tests may run without fsync.
      const examined = yield* strata(["doctor", "--json", "--prove", "--for", "500ms", ...flags], options)
      const findings = jsonLines(examined.stdout)
      const names = new Set(findings.filter(({ level }) => level !== "ok").map(({ check }) => check))
      names.delete("durability")
      assert.deepStrictEqual([...names], [], examined.stdout)
      const proof = findings.find(({ check }) => check === "proof")
      assert.match(String(proof?.["says"]), /^[1-9][\d,]* events of 12 writers, .*: 0 lost, 0 twice or out of order$/)
    }).pipe(Effect.scoped)
  )
})

describe("events append and show", () => {
  it.live("refuse an append whose expectation is wrong, and name the line that is no event", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      const first = ["events", "append", "--aggregate", "a", "--type", "T", "--expected", "none", "--id", "e1"]
      yield* succeeds(first, options)
      yield* fails(first, 1, /An event with the id "e1" is in the log already/, options)
      yield* fails(first.slice(0, -2), 1, /Aggregate "a" has version 1, where none was expected/, options)
      yield* fails(["events", "show", "nobody"], 1, /No event has the id "nobody"/, options)
      const good = `{"aggregateId":"a","eventType":"T","data":1}\n`
      const refused = (line: string, says: RegExp) =>
        fails(["events", "append"], 2, says, { ...options, input: good + line })
      yield* refused(
        `{"aggregateId":"a","eventType":"T","data":0.1234567890123456789}`,
        /line 2 .*0\.1234567890123456789/
      )
      yield* refused(`{"aggregateId":"a","data":1}`, /line 2 of stdin is no event: .*eventType/)
      yield* refused(
        `{"aggregateId":"a","eventType":"T","data":1,"version":"7"}`,
        /line 2 of stdin is no event: version/
      )
      yield* refused("nonsense", /line 2 of stdin is no event/)
      const stats = yield* succeeds(["events", "stats"], options)
      assert.match(stats, /^events +1\n(.*\n)*TYPE +EVENTS\nT +1\n(.*\n)*.* 1 {2}█{40}\n/)
    }).pipe(Effect.scoped)
  )
})

describe("events tail", () => {
  it.live("shows what other processes append after the given version, until it is interrupted", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      const append = (n: number) =>
        execute([
          `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data) VALUES ('e${n}', 'a${n % 2}', 'T', '${n}')`
        ])
      yield* append(1)
      yield* append(2)
      yield* append(3)
      const tail = yield* start(["events", "tail", "--after", "1", "--aggregate", "a1", "--json"], options)
      yield* tail.says(`"id":"e3"`)
      yield* append(4)
      yield* append(5)
      yield* tail.says(`"id":"e5"`)
      yield* tail.interrupt
      const { status, stderr, stdout } = yield* tail.ended
      assert.deepStrictEqual({ status, stderr }, { status: 130, stderr: "" })
      assert.deepStrictEqual(
        jsonLines(stdout).map(({ id }) => id),
        ["e3", "e5"]
      )
    }).pipe(Effect.scoped)
  )
})

describe("status --watch", () => {
  it.live("looks again and again, and shows the rate since the look before", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      const watch = yield* start(["status", "--watch", "--interval", "100ms", "--json"], options)
      yield* watch.says(`"latestVersion":"0"`)
      yield* execute([`INSERT INTO ${schema}.events (id, aggregate_id, event_type, data) VALUES ('e', 'a', 'T', '1')`])
      yield* watch.says(/"latestVersion":"1","latestAt":"[^"]+","eventsPerSecond":[1-9]/)
      yield* watch.says(/"eventsPerSecond":0/)
      yield* watch.interrupt
      assert.strictEqual((yield* watch.ended).status, 130)
    }).pipe(Effect.scoped)
  )
})

describe("help", () => {
  it("has a description and an example for every subcommand", () => {
    const check = (command: Command.Command.Any, path: ReadonlyArray<string>): number => {
      const name = [...path, command.name]
      assert.isNotEmpty(command.description, name.join(" "))
      const { examples } = command
      assert.isNotEmpty(examples, name.join(" "))
      for (const { command } of examples) assert.include(command, name.join(" "))
      const children = command.subcommands.flatMap(({ commands }) => commands)
      return children.reduce((sum, child) => sum + check(child, name), 1)
    }
    assert.isAtLeast(check(strataCommand, []), 19)
  })

  it.live("is what --help shows; and there is completion for shells", () =>
    Effect.gen(function* () {
      assert.match(yield* succeeds(["events", "import", "--help"]), /EXAMPLES\n  # .*\n  strata events import events/)
      assert.match(yield* succeeds([]), /SUBCOMMANDS\n/)
      for (const shell of ["bash", "zsh", "fish"]) {
        const script = yield* succeeds(["--completions", shell])
        for (const word of ["strata", "offsets", "ignore-duplicates"]) assert.include(script, word)
      }
    })
  )
})
