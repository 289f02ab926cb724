/** What a role of the application can do with exactly the grants that the guide and `strata grants` name, and what not. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import * as Suites from "effect-strata/testing"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { jsonLines, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { execute, freshRole, migrate, query, serve } from "../postgres/harness.ts"
import { withConnection } from "../support/connection.ts"
import { scratchDatabase } from "../support/database.ts"
import { useStores } from "./harness.ts"

/** The grants of the guide to deploying, for this role. */
const grantsOfGuide = (role: string) => {
  const guide = readFileSync(new URL("../../resources/guides/deploying.md", import.meta.url), "utf8")
  const blocks = [...guide.matchAll(/```sql[^\n]*\n([^]*?)```/g)].map(([, text = ""]) => text)
  const sql = blocks.find((text) => text.includes("GRANT USAGE ON SCHEMA strata TO app")) ?? ""
  return sql
    .replaceAll(/--.*/g, "")
    .replaceAll(" TO app", ` TO ${role}`)
    .split(";")
    .map((statement) => statement.trim())
    .filter((statement) => statement !== "")
}

/** Tables in `strata` that a superuser owns, and a role without any right. */
const prepared = Effect.gen(function* () {
  const { role } = yield* freshRole()
  const url = yield* scratchDatabase()
  yield* migrate(url, { schema: "strata" })
  const own = new URL(url)
  own.username = role
  own.password = "secret"
  return { role, url, appUrl: own.href }
})

const options = { schema: "strata" }

const denied = (url: string, statement: string) =>
  Effect.map(Effect.flip(withConnection(url, (sql) => sql.unsafe(statement).unprepared)), (error) =>
    assert.match(String(error.reason.cause), /permission denied/, statement)
  )

const problems = (url: string) =>
  Effect.map(strata(["doctor", "--json", "--schema", "strata"], { url }), ({ stdout }) =>
    // The server of the tests may run without fsync.
    jsonLines(stdout).filter(({ check, level }) => level !== "ok" && check !== "durability")
  )

describe("a role with the grants", () => {
  it.live.each([
    ["of the guide", (role: string) => Effect.succeed(grantsOfGuide(role))],
    [
      "that strata grants prints",
      (role: string, url: string) =>
        Effect.map(succeeds(["grants", role, "--schema", "strata", "--json"], { url }), (text) =>
          jsonLines(text).map(({ statement }) => String(statement))
        )
    ]
  ] as const)("%s uses all stores, reads by the command, and the doctor is content", ([, grantsOf]) =>
    Effect.gen(function* () {
      const { appUrl, role, url } = yield* prepared
      assert.isAbove((yield* problems(appUrl)).length, 0)
      yield* execute(yield* grantsOf(role, url), url)
      for (const layer of [Postgres.layer, Postgres.layerStorage]) {
        yield* Effect.flatMap(serve({ url: appUrl, options, layer }), useStores).pipe(Effect.scoped)
      }
      assert.deepStrictEqual(yield* problems(appUrl), [])
      const reads = [
        ["events", "read"],
        ["events", "stats"],
        ["offsets", "list"],
        ["states", "list"],
        ["spool", "stats"],
        ["spool", "list", "incoming"],
        ["projections", "list"],
        ["status"],
        ["migrate", "status"],
        ["events", "export", join(yield* temporaryDirectory, "e.jsonl")]
      ]
      for (const command of reads) yield* succeeds([...command, "--schema", "strata"], { url: appUrl })
      // A role that may not see the records is warned, and no more.
      yield* execute([`REVOKE SELECT ON strata.strata_migrations FROM ${role}`], url)
      assert.deepStrictEqual(
        (yield* problems(appUrl)).map(({ check, level }) => [check, level]),
        [["migrations", "warning"]]
      )
    }).pipe(Effect.scoped)
  )

  it.live("forges neither version nor time of an event; one who imports chooses times, and no version", () =>
    Effect.gen(function* () {
      const { appUrl, role, url } = yield* prepared
      yield* succeeds(["grants", role, "--schema", "strata", "--apply"], { url })
      const insert = (columns: string, values: string) =>
        `INSERT INTO strata.events (id, aggregate_id, event_type${columns}) OVERRIDING SYSTEM VALUE VALUES ('f', 'f', 'F'${values})`
      yield* denied(appUrl, insert(", version", ", 9223372036854775807"))
      yield* denied(appUrl, insert(", created_at", ", '2001-01-01'"))
      yield* denied(appUrl, "UPDATE strata.events SET version = DEFAULT")
      yield* denied(appUrl, "DELETE FROM strata.events")
      const file = join(yield* temporaryDirectory, "events.jsonl")
      yield* Effect.flatMap(serve({ url: appUrl, options, layer: Postgres.layerStorage }), useStores).pipe(
        Effect.scoped
      )
      yield* succeeds(["events", "export", file, "--schema", "strata"], { url: appUrl })
      yield* execute(["TRUNCATE strata.events"], url)
      const refused = yield* strata(["events", "import", file, "--schema", "strata"], { url: appUrl })
      assert.strictEqual(refused.status, 1)
      assert.match(refused.stderr, /permission denied/)
      yield* succeeds(["grants", role, "--to", "import", "--schema", "strata", "--apply"], { url })
      yield* succeeds(["events", "import", file, "--schema", "strata"], { url: appUrl })
      yield* denied(appUrl, insert(", version", ", 9223372036854775807"))
    }).pipe(Effect.scoped)
  )

  it.live("for reading reads, and changes nothing", () =>
    Effect.gen(function* () {
      const { appUrl, role, url } = yield* prepared
      yield* succeeds(["grants", role, "--to", "read", "--schema", "strata", "--apply"], { url })
      for (const command of [["events", "read"], ["spool", "stats"], ["status"], ["migrate", "status"]]) {
        yield* succeeds([...command, "--schema", "strata"], { url: appUrl })
      }
      for (const table of ["events", "offsets_store", "states_store", "retryspool_messages", "strata_messages"]) {
        yield* denied(appUrl, `DELETE FROM strata.${table}`)
      }
    }).pipe(Effect.scoped)
  )
})

