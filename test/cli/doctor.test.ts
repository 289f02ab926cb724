/** `strata doctor` finds each thing that is wrong with a server, with its remedy, and nothing else. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Context } from "effect"
import { goSyncKit, session } from "../postgres/events.harness.ts"
import { execute, urlWith } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { latinDatabase } from "../support/databases.ts"
import { make as makePgbouncer, noPgbouncer } from "../support/Pgbouncer.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { detach, replicate, standbyOf } from "../support/Replicas.ts"
import { fails, jsonLines, type Options, start, strata, succeeds } from "./harness.ts"

/** A server on which nothing is wrong. The server that all tests share runs without fsync. */
class Server extends Context.Service<Server, { readonly url: string }>()("test/Server") {
  static readonly layer = Layer.effect(Server, PostgresServer.make({ settings: { fsync: "on" } }))
}

/** The warnings and problems that the doctor finds: `level check: says -> remedy`. */
const complaints = (options: Options, ...args: ReadonlyArray<string>) =>
  Effect.map(strata(["doctor", "--json", ...args], options), ({ status, stderr, stdout }) => {
    const found = jsonLines(stdout).filter(({ level }) => level !== "ok")
    const problems = found.filter(({ level }) => level === "problem").length
    assert.strictEqual(status, problems === 0 ? 0 : 1, stdout + stderr)
    assert.strictEqual(stderr, problems === 0 ? "" : `strata: ${problems} problem${problems === 1 ? "" : "s"} found\n`)
    return found.map(({ check, level, remedy, says }) => `${level} ${check}: ${says} -> ${remedy}`)
  })

/** Asserts that the doctor finds exactly these warnings and problems, in this order. */
const complains = Effect.fnUntraced(function* (
  options: Options,
  expected: ReadonlyArray<RegExp>,
  ...args: ReadonlyArray<string>
) {
  const found = yield* complaints(options, ...args)
  assert.strictEqual(found.length, expected.length, found.join("\n"))
  expected.forEach((pattern, index) => assert.match(found[index] ?? "", pattern))
})

