/** What another role has put into a schema of the search path is never called: by no store, no migration and no command. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Redacted, Scope } from "effect"
import * as Postgres from "effect-strata/postgres"
import * as Suites from "effect-strata/testing"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { jsonLines, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { execute, freshRole, migrate, query, serve } from "../postgres/harness.ts"
import { postgresUrl, scratchDatabase } from "../support/database.ts"
import { database } from "../support/databases.ts"
import * as Proxy from "../support/Proxy.ts"
import { useStores } from "./harness.ts"
import { caught, lastCaught, layTraps, layTrapsBeside } from "./traps.ts"

/** A database in which everybody may create in `public`, as it was before Postgres 15, and somebody has laid traps there. */
const trapped = Effect.gen(function* () {
  const { role } = yield* freshRole()
  const url = yield* scratchDatabase()
  yield* execute(["GRANT CREATE ON SCHEMA public TO PUBLIC"], url)
  yield* layTraps(url, role, "public")
  return { template: new URL(url).pathname.slice(1), mallory: role }
})

// It takes seconds to lay some ten thousand traps, so this is done once.
const scope = Scope.makeUnsafe()
let traps: Effect.Success<typeof trapped>
beforeAll(async () => {
  traps = await Effect.runPromise(Scope.provide(trapped, scope))
})
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

/** A database like that, with an owner of the tables to be, and an application. */
const hostile = Effect.gen(function* () {
  const { mallory, template } = traps
  const owner = yield* freshRole()
  const app = yield* freshRole()
  const url = yield* database(postgresUrl, template)
  const urlOf = (role: string) => {
    const parts = new URL(url)
    parts.username = role
    parts.password = "secret"
    return parts.href
  }
  yield* execute([`GRANT CREATE ON DATABASE ${new URL(url).pathname.slice(1)} TO ${owner.role}`], url)
  return { url, mallory, owner: urlOf(owner.role), app: app.role, appUrl: urlOf(app.role) }
})

/** What stands beside our tables in `public`, and takes what our functions take as well. */
const ours = ["events_append", "states_store_write", "retryspool_messages_claim", "strata_messages_claim"]

/** A use of each command that sends a statement. */
const commands = (file: string, owner: string, mallory: string): ReadonlyArray<ReadonlyArray<string>> => [
  ["migrate", "--owner", owner, "--owner", mallory],
  ["migrate", "status"],
  ["grants", owner],
  ["events", "append", "--aggregate", "a", "--type", "T", "--data", "{}"],
  ["events", "append", "--aggregate", "b", "--type", "U", "--ignore-duplicates", "--id", "given"],
  ["events", "read", "--type", "T", "--data", "{}", "--created-after", "2020-01-01T00:00:00Z"],
  ["events", "read", "--created-after", "2020-01-01T00:00:00Z"],
  ["events", "show", "given"],
  ["events", "tag", "--tag", "aggregate:{@aggregateId}"],
  ["events", "stats"],
  ["events", "stats", "--created-after", "2020-01-01T00:00:00Z"],
  ["events", "stats", "--exact"],
  ["events", "stats", "--exact", "--created-after", "2020-01-01T00:00:00Z"],
  ["events", "export", file],
  ["events", "import", file],
  ["offsets", "set", "p", "0", "7", "--yes"],
  ["offsets", "get", "p"],
  ["offsets", "list"],
  ["offsets", "reset", "p", "3", "--yes"],
  ["projections", "list"],
  ["states", "list", "--shard", "7", "--manifest", "m"],
  ["states", "show", "s"],
  ["spool", "stats"],
  ["spool", "list", "incoming"],
  ["spool", "show", "m"],
  ["spool", "hold", "m"],
  ["spool", "release", "m"],
  ["spool", "bounce", "m"],
  ["spool", "requeue", "m"],
  ["spool", "recover"],
  ["status"],
  ["status", "--exact"],
  ["doctor", "--prove", "--for", "300ms"],
  ["doctor", "--exact"],
  ["offsets", "delete", "p", "--yes"]
]

