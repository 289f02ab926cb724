/** Tables of Go services that are large already when Strata comes: others go on writing, and a killed process harms nothing. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Console, Deferred, Effect, Fiber, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"
import { fileURLToPath } from "node:url"
import { scratchDatabase, waitForBackends } from "../support/database.ts"
import { goSyncKitOf } from "../support/largeLogs.ts"
import { startScript } from "../support/scripts.ts"
import { plainInsert, session } from "./events.harness.ts"
import { execute, migrate, query, serve, unique } from "./harness.ts"

/** So many events that building an index takes long enough to be watched. */
const eventCount = 2_000_000

/** The locks of a table that keep writers waiting. */
const blocking = `mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

/** The view has those of all databases of the server. */
const buildsHere = "pg_stat_progress_create_index WHERE datname = current_database()"

const builds = (url: string) => query(`SELECT pid FROM ${buildsHere}`, url)

/** The indexes by aggregate and version, and whether each can be used. */
const indexes = (url: string) =>
  query(
    `SELECT indisvalid FROM pg_index WHERE indrelid = 'events'::regclass
       AND pg_get_indexdef(indexrelid) LIKE '%USING btree (aggregate_id, version)'`,
    url
  )

const recorded = (url: string) =>
  Effect.map(query(`SELECT id FROM strata_migrations WHERE id >= 45 ORDER BY 1`, url), (rows) => rows.flat())

/** A writer on a connection of its own, which inserts one event after the other until it is told to end. */
const writer = Effect.fnUntraced(function* (url: string) {
  const run = yield* session(url)
  const end = yield* Deferred.make<void>()
  let count = 0
  let longestMillis = 0
  const fiber = yield* Effect.gen(function* () {
    while (!Deferred.isDoneUnsafe(end)) {
      const start = performance.now()
      yield* run(plainInsert("events", `written ${count++}`))
      longestMillis = Math.max(longestMillis, performance.now() - start)
    }
  }).pipe(Effect.forkScoped)
  return {
    count: () => count,
    end: Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber)),
    longest: () => `${Math.ceil(longestMillis)} ms`
  }
})

/** What a session of this application had of the table while an index was built, look by look. */
const watch = Effect.fnUntraced(function* (url: string, applicationName: string) {
  const sql = yield* PgClient.makeClient({ url: Redacted.make(url) }).pipe(Effect.provide(Reactivity.layer))
  const seen = { building: 0, blocking: new Array<unknown>() }
  yield* Effect.forever(
    Effect.gen(function* () {
      const [row] = yield* sql.unsafe(
        `SELECT (SELECT count(*) FROM ${buildsHere})::int AS building, array(
           SELECT mode FROM pg_locks JOIN pg_stat_activity USING (pid)
           WHERE application_name = '${applicationName}' AND relation = 'events'::regclass AND ${blocking}
         ) AS modes`
      ).values
      const [building, modes] = row ?? []
      if (building === 0) return
      seen.building++
      if (Array.isArray(modes)) seen.blocking.push(...modes)
    })
  ).pipe(Effect.forkScoped)
  return seen
})

const script = fileURLToPath(new URL("fixtures/migrating.ts", import.meta.url))

/** A process that migrates. */
const migrating = (url: string) => startScript(script, [url], { stdio: "inherit" })

/** Before this phase, no other session sees the index. */
const untilBuilding = (url: string) =>
  Effect.repeat(query(`SELECT pid FROM ${buildsHere} AND phase LIKE 'building index%'`, url), {
    until: (rows) => rows.length > 0
  })

describe("a table of two million events", () => {
  it.live("is adopted while a writer goes on: no lock of ours keeps it waiting while an index is built", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* goSyncKitOf(url, eventCount)
      const writing = yield* writer(url)
      const applicationName = yield* unique
      const seen = yield* watch(url, applicationName)
      const before = writing.count()
      yield* migrate(url, {}, { applicationName })
      const written = writing.count() - before
      yield* writing.end
      yield* Console.log(
        `${written} events were written while ${eventCount} were adopted; the longest wait was ${writing.longest()}`
      )
      assert.isAbove(seen.building, 0)
      assert.deepStrictEqual(seen.blocking, [])
      assert.isAbove(written, 0)
      assert.deepStrictEqual(yield* indexes(url), [[true]])
      assert.include(yield* recorded(url), 45)
      // No connection is left behind, and what is adopted works.
      yield* waitForBackends(applicationName, (all) => all.length === 0, url)
      const { events } = yield* serve({ url })
      const [appended] = yield* events.append({ aggregateId: "account-1", eventType: "Deposited", data: {} })
      assert.strictEqual(appended?.aggregateId, "account-1")
    })
  )

  it.live("is adopted by the next process where one was killed in the middle, or the server has ended the build", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* goSyncKitOf(url, eventCount)
      // The server ends the build, and leaves an index that is none.
      const { ended } = yield* migrating(url)
      const [[pid] = []] = yield* untilBuilding(url)
      yield* query(`SELECT pg_terminate_backend(${pid})`, url)
      yield* ended
      assert.deepStrictEqual(yield* indexes(url), [[false]])
      assert.notInclude(yield* recorded(url), 45)
      // The process is killed, and the server goes on with the build.
      const killed = yield* migrating(url)
      yield* untilBuilding(url)
      yield* killed.kill
      yield* migrate(url)
      assert.deepStrictEqual(yield* indexes(url), [[true]])
      assert.include(yield* recorded(url), 45)
      assert.deepStrictEqual(yield* builds(url), [])
    })
  )
})

describe("a transaction that has a table", () => {
  it.live("keeps only the migration waiting, not the writers that come after it", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      // RetrySpool's table, as it was: columns are added to it, which takes the strongest lock.
      yield* execute(
        [
          `CREATE TABLE retryspool_messages (
             id VARCHAR(255) PRIMARY KEY, state INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
             max_attempts INTEGER NOT NULL, next_retry TIMESTAMPTZ NOT NULL, created TIMESTAMPTZ NOT NULL DEFAULT now(),
             updated TIMESTAMPTZ NOT NULL DEFAULT now(), last_error TEXT, size BIGINT NOT NULL DEFAULT 0,
             priority INTEGER NOT NULL DEFAULT 5, headers JSONB)`
        ],
        url
      )
      const insert = (id: string) =>
        `INSERT INTO retryspool_messages (id, state, max_attempts, next_retry) VALUES ('${id}', 0, 3, now())`
      const holder = yield* session(url)
      yield* holder("BEGIN")
      yield* holder(insert("held"))
      const applicationName = yield* unique
      const migration = yield* Effect.forkScoped(migrate(url, {}, { applicationName }))
      const other = yield* session(url)
      const untilWaiting = `DO $$ BEGIN
        WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'retryspool_messages'::regclass) LOOP
          PERFORM pg_sleep(0.01);
        END LOOP;
      END $$`
      const written = 3
      for (let n = 0; n < written; n++) {
        yield* other(untilWaiting)
        yield* other(insert(`other ${n}`))
      }
      yield* holder("COMMIT")
      yield* Fiber.join(migration)
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM retryspool_messages`, url), [[written + 1]])
      assert.include(yield* recorded(url), 45)
    })
  )
})