it.layer(Server.layer, { excludeTestServices: true })("strata doctor", (it) => {
  const prepared = Effect.gen(function* () {
    const url = yield* scratchDatabase((yield* Server).url)
    yield* succeeds(["migrate"], { url })
    return { url, execute: (...statements: ReadonlyArray<string>) => execute(statements, url) }
  })

  it.effect("finds nothing where all is well, and says which tables are missing where they are", () =>
    Effect.gen(function* () {
      const { url } = yield* prepared
      yield* complains({ url }, [])
      yield* complains(
        { url },
        [
          /^problem migrations: pending: 0001_offsets.sql, 0002_events.sql.* -> run: strata migrate$/,
          /^problem tables: there is no table .*events.* -> run: strata migrate$/,
          /^problem tables: there is no table .*offsets_store.* -> run: strata migrate$/,
          /^problem tables: there is no table .*states_store.* -> run: strata migrate$/,
          /^problem tables: there is no table .*strata_messages.* -> run: strata migrate$/,
          /^problem tables: there is no table .*retryspool_messages.* -> run: strata migrate$/
        ],
        "--schema",
        "elsewhere"
      )
    })
  )

  it.effect("finds an encoding of the database that lacks texts", () =>
    Effect.gen(function* () {
      const url = yield* latinDatabase((yield* Server).url)
      yield* succeeds(["migrate"], { url })
      yield* complains({ url }, [
        /^problem server: the database has the encoding LATIN1, which lacks texts .* -> move to a database with ENCODING 'UTF8'$/
      ])
    })
  )

  it.effect("finds faults of the sequence, triggers, settings, grants and offsets", () =>
    Effect.gen(function* () {
      const { execute, url } = yield* prepared
      yield* execute(
        "INSERT INTO events (id, aggregate_id, event_type) VALUES ('a', 'a', 'T')",
        "INSERT INTO offsets_store VALUES ('p', 0, 1, 0), ('p', 1, 7, 0), ('ego', 0, 1763719200000000000, 0)",
        "ALTER SEQUENCE events_version_seq CACHE 10",
        `ALTER DATABASE ${new URL(url).pathname.slice(1)} SET synchronous_commit = off`
      )
      yield* succeeds(["migrate", "--notify", "rows"], { url })
      yield* complains({ url }, [
        /^warning durability: synchronous_commit is off: .* -> set synchronous_commit = on/,
        /^problem sequence: the sequence .*events_version_seq .*CACHE 10.* -> run ALTER SEQUENCE .* CACHE 1$/,
        /^warning triggers: the trigger events_notify_trigger runs for each event and notifies.* -> drop it/,
        /^problem offsets: shard 1 of 'p' is at 7, the log ends at 1: .* -> was a backup restored/
      ])

      // As after a restored backup, the sequence is behind; and the trigger of go-sync-kit cannot notify of ids this long.
      yield* execute(
        `ALTER DATABASE ${new URL(url).pathname.slice(1)} RESET synchronous_commit`,
        "ALTER SEQUENCE events_version_seq CACHE 1 RESTART 1",
        "DELETE FROM offsets_store",
        "UPDATE events SET aggregate_id = repeat('x', 57)"
      )
      yield* execute(
        "INSERT INTO events (version, id, aggregate_id, event_type) OVERRIDING SYSTEM VALUE VALUES (50, 'b', 'b', 'T')"
      )
      yield* complains({ url }, [
        /^problem sequence: .*is behind the last event.* -> run: SELECT setval\('.*events_version_seq', 50\)$/,
        /^problem triggers: the trigger events_notify_trigger .*more than 56 bytes -> appends to those fail/
      ])
    })
  )

  it.effect("finds the grants that a role lacks, and the faults of a table that go-sync-kit has created", () =>
    Effect.gen(function* () {
      const { url: server } = yield* Server
      const url = yield* scratchDatabase(server)
      yield* goSyncKit("app", url)
      yield* succeeds(["migrate", "--schema", "app"], { url })
      yield* complains(
        { url },
        [/^warning sequence: versions are a default that clients can override/],
        "--schema",
        "app"
      )
      const role = `reader_${new URL(url).pathname.slice(-6)}`
      yield* Effect.acquireRelease(
        execute(
          [
            `CREATE ROLE ${role} LOGIN PASSWORD 'secret'`,
            `GRANT USAGE ON SCHEMA app TO ${role}`,
            `GRANT SELECT ON ALL TABLES IN SCHEMA app TO ${role}`,
            `REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA app FROM PUBLIC`
          ],
          url
        ),
        () => Effect.orDie(execute([`DROP OWNED BY ${role}`, `DROP ROLE ${role}`], url))
      )
      const asReader = urlWith((parts) => {
        parts.username = role
        parts.password = "secret"
      }, url)
      yield* complains(
        { url: asReader },
        [
          ...[
            "INSERT \\(id, aggregate_id, event_type, data, metadata\\) ON app.events",
            "INSERT ON app.events_tags",
            ...["offsets_store", "states_store", "strata_messages", "retryspool_messages"].map(
              (table) => `INSERT, UPDATE, DELETE ON app.${table}`
            ),
            "USAGE ON SEQUENCE app.events_version_seq",
            "EXECUTE ON FUNCTION app.events_append\\(.*\\)",
            "EXECUTE ON FUNCTION app.events_key\\(\\)",
            "EXECUTE ON FUNCTION app.events_missed\\(jsonb\\)",
            "EXECUTE ON FUNCTION app.retryspool_messages_claim\\(.*\\)",
            "EXECUTE ON FUNCTION app.states_store_write\\(character.*\\)",
            "EXECUTE ON FUNCTION app.states_store_write\\(text.*\\)",
            "EXECUTE ON FUNCTION app.strata_messages_claim\\(.*\\)"
          ].map((what) => new RegExp(`^problem grants: .* -> as the owner: GRANT ${what} TO "${role}"$`)),
          /^warning sequence/
        ],
        "--schema",
        "app"
      )
    })
  )

  it.effect("finds the holder that readers wait for; a proof that ends with Ctrl-C leaves nothing behind", () =>
    Effect.gen(function* () {
      const { url } = yield* prepared
      const other = yield* session(urlWith((parts) => parts.searchParams.set("application_name", "forgetful"), url))
      yield* other("BEGIN")
      yield* other("INSERT INTO events (id, aggregate_id, event_type) VALUES ('a', 'a', 'T')")
      yield* complains({ url }, [
        /^problem tail: readers may have to wait for pid \d+, idle in transaction .*'forgetful'/
      ])
      yield* other("ROLLBACK")
      yield* fails(["doctor", "--prove", "--for", "5"], 2, /a duration such as/, { url })

      const proving = yield* start(["doctor", "--prove", "--for", "60s", "--schema", "public"], { url })
      const schemas = (sql: typeof other) =>
        sql(
          "SELECT 1 FROM pg_namespace WHERE nspname LIKE 'strata_prove_%' AND to_regclass(nspname || '.events') IS NOT NULL"
        )
      // The server, not the test, sleeps between two looks.
      while ((yield* schemas(other)).length === 0) yield* other("SELECT 1 FROM pg_sleep(0.05)")
      yield* proving.interrupt
      const { status, stderr } = yield* proving.ended
      assert.deepStrictEqual({ status, stderr }, { status: 130, stderr: "" })
      assert.strictEqual((yield* other("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'strata_prove_%'")).length, 0)
    })
  )

  it.effect("remembers the log and its server, and says once what has changed since", () =>
    Effect.gen(function* () {
      const { execute, url } = yield* prepared
      const insert = (id: string) => `INSERT INTO events (id, aggregate_id, event_type) VALUES ('${id}', 'a', 'T')`
      const told = Effect.fnUntraced(function* (change: ReadonlyArray<string>, expected: ReadonlyArray<RegExp>) {
        yield* execute(...change)
        yield* complains({ url }, expected)
        yield* complains({ url }, [])
      })
      yield* told([insert("a"), insert("b")], [])
      // What was deleted below the end, and what came later, is no other log.
      yield* told(["DELETE FROM events WHERE id = 'b'", insert("c")], [])
      yield* told(
        ["TRUNCATE events RESTART IDENTITY", insert("d")],
        [
          /^problem log: the log ends at version 1, and had version 3 at .* -> look at `Postgres fails over` in the runbooks/
        ]
      )
      yield* told(
        ["TRUNCATE events RESTART IDENTITY", insert("e")],
        [
          /^problem log: version 1 was the event "d" at .*, and is "e" now -> look at `Postgres fails over` in the runbooks/
        ]
      )
      yield* told(
        ["UPDATE events_log SET system_identifier = '1'"],
        [
          /^warning log: the log is on the system \d+, and was on 1 at .*: it was restored or copied -> look at `Postgres fails over` in the runbooks/
        ]
      )
      yield* told(
        ["UPDATE events_log SET timeline = 7"],
        [/^warning log: the timeline of the server is 1, and was 7 at .*: a standby was promoted/]
      )
      // A role that may not use the table is no worse off, and neither is a database without it.
      const found = jsonLines((yield* strata(["doctor", "--json"], { url })).stdout).find(
        ({ check }) => check === "log"
      )
      assert.match(String(found?.["says"]), /^[0-9a-f-]{36}, on system \d+, timeline 1$/)
      yield* execute("DROP TABLE events_log")
      yield* complains({ url }, [])
    })
  )

  it.effect("finds that a standby was promoted", () =>
    Effect.gen(function* () {
      const primary = yield* PostgresServer.make({ settings: { fsync: "on" } })
      yield* succeeds(["migrate"], { url: primary.url })
      yield* strata(["doctor"], { url: primary.url })
      const { url } = yield* standbyOf(primary)
      yield* execute(["SELECT pg_promote()"], url)
      yield* complains({ url }, [
        /^warning .*fsync|^problem durability: fsync is off/,
        /^warning log: the timeline of the server is 2, and was 1 at .*: a standby was promoted/
      ])
    })
  )

  it.effect("works on a standby, and says how far that has come", () =>
    Effect.gen(function* () {
      const primary = yield* PostgresServer.make({ settings: { fsync: "on" } })
      yield* succeeds(["migrate"], { url: primary.url })
      const { url } = yield* standbyOf(primary)
      const isStandby = /^warning primary: a standby, where nobody can see .* -> connect to the primary to append/
      // The tests start each standby without fsync.
      const isUnsafe = /^problem durability: fsync is off/
      yield* complains({ url }, [isStandby, isUnsafe])
      const replay = Effect.map(strata(["doctor", "--json"], { url }), ({ stdout }) =>
        jsonLines(stdout).flatMap(({ check, says }) => (check === "replay" ? [says] : []))
      )
      assert.deepStrictEqual(yield* replay, ["up to version 0, with no mark of its primary"])
      yield* execute(["SELECT pg_wal_replay_pause()"], url)
      yield* complains({ url }, [
        isStandby,
        isUnsafe,
        /^warning replay: the replay is paused up to version 0: .*resume/
      ])
    })
  )

  it.effect("finds a copy that logical replication fills, until it is no copy any more", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make({ settings: { fsync: "on", wal_level: "logical" } })
      const [from, to] = [yield* scratchDatabase(server.url), yield* scratchDatabase(server.url)]
      yield* succeeds(["migrate"], { url: from })
      yield* succeeds(["migrate"], { url: to })
      yield* replicate(from, to)
      yield* complains({ url: from }, [])
      yield* complains({ url: to }, [
        /^problem replication: .*events.* is filled by logical replication.* -> read the log where it is written$/
      ])
      yield* detach(from, to)
      yield* complains({ url: to }, [])
    })
  )

  it.effect("tells whether there is a pooler, and in which mode", ({ skip }) =>
    Effect.gen(function* () {
      if (noPgbouncer !== undefined) return skip(noPgbouncer)
      const { url } = yield* prepared
      const mode = (url: string) =>
        Effect.map(strata(["doctor", "--json"], { url }), ({ stdout }) =>
          jsonLines(stdout).flatMap(({ check, says }) => (check === "pooler" ? [says] : []))
        )
      assert.deepStrictEqual(yield* mode(url), ["none, this is the server itself"])
      const session = yield* makePgbouncer("session", url)
      yield* complains({ url: session }, [])
      assert.deepStrictEqual(yield* mode(session), ["one in session mode"])
      // With the many writers of the proof, transactions change connections. Nothing is lost there, either.
      yield* complains(
        { url: yield* makePgbouncer("transaction", url) },
        [
          /^warning pooler: a pooler in transaction mode, .* -> build the PgClient with prepare: false, or connect/,
          /^warning listen: notifications do not arrive.* once a second -> connect to the server directly/
        ],
        "--prove",
        "--for",
        "1s"
      )
    })
  )
})