describe("somebody's functions in a schema of the search path", () => {
  it.live("are found in place of those that are built in, unless one of exactly these types is", () =>
    Effect.gen(function* () {
      const { url } = yield* hostile
      const captured = [
        "cardinality(ARRAY[1])",
        "'a'::varchar = 'b'::varchar",
        "hashtextextended('x', 0)",
        "has_table_privilege('pg_class'::regclass, 'SELECT'::text)",
        "count(1)"
      ]
      for (const expression of captured) {
        const error = yield* Effect.flip(query(`SELECT ${expression}`, url))
        assert.match(String(error.reason.cause), /captured: .* as \w+, by SELECT/, expression)
      }
      assert.strictEqual(yield* caught(url, "public"), String(captured.length))
      assert.strictEqual(yield* lastCaught(url, "public"), "count(integer)")
      for (const expression of [
        "cardinality('{}'::text)",
        "'a'::text = 'b'::text",
        "hashtextextended('x', 0::bigint)"
      ]) {
        yield* Effect.exit(query(`SELECT ${expression}`, url))
      }
      assert.strictEqual(yield* caught(url, "public"), String(captured.length))
    }).pipe(Effect.scoped)
  )

  it.live("are not called by a migration, nor by the stores in a schema of their own", () =>
    Effect.gen(function* () {
      const { app, appUrl, owner, url } = yield* hostile
      const options = { schema: "strata", notify: "rows", index: "containment", partitions: { size: 50n } } as const
      const { partitions, ...plain } = options
      yield* migrate(owner, plain)
      yield* execute(["INSERT INTO strata.events (id, aggregate_id, event_type) VALUES ('a', 'a', 'T')"], url)
      yield* migrate(owner, { ...plain, partitions })
      yield* migrate(owner, options)
      yield* migrate(owner, { ...options, schema: "compact", layout: "compact" })
      yield* execute(
        [
          `GRANT USAGE ON SCHEMA strata TO ${app}`,
          `GRANT ALL ON ALL TABLES IN SCHEMA strata TO ${app}`,
          `GRANT ALL ON ALL SEQUENCES IN SCHEMA strata TO ${app}`
        ],
        url
      )
      yield* Effect.flatMap(serve({ url: appUrl, options, layer: Postgres.layerStorage }), useStores).pipe(
        Effect.scoped
      )
      assert.strictEqual(yield* caught(url, "public"), "0")
    }).pipe(Effect.scoped)
  )

  it.live("are not called where the server is asked about a connection that is silent, and ends it", () =>
    Effect.gen(function* () {
      const { owner, url } = yield* hostile
      yield* migrate(owner)
      const { hostname, port } = new URL(url)
      const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
      const client = { maxConnections: 1 }
      const served = yield* serve({ url: proxy.url(owner), client, layer: Postgres.layerStorage })
      const append = served.events.append({ aggregateId: "a", eventType: "T", data: {} })
      yield* append
      yield* proxy.blackhole
      // It waits for the wake-up of the first append, which has the connection, or is on its way itself.
      yield* Effect.retry(append, { times: 1 })
      assert.deepStrictEqual([yield* caught(url, "public"), yield* lastCaught(url, "public")], ["0", "undefined"])
    }).pipe(Effect.scoped)
  )

  it.live("are not called by a command, which the owner or a superuser runs on tables in that schema", () =>
    Effect.gen(function* () {
      const { mallory, owner, url } = yield* hostile
      yield* succeeds(["migrate", "--notify", "rows"], { url: owner })
      yield* layTrapsBeside(url, mallory, "public", ours)
      yield* execute(
        [
          "INSERT INTO public.states_store VALUES ('s', 1, '', 'm', 0, 7)",
          // So many that commands look at a part of them, unless they are to be exact: a row for each block of the table.
          "INSERT INTO public.states_store SELECT n::text, 1, '', 'm', 0, 7 FROM pg_catalog.generate_series(1, 10001) AS n",
          "ALTER TABLE public.events ALTER data SET STORAGE PLAIN",
          `INSERT INTO public.events (id, aggregate_id, event_type, data)
           SELECT n::text, 'a', 'T', pg_catalog.format('%s', pg_catalog.to_json(pg_catalog.repeat('x', 6000)))::jsonb
           FROM pg_catalog.generate_series(1, 1100) AS n`,
          "INSERT INTO public.retryspool_messages (id, state, max_attempts, next_retry, headers) VALUES ('m', 0, 3, now(), '{}')"
        ],
        url
      )
      const called: Array<string> = []
      for (const as of [owner, url]) {
        for (const command of commands(
          join(yield* temporaryDirectory, "events.jsonl"),
          new URL(owner).username,
          mallory
        )) {
          const before = yield* caught(url, "public")
          const { status, stderr, stdout } = yield* strata(command, { url: as })
          if (status !== 0 && command[0] !== "doctor") called.push(`${command.join(" ")}: ${stdout}${stderr}`)
          const after = yield* caught(url, "public")
          if (after !== before || /captured/.test(stdout + stderr))
            called.push(`${command.join(" ")}: ${stdout}${stderr}`)
        }
      }
      assert.deepStrictEqual(called, [])
    }).pipe(Effect.scoped)
  )
})

