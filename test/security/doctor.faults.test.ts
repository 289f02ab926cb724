/** A superuser runs `strata doctor` on a database in which another role has planted all that the other tests here know. */
import { PgConnection } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { strata } from "../cli/harness.ts"
import { execute, freshRole, migrate, query } from "../postgres/harness.ts"
import { withConnection } from "../support/connection.ts"
import { scratchDatabase } from "../support/database.ts"
import { attackers, installPwn } from "./harness.ts"
import { assertHarmless, hostileText } from "./hostile.ts"
import { caught, layTraps, layTrapsBeside } from "./traps.ts"

const card = "4111111111111111"

const literal = (text: string) => `'${text.replaceAll("'", "''")}'`

/** What is there before the first migration, under our names. */
const planted = [
  `CREATE FUNCTION spy() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN PERFORM public.pwn(); RETURN NEW; END'`,
  `CREATE TABLE events (version BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL, event_type TEXT NOT NULL,
    data JSONB, metadata JSONB, created_at TIMESTAMPTZ DEFAULT now())`,
  "CREATE TRIGGER spy BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION spy()",
  "CREATE VIEW offsets_store AS SELECT public.pwn() AS projection_name",
  "CREATE VIEW strata_migrations AS SELECT public.pwn() AS id, ''::text AS table_name, ''::text AS file, now() AS applied_at",
  "CREATE VIEW events_log AS SELECT public.pwn()::text AS id",
  "CREATE MATERIALIZED VIEW states_store AS SELECT 1 AS a",
  "CREATE FUNCTION states_store_write(a VARCHAR) RETURNS INTEGER LANGUAGE sql AS 'SELECT public.pwn()'"
]

/** What an application, or somebody with its rights, has stored in the tables. */
const stored = (schema: string) => [
  `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data, metadata) VALUES
    (${literal(hostileText)}, ${literal(hostileText)}, ${literal(hostileText)}, to_jsonb(${literal(hostileText)}::text), '[]'),
    ('grows', 'a', 'T', (SELECT jsonb_agg(5e-324::numeric) FROM generate_series(1, 60000)), NULL),
    ('huge', 'a', 'T', ('[' || repeat('1e131000,', 8199) || '1]')::jsonb, NULL),
    ('deep', 'a', 'T', (repeat('[', 5000) || repeat(']', 5000))::jsonb, NULL)`,
  `INSERT INTO ${schema}.events (version, id, aggregate_id, event_type) OVERRIDING SYSTEM VALUE
    VALUES (9223372036854775807, 'forged', 'a', 'T')`,
  `INSERT INTO ${schema}.offsets_store VALUES (${literal(hostileText)}, 0, 9223372036854775807, 0)`,
  `INSERT INTO ${schema}.states_store VALUES (${literal(hostileText)}, 1, '', ${literal(hostileText)}, 0, 7)`,
  ...[
    ["retryspool_messages", "NULL"],
    ["strata_messages", literal(hostileText)]
  ].map(
    ([
      table,
      queue
    ]) => `INSERT INTO ${schema}.${table} (id, queue, state, max_attempts, next_retry, headers, last_error)
      VALUES (${literal(hostileText)}, ${queue}, 4, 3, now(), '{}', ${literal(hostileText)})`
  )
]

/** What there is in the database and on the server that code could have changed. */
const inventory = (url: string) =>
  query(
    `SELECT 'class', relname::text, relowner::text, relacl::text FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace
     UNION ALL SELECT 'function', oid::regprocedure::text, proowner::text, proacl::text FROM pg_proc
     UNION ALL SELECT 'role', rolname::text, rolsuper::text, rolcreaterole::text FROM pg_roles WHERE rolname::text NOT LIKE 'strata_test_%'::text
     UNION ALL SELECT 'event', version::text, id, event_type FROM strata.events ORDER BY 1, 2`,
    url
  )

