/** What another role has planted under our names is neither adopted nor read: its owner decides what runs there. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Postgres from "effect-strata/postgres"
import { fails, jsonLines, strata, succeeds } from "../cli/harness.ts"
import { execute, failsWith, freshRole, migrate, query, serve } from "../postgres/harness.ts"
import { withConnection } from "../support/connection.ts"
import { scratchDatabase } from "../support/database.ts"
import { installPwn, useStores } from "./harness.ts"

/** A database in whose schema `public` somebody else may create, and ran code if `pwned` has a row. */
const open = Effect.gen(function* () {
  const { role } = yield* freshRole()
  const url = yield* scratchDatabase()
  yield* installPwn(url)
  yield* execute(["GRANT CREATE ON SCHEMA public TO PUBLIC"], url)
  const as = (statements: ReadonlyArray<string>, who = role) =>
    withConnection(url, (sql) =>
      Effect.forEach([`SET ROLE ${who}`, ...statements], (statement) => sql.unsafe(statement).unprepared, {
        discard: true
      })
    )
  return { as, role, url, pwned: query("SELECT * FROM pwned", url) }
})

const triggerFunction = (name: string) =>
  `CREATE FUNCTION ${name}() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN PERFORM public.pwn(); RETURN NEW; END'`

const eventsTable = `CREATE TABLE events (version BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL,
  event_type TEXT NOT NULL, data JSONB, metadata JSONB, created_at TIMESTAMPTZ DEFAULT now(),
  stream_name TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED)`

/** What somebody plants before the first migration, and what of it is named first. */
const plants: ReadonlyArray<readonly [what: string, statements: ReadonlyArray<string>, named: RegExp]> = [
  [
    "a table with a trigger",
    [eventsTable, triggerFunction("t"), "CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION t()"],
    /the function t\(\) of the trigger t on events/
  ],
  ["a table", ["CREATE TABLE states_store (persistence_id VARCHAR(255) PRIMARY KEY)"], /the table states_store/],
  [
    "a function",
    [
      `CREATE FUNCTION states_store_write(new_id VARCHAR, new_version BIGINT, new_payload BYTEA, new_manifest VARCHAR,
        new_timestamp BIGINT, new_shard BIGINT) RETURNS TABLE ("persistenceId" VARCHAR, "versionNumber" BIGINT, payload BYTEA,
        manifest VARCHAR, "timestamp" BIGINT, shard BIGINT) LANGUAGE plpgsql AS 'BEGIN PERFORM public.pwn(); END'`
    ],
    /the function states_store_write\(.*\)/
  ],
  [
    "a view that reads as the table of records",
    [
      `CREATE VIEW strata_migrations AS SELECT public.pwn() AS id, ''::text AS table_name, ''::text AS file, now() AS applied_at`
    ],
    /the view strata_migrations/
  ],
  [
    "a materialized view",
    [`CREATE MATERIALIZED VIEW offsets_store AS SELECT 1 AS a`],
    /the materialized view offsets_store/
  ]
]

describe("what somebody has planted before the first migration", () => {
  it.live.each(plants)(
    "%s: a superuser's migration, layer and doctor refuse it, and run nothing of it",
    ([, statements, named]) =>
      Effect.gen(function* () {
        const { as, pwned, role, url } = yield* open
        yield* as(statements)
        const says = new RegExp(`${named.source} belongs to the role ${role}, who decides`)
        yield* failsWith(migrate(url), "Postgres.migrate", "Denied", says)
        yield* failsWith(serve({ url }), "Postgres.migrate", "Denied", says)
        yield* fails(["migrate"], 1, says, { url })
        const { status, stdout } = yield* strata(["doctor", "--json"], { url })
        assert.strictEqual(status, 1)
        const found = jsonLines(stdout).filter(({ check, level }) => check === "owners" && level === "problem")
        assert.match(found.map((finding) => finding["says"]).join("\n"), says)
        yield* strata(["status"], { url })
        yield* strata(["migrate", "status"], { url })
        assert.deepStrictEqual(yield* pwned, [])
        // Somebody else's tables elsewhere do not matter.
        yield* migrate(url, { schema: "strata" })
      }).pipe(Effect.scoped)
  )

  it.live("all of it, with records that say that nothing is pending: a superuser refuses it", () =>
    Effect.gen(function* () {
      const { role, url } = yield* open
      const own = new URL(url)
      own.username = role
      own.password = "secret"
      yield* migrate(own.href)
      yield* failsWith(serve({ url }), "Postgres.migrate", "Denied", new RegExp(`belongs to the role ${role}`))
      yield* migrate(url, { owners: [role] })
    }).pipe(Effect.scoped)
  )

  it.live(
    "a trigger on the migrated table, by a right that the owner gave: the next migration and the doctor tell",
    () =>
      Effect.gen(function* () {
        const { as, role, url } = yield* open
        yield* migrate(url)
        yield* execute([`GRANT TRIGGER ON events TO ${role}`], url)
        yield* as([
          triggerFunction("spy"),
          "CREATE TRIGGER spy BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION spy()"
        ])
        const says = new RegExp(`the function spy\\(\\) of the trigger spy on events belongs to the role ${role}`)
        yield* failsWith(migrate(url, { notify: "rows" }), "Postgres.migrate", "Denied", says)
        const { stdout } = yield* strata(["doctor", "--json"], { url })
        assert.match(stdout, says)
        const trusting = yield* strata(["doctor", "--json", "--owner", role], { url })
        assert.notMatch(trusting.stdout, says)
      }).pipe(Effect.scoped)
  )
})

describe("the functions of the stores", () => {
  it.live("have a search path of their own, and the rights of who calls them", () =>
    Effect.gen(function* () {
      const { url } = yield* open
      yield* migrate(url)
      const unsafe = `SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
        WHERE nspname = 'public' AND proname <> 'pwn' AND (proconfig IS NULL OR prosecdef)`
      assert.deepStrictEqual(yield* query(unsafe, url), [])
    }).pipe(Effect.scoped)
  )
})

describe("tables that a Go service has created as a role of its own", () => {
  it.live("are adopted once that role is named, and not before", () =>
    Effect.gen(function* () {
      const app = yield* freshRole()
      const { as, role, url } = yield* open
      yield* as([eventsTable, "INSERT INTO events (id, aggregate_id, event_type) VALUES ('go-1', 'a', 'T')"])
      yield* failsWith(migrate(url), "Postgres.migrate", "Denied", new RegExp(`belongs to the role ${role}`))
      yield* succeeds(["migrate", "--owner", role], { url })
      yield* Effect.flatMap(serve({ url, options: { owners: [role] } }), useStores).pipe(Effect.scoped)
      assert.deepStrictEqual(yield* query("SELECT id FROM events WHERE version = 1", url), [["go-1"]])
      // A role of the application, which owns nothing, goes on as before.
      const appUrl = new URL(url)
      appUrl.username = app.role
      appUrl.password = "secret"
      yield* execute(
        [
          `GRANT ALL ON ALL TABLES IN SCHEMA public TO ${app.role}`,
          `GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ${app.role}`
        ],
        url
      )
      yield* Effect.flatMap(serve({ url: appUrl.href, layer: Postgres.layer }), useStores).pipe(Effect.scoped)
    }).pipe(Effect.scoped)
  )
})