describe("a version that the sequence has not drawn", () => {
  it.live("is found by the doctor, whose remedy works: appends go on, and subscribers see all of it", () =>
    Effect.gen(function* () {
      const { url } = yield* prepared
      const append = (id: string) =>
        succeeds(["events", "append", "--aggregate", "a", "--type", "T", "--id", id, "--schema", "strata"], { url })
      yield* append("one")
      yield* execute(
        [
          "INSERT INTO strata.events (version, id, aggregate_id, event_type) OVERRIDING SYSTEM VALUE VALUES (9223372036854775807, 'forged', 'a', 'T')"
        ],
        url
      )
      yield* append("two")
      const [found] = yield* problems(url)
      assert.match(
        String(found?.["says"]),
        /the last version is 9223372036854775807, .* has drawn 2: somebody has chosen a version/
      )
      const [, statement = ""] = /as the owner: (UPDATE [^;]*);/.exec(String(found?.["remedy"])) ?? []
      yield* execute([statement], url)
      // The doctor has seen the version that is gone now, and says so once.
      assert.deepStrictEqual(
        (yield* problems(url)).map(({ check }) => check),
        ["log"]
      )
      assert.deepStrictEqual(yield* problems(url), [])
      yield* append("three")
      assert.deepStrictEqual(yield* query("SELECT version, id FROM strata.events ORDER BY version", url), [
        [1n, "one"],
        [2n, "two"],
        [3n, "forged"],
        [4n, "three"]
      ])
    }).pipe(Effect.scoped)
  )

  it.live("may not be chosen by an application: the doctor warns of the grants of before", () =>
    Effect.gen(function* () {
      const { appUrl, role, url } = yield* prepared
      yield* succeeds(["grants", role, "--schema", "strata", "--apply"], { url })
      yield* execute([`GRANT INSERT ON strata.events TO ${role}`], url)
      assert.match(
        String((yield* problems(appUrl))[0]?.["says"]),
        /this role may choose the versions and times of events/
      )
    }).pipe(Effect.scoped)
  )
})

/** The stores for a role with exactly what `strata grants` gives. */
const granted = Layer.unwrap(
  Effect.gen(function* () {
    const { appUrl, role, url } = yield* prepared
    yield* succeeds(["grants", role, "--schema", "strata", "--apply"], { url })
    return Layer.provide(Postgres.layerStorage(options), PgClient.layer({ url: Redacted.make(appUrl) }))
  })
)

Suites.DurableStateStore.suite("with grants", granted)
Suites.EventStore.suite("with grants", granted)
Suites.OffsetStore.suite("with grants", granted)
Suites.Projection.suite("with grants", granted)
Suites.Spool.suite("with grants", granted)
Suites.SpoolStore.suite("with grants", granted)
