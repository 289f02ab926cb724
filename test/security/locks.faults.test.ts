/** Any role that may connect can take the advisory locks of appends: waits end, and name it. */
import { PgConnection } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { jsonLines, strata } from "../cli/harness.ts"
import { failsWith, freshRole, migrate, serve } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"

describe("somebody's advisory locks", () => {
  it.live.each([
    ["the log", "hashtextextended('', 2 * 'strata.events'::regclass::oid::bigint)", {}],
    ["all ids", "hashtextextended('', 2 * 'strata.events'::regclass::oid::bigint + 1)", { id: "given" }]
  ] as const)("of %s: an append ends with an error that names pid and role, and the doctor shows it", ([, key, part]) =>
    Effect.gen(function* () {
      const { role } = yield* freshRole()
      const url = yield* scratchDatabase()
      yield* migrate(url, { schema: "strata" })
      const own = new URL(url)
      own.username = role
      own.password = "secret"
      const connection = yield* PgConnection.make({ url: Redacted.make(own.href), applicationName: "mallory" })
      // The role has no right to the schema: the key is a number that it can find by trying.
      const name = key.replace("'strata.events'::regclass::oid", "(SELECT oid FROM pg_class WHERE relname = 'events')")
      yield* connection.query(`SELECT pg_advisory_lock(${name})`)
      const holder = `pid ${connection.processId}, role ${role}, application 'mallory'`
      const { events } = yield* serve({
        url,
        options: { schema: "strata" },
        layer: Postgres.layerStorage,
        client: { startupParameters: { lock_timeout: "300ms" } }
      })
      const append = events.append({ aggregateId: "a", eventType: "T", data: null, ...part })
      yield* failsWith(append, "EventStore.append", "Contention", new RegExp(`waiting for ${holder}`))
      const { stdout } = yield* strata(["doctor", "--json", "--schema", "strata"], { url })
      const found = jsonLines(stdout).find(({ check, level }) => check === "locks" && level === "problem")
      assert.match(String(found?.["says"]), new RegExp(`^${holder}, holds the lock of all appends`))
      yield* connection.query(`SELECT pg_advisory_unlock(${name})`)
      yield* append
    }).pipe(Effect.scoped)
  )
})