describe("strata doctor on the search path", () => {
  /** What the doctor finds in the path that the role has in that database. */
  const findings = (url: string, args: ReadonlyArray<string> = []) =>
    Effect.map(strata(["doctor", "--json", ...args], { url }), ({ stdout }) =>
      jsonLines(stdout).flatMap(({ check, level, remedy, says }) =>
        check === "search path" ? [`${level}: ${says} -> ${remedy}`] : []
      )
    )

  it.live(
    "warns of schemas that others may create in, and finds a problem where they could take the tables' place",
    () =>
      Effect.gen(function* () {
        const { appUrl, mallory, owner, url } = yield* hostile
        yield* migrate(owner, { schema: "strata" })
        const [warning = "", ...none] = yield* findings(owner, ["--schema", "strata"])
        assert.deepStrictEqual(none, [])
        assert.match(
          warning,
          /^warning: everybody may create in the schema public, .* -> run: REVOKE CREATE ON SCHEMA public FROM PUBLIC$/
        )
        const name = new URL(url).pathname.slice(1)
        const setPath = (path: string) => execute([`ALTER DATABASE ${name} SET search_path = ${path}`], url)
        yield* setPath("public, strata")
        const [problem = ""] = yield* findings(url)
        assert.match(
          problem,
          /^problem: everybody may create in the schema public, in which the tables are looked for first/
        )
        yield* execute(
          ["REVOKE CREATE ON SCHEMA public FROM PUBLIC", `GRANT CREATE ON SCHEMA public TO ${mallory}`],
          url
        )
        assert.match(
          (yield* findings(url))[0] ?? "",
          new RegExp(`^problem: ${mallory} may create in the schema public`)
        )
        yield* execute([`REVOKE CREATE ON SCHEMA public FROM ${mallory}`], url)
        assert.deepStrictEqual(yield* findings(url), ["ok: others cannot create in a schema of it -> null"])
        yield* setPath("public, pg_catalog")
        assert.match(
          (yield* findings(appUrl))[0] ?? "",
          /^problem: the search path is public, pg_catalog: .* name it first$/
        )
      }).pipe(Effect.scoped)
  )

  it.live("finds nothing where a user has everything in public of a database of its own", () =>
    Effect.gen(function* () {
      const { role, url: roleUrl } = yield* freshRole()
      const url = yield* scratchDatabase()
      yield* execute([`ALTER DATABASE ${new URL(url).pathname.slice(1)} OWNER TO ${role}`], url)
      const own = new URL(roleUrl)
      own.pathname = new URL(url).pathname
      yield* migrate(own.href)
      assert.deepStrictEqual(yield* findings(own.href), ["ok: others cannot create in a schema of it -> null"])
      yield* execute([`ALTER DATABASE ${new URL(url).pathname.slice(1)} OWNER TO postgres`], url)
    }).pipe(Effect.scoped)
  )
})

/** The stores in `public`, where there are traps, and others beside our own functions. */
const inPublic = Layer.unwrap(
  Effect.gen(function* () {
    const { mallory, owner, url } = yield* hostile
    yield* migrate(owner)
    yield* layTrapsBeside(url, mallory, "public", ours)
    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        const last = yield* lastCaught(url, "public")
        assert.strictEqual(yield* caught(url, "public"), "0", `traps were called, the last one was ${last}`)
      }).pipe(Effect.orDie)
    )
    return Layer.provide(Postgres.layerStorage(), PgClient.layer({ url: Redacted.make(owner) }))
  })
)

Suites.DurableStateStore.suite("traps in public", inPublic)
Suites.Entity.suite("traps in public", inPublic)
Suites.EventStore.suite("traps in public", inPublic)
Suites.OffsetStore.suite("traps in public", inPublic)
Suites.Projection.suite("traps in public", inPublic)
Suites.Spool.suite("traps in public", inPublic)
Suites.SpoolStore.suite("traps in public", inPublic)
Suites.Transactor.suite("traps in public", inPublic)
