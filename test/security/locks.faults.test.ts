/** Any role that may connect can take the advisory locks of appends, imports and migrations: waits end, and name it. */
import { PgConnection } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fails, jsonLines, strata, temporaryDirectory } from "../cli/harness.ts"
import { failsWith, freshRole, migrate, serve, urlWith } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"

const ofLog = "hashtextextended('', 2 * (SELECT oid FROM pg_class WHERE relname = 'events')::bigint)"
const ofIds = "hashtextextended('', 2 * (SELECT oid FROM pg_class WHERE relname = 'events')::bigint + 1)"
const ofMigrations = "hashtextextended('effect-strata', 0)"

/** The role has no right to the tables: the keys are numbers that it can find by trying. */
const mallory = Effect.fnUntraced(function* (database: string) {
  const { role } = yield* freshRole()
  const url = new URL(database)
  url.username = role
  url.password = "secret"
  const connection = yield* PgConnection.make({ url: Redacted.make(url.href), applicationName: "mallory" })
  return { connection, holder: `pid ${connection.processId}, role ${role}, application 'mallory'` }
})

/** A database with tables, and a role that holds a lock in it. */
const holding = Effect.fnUntraced(function* (key: string, shared: "" | "_shared" = "") {
  const url = yield* scratchDatabase()
  yield* migrate(url, { schema: "strata" })
  const { connection, holder } = yield* mallory(url)
  yield* connection.query(`SELECT pg_advisory_lock${shared}(${key})`)
  return { url, holder, release: connection.query(`SELECT pg_advisory_unlock${shared}(${key})`) }
})

/** What the doctor says of locks. */
const doctorOn = (url: string) =>
  Effect.map(strata(["doctor", "--json", "--schema", "strata"], { url }), ({ stdout }) =>
    jsonLines(stdout)
      .filter(({ check, level }) => check === "locks" && level === "problem")
      .map(({ says }) => String(says))
  )

const eventFile = Effect.gen(function* () {
  const path = join(yield* temporaryDirectory, "events.jsonl")
  const event = { id: "1", aggregateId: "a", eventType: "T", createdAt: "2026-01-01T00:00:00Z", data: 1 }
  yield* Effect.promise(() => writeFile(path, `${JSON.stringify(event)}\n`))
  return path
})

describe("somebody's advisory locks", () => {
  it.live.each([
    ["the log", ofLog, {}],
    ["all ids", ofIds, { id: "given" }]
  ] as const)("of %s: an append ends with an error that names pid and role, and the doctor shows it", ([, key, part]) =>
    Effect.gen(function* () {
      const { holder, release, url } = yield* holding(key)
      const { events } = yield* serve({
        url,
        options: { schema: "strata" },
        layer: Postgres.layerStorage,
        client: { startupParameters: { lock_timeout: "300ms" } }
      })
      const append = events.append({ aggregateId: "a", eventType: "T", data: null, ...part })
      yield* failsWith(append, "EventStore.append", "Contention", new RegExp(`waiting for ${holder}`))
      const [found] = yield* doctorOn(url)
      assert.match(found ?? "", new RegExp(`^${holder}, holds the lock of all appends`))
      yield* release
      yield* append
    })
  )

  it.live.each([
    ["the log", ofLog, ""],
    ["the log, shared", ofLog, "_shared"],
    ["all ids, shared", ofIds, "_shared"]
  ] as const)(
    "of %s: an import ends with an error that names pid and role, and the doctor shows it",
    ([, key, shared]) =>
      Effect.gen(function* () {
        const { holder, release, url } = yield* holding(key, shared)
        const args = ["events", "import", "--schema", "strata", "--unchecked", yield* eventFile]
        const limited = { url: urlWith(({ searchParams }) => searchParams.set("lock_timeout", "6s"), url) }
        // First a warning, then the error.
        const says = `lock of all appends is held by another session: waiting for ${holder}.*
.*lock of all appends could not be had: waiting for ${holder}`
        yield* fails(args, 1, new RegExp(says), limited)
        const [found] = yield* doctorOn(url)
        assert.match(found ?? "", new RegExp(`^${holder}, holds the lock of all appends`))
        yield* release
        assert.deepStrictEqual([(yield* strata(args, limited)).status, yield* doctorOn(url)], [0, []])
      })
  )

  it.live.each(["", "_shared"] as const)(
    "of migrations (%s): a migration ends with an error that names pid and role, and the doctor shows it",
    (shared) =>
      Effect.gen(function* () {
        const { holder, release, url } = yield* holding(ofMigrations, shared)
        const elsewhere = { schema: "elsewhere", migrationWait: "6 seconds" } as const
        const says = new RegExp(`lock of all migrations could not be had: waiting for ${holder}`)
        yield* failsWith(migrate(url, elsewhere), "Postgres.migrate", "Contention", says)
        const [found] = yield* doctorOn(url)
        assert.match(found ?? "", new RegExp(`^${holder}, holds the lock of all migrations`))
        yield* release
        yield* migrate(url, elsewhere)
      })
  )
})