const hostile = Effect.gen(function* () {
  const { role } = yield* freshRole()
  const url = yield* scratchDatabase()
  const database = new URL(url).pathname.slice(1)
  yield* installPwn(url)
  yield* execute(
    [
      "GRANT CREATE ON SCHEMA public TO PUBLIC",
      `GRANT CREATE ON DATABASE ${database} TO ${role}`,
      `ALTER DATABASE ${database} SET search_path = public, pg_catalog`
    ],
    url
  )
  yield* migrate(url, { schema: "strata", index: "containment" })
  yield* execute(
    [
      ...stored("strata"),
      `GRANT USAGE ON SCHEMA strata TO ${role}`,
      `GRANT TRIGGER ON ALL TABLES IN SCHEMA strata TO ${role}`
    ],
    url
  )
  yield* withConnection(url, (sql) =>
    Effect.forEach(
      [
        `SET ROLE ${role}`,
        "CREATE SCHEMA planted",
        "SET search_path = planted, pg_catalog",
        ...planted,
        "CREATE TRIGGER spy BEFORE INSERT OR UPDATE ON strata.events FOR EACH ROW EXECUTE FUNCTION planted.spy()",
        "CREATE TRIGGER spy BEFORE INSERT OR UPDATE ON strata.offsets_store FOR EACH ROW EXECUTE FUNCTION planted.spy()"
      ],
      (statement) => sql.unsafe(statement).unprepared,
      { discard: true }
    )
  )
  yield* layTraps(url, role, "public")
  yield* layTrapsBeside(url, role, "public", ["events_append", "states_store_write", "strata_messages_claim"])
  // Sessions with locks, a card number in a query, and a name that moves the cursor.
  const own = new URL(url)
  own.username = role
  own.password = "secret"
  const locks = yield* PgConnection.make({ url: Redacted.make(own.href), applicationName: "\u001b[31mmallory" })
  for (const key of [
    "'effect-strata', 0::bigint",
    "'', 2 * (SELECT oid FROM pg_class WHERE relname = 'events' AND relnamespace = 'strata'::regnamespace)::bigint",
    "'', 2 * (SELECT oid FROM pg_class WHERE relname = 'events' AND relnamespace = 'strata'::regnamespace)::bigint + 1::bigint"
  ]) {
    yield* locks.query(`SET search_path = pg_catalog`)
    yield* locks.query(`SELECT pg_advisory_lock(hashtextextended(${key}))`)
  }
  const writer = yield* PgConnection.make({ url: Redacted.make(url), applicationName: hostileText.slice(0, 60) })
  const pinned = yield* writer.pin
  yield* pinned.query("BEGIN")
  yield* pinned.query(`LOCK TABLE strata.events IN ROW EXCLUSIVE MODE /* ${card} */`)
  return { role, url }
})

it.live("nothing of it runs, moves the cursor or changes anything, and the doctor ends", () =>
  Effect.gen(function* () {
    const { role, url } = yield* hostile
    const before = yield* inventory(url)
    for (const where of [
      ["--schema", "strata"],
      ["--schema", "planted"],
      [],
      ...attackers.map((name) => ["--schema", name])
    ]) {
      for (const args of [["doctor"], ["doctor", "--json"]]) {
        const command = [...args, ...where]
        const { status, stderr, stdout } = yield* strata(command, { url })
        assert.oneOf(status, [0, 1], command.join(" "))
        assertHarmless(stdout + stderr, command.join(" "))
        assert.notInclude(stdout + stderr, card)
        assert.notMatch(stdout + stderr, /captured/)
      }
    }
    const { stdout } = yield* strata(["doctor", "--json", "--schema", "strata"], { url })
    for (const found of [
      `the function planted.spy() of the trigger spy on strata.events belongs to the role ${role}`,
      "holds the lock of all appends",
      "holds the lock of all migrations",
      "has drawn 4: somebody has chosen a version",
      "the search path is public, pg_catalog: "
    ]) {
      assert.include(stdout, found)
    }
    assert.deepStrictEqual(yield* query("SELECT * FROM pwned", url), [])
    assert.strictEqual(yield* caught(url, "public"), "0")
    assert.deepStrictEqual(yield* query(`SELECT rolsuper FROM pg_roles WHERE rolname = '${role}'`, url), [[false]])
    assert.deepStrictEqual(yield* inventory(url), before)
  })
)
