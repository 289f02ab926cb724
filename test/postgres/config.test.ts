/** The pool's settings, from `Config` to the session that the server sees. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Deferred, Effect, Layer, Redacted, type Scope, Stream } from "effect"
import { InvalidInput, OffsetStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { createServer, type Socket } from "node:net"
import { backends, postgresUrl, waitForBackends } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { encrypt, execute, failsWith, freshRole, freshSchema, query, unique, urlWith } from "./harness.ts"

/** `Postgres.layerConfig` in an environment that has these variables and no others. */
const configured = Effect.fnUntraced(function* (env: Record<string, string>, options?: Postgres.Options) {
  const context = yield* Layer.build(Postgres.layerConfig(options)).pipe(
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
  )
  const sql = Context.get(context, PgClient.PgClient)
  const setting = (name: string) => Effect.map(sql`SELECT current_setting(${name})`.values, (rows) => rows[0]?.[0])
  return { offsets: Context.get(context, OffsetStore.OffsetStore), sql, setting }
})

/** A schema, and an application name, of a test's own: in a URL, with parameters. */
const urlOf = (applicationName: string, parameters: Record<string, string> = {}) =>
  urlWith((url) => {
    for (const [name, value] of Object.entries({ application_name: applicationName, ...parameters })) {
      url.searchParams.set(name, value)
    }
  })

/** The message of the `ConfigError` with which the layer fails. */
const refused = (env: Record<string, string>) =>
  Effect.flatMap(Effect.flip(configured(env)), (error) =>
    error._tag === "ConfigError" ? Effect.succeed(error.message) : Effect.die(error)
  )

describe("layerStorageConfig and layerMigrationsConfig", () => {
  it.live("serve as the application what the owner has migrated, and each is its own role", () =>
    Effect.gen(function* () {
      const { role, url } = yield* freshRole()
      const schema = yield* freshSchema()
      const inEnvironment = Effect.provideService(
        ConfigProvider.ConfigProvider,
        ConfigProvider.fromEnv({ env: { DATABASE_URL: url, DB_OWNER_URL: postgresUrl, DB_SCHEMA: schema } })
      )
      // The application may not make a table, and does not try.
      const alone = yield* Layer.build(Layer.fresh(Postgres.layerStorageConfig())).pipe(inEnvironment)
      yield* failsWith(
        Context.get(alone, OffsetStore.OffsetStore).ping,
        "OffsetStore.ping",
        "SchemaMissing",
        new RegExp(`${schema}.* does not exist`)
      )
      const migrations = Postgres.layerMigrationsConfig()
      yield* Layer.build(migrations).pipe(inEnvironment)
      const { owned } = yield* Effect.map(
        query(`SELECT tableowner::text FROM pg_tables WHERE schemaname = '${schema}' AND tablename = 'events'`),
        ([row]) => ({ owned: row?.[0] })
      )
      assert.strictEqual(owned, decodeURIComponent(new URL(postgresUrl).username))
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ${schema} TO ${role}`
      ])
      const stores = yield* Layer.build(Layer.provide(Postgres.layerStorageConfig(), migrations)).pipe(inEnvironment)
      yield* Context.get(stores, OffsetStore.OffsetStore).writeOffset({
        projectionName: "configured",
        shardNumber: 0,
        value: 1n
      })
      const sql = Context.get(stores, PgClient.PgClient)
      assert.deepStrictEqual(yield* sql`SELECT current_user::text`.values, [[role]])
      // Without an owner of its own the application's role migrates.
      const refusal = Layer.build(Layer.fresh(Postgres.layerMigrationsConfig({ schema: `${schema}_2` }))).pipe(
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env: { DATABASE_URL: url } }))
      )
      yield* failsWith(refusal, "Postgres.migrate", "Denied", /permission denied for database/)
    }).pipe(Effect.scoped)
  )
})

describe("layerConfig", () => {
  it.live("connects to DATABASE_URL and serves the stores in DB_SCHEMA", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const { offsets, setting } = yield* configured({ DATABASE_URL: postgresUrl, DB_SCHEMA: schema })
      yield* offsets.writeOffset({ projectionName: "configured", shardNumber: 0, value: 1n })
      assert.deepStrictEqual(yield* query(`SELECT projection_name FROM ${schema}.offsets_store`), [["configured"]])
      assert.strictEqual(yield* setting("application_name"), "effect-strata")
      assert.strictEqual(yield* setting("statement_timeout"), "0")
    })
  )

  it.live("listens where DB_LISTEN_URL leads", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const applicationName = yield* unique
      const { offsets } = yield* configured({
        DATABASE_URL: postgresUrl,
        DB_LISTEN_URL: urlOf(applicationName),
        DB_SCHEMA: schema
      })
      yield* Effect.forkScoped(Stream.runDrain(offsets.changes))
      assert.lengthOf(yield* waitForBackends(applicationName, (all) => all.length === 1), 1)
      assert.match(
        yield* refused({ DATABASE_URL: postgresUrl, DB_LISTEN_URL: "mysql://host" }),
        /Expected a postgres:\/\/ URL[^]*DB_LISTEN_URL/
      )
    })
  )

  it.live("connects to the server that the parts name", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const { hostname, password, pathname, port, username } = new URL(postgresUrl)
      const env = {
        DB_HOST: hostname,
        DB_PORT: port || "5432",
        DB_NAME: decodeURIComponent(pathname.slice(1)),
        DB_USER: decodeURIComponent(username),
        DB_PASSWORD: decodeURIComponent(password),
        DB_SCHEMA: schema
      }
      for (const [name, value] of [
        ["DB_SSLMODE", "disable"],
        ["DB_SSLMODE", "prefer"],
        ["DB_STATEMENT_TIMEOUT", "1500 millis"]
      ] as const) {
        const { offsets, setting } = yield* configured({ ...env, [name]: value })
        yield* offsets.ping
        assert.strictEqual(yield* setting("statement_timeout"), name === "DB_STATEMENT_TIMEOUT" ? "1500ms" : "0")
      }
      const elsewhere = yield* Effect.flip(configured({ ...env, DB_NAME: "strata_nowhere" }))
      assert.include(String(elsewhere), `database "strata_nowhere" does not exist`)
    })
  )

  it.live("prepares statements unless DB_PREPARE is false", () =>
    Effect.gen(function* () {
      const DB_SCHEMA = yield* freshSchema()
      const env = { DATABASE_URL: postgresUrl, DB_SCHEMA, DB_POOL_SIZE: "1" }
      for (const [DB_PREPARE, prepared] of [
        ["true", 1],
        ["false", 0]
      ] as const) {
        const { offsets, sql } = yield* configured({ ...env, DB_PREPARE })
        yield* offsets.ping
        const rows = yield* sql`
          SELECT count(*)::int FROM pg_prepared_statements WHERE statement LIKE ${`%${DB_SCHEMA}%offsets_store%LIMIT 1%`}`
          .values
        assert.deepStrictEqual(rows, [[prepared]])
      }
    })
  )

  it.live("brings the settings of the session with it, those of the URL and DB_STATEMENT_TIMEOUT", () =>
    Effect.gen(function* () {
      const DB_SCHEMA = yield* freshSchema()
      const name = yield* unique
      const parameters = {
        statement_timeout: "12s",
        lock_timeout: "3s",
        idle_in_transaction_session_timeout: "1min",
        options: "-c work_mem=5MB"
      }
      const DATABASE_URL = urlOf(name, parameters)
      const { setting } = yield* configured({ DATABASE_URL, DB_SCHEMA })
      for (const [setting_, value] of [
        ["application_name", name],
        ["statement_timeout", "12s"],
        ["lock_timeout", "3s"],
        ["idle_in_transaction_session_timeout", "1min"],
        ["work_mem", "5MB"]
      ] as const) {
        assert.strictEqual(yield* setting(setting_), value)
      }
      const other = yield* configured({ DATABASE_URL, DB_SCHEMA, DB_STATEMENT_TIMEOUT: "7 seconds" })
      assert.strictEqual(yield* other.setting("statement_timeout"), "7s")
      // Never rounded down to 0, which would be no limit at all.
      const shortest = yield* Effect.provideService(
        Postgres.PostgresConfig.pool,
        ConfigProvider.ConfigProvider,
        ConfigProvider.fromEnv({ env: { DATABASE_URL, DB_STATEMENT_TIMEOUT: "100 micros" } })
      )
      assert.strictEqual(shortest.startupParameters?.["statement_timeout"], "1")
      const unlimited = yield* configured({ DATABASE_URL, DB_SCHEMA, DB_STATEMENT_TIMEOUT: "Infinity" })
      assert.strictEqual(yield* unlimited.setting("statement_timeout"), "0")
    })
  )

  it.live.each([
    [undefined, 25],
    ["3", 3]
  ] as const)("with DB_POOL_SIZE %s opens %i connections at most", ([size, expected]) =>
    Effect.gen(function* () {
      const DB_SCHEMA = yield* freshSchema()
      const name = yield* unique
      const { sql } = yield* configured({
        DATABASE_URL: urlOf(name),
        DB_SCHEMA,
        ...(size === undefined ? {} : { DB_POOL_SIZE: size })
      })
      yield* Effect.forEach(
        Array.from({ length: 30 }, () => sql`SELECT pg_sleep(3600)`),
        (sleep) => Effect.forkScoped(sleep)
      )
      const isAsleep = ({ query, state }: { readonly query: string; readonly state: string }) =>
        state === "active" && query.includes("pg_sleep(3600)")
      yield* waitForBackends(name, (all) => all.filter(isAsleep).length === expected)
      // All thirty have asked at once: a connection too many would be there by the third time we look.
      for (let looks = 0; looks < 3; looks++) assert.lengthOf((yield* backends(name)).filter(isAsleep), expected)
    })
  )

  it.live("refuses what makes no sense, by the name of the variable", () =>
    Effect.gen(function* () {
      for (const [name, value] of [
        ["DATABASE_URL", "mysql://127.0.0.1/x"],
        ["DATABASE_URL", "none"],
        ["DATABASE_URL", "postgres://app:50%@127.0.0.1/app"],
        ["DB_PORT", "70000"],
        ["DB_SSLMODE", "maybe"],
        // Programs on libpq connect to another server by these, as nothing else names one.
        ["PGSERVICE", "production"],
        ["PGHOSTADDR", "127.0.0.1"],
        ["DB_POOL_SIZE", "many"],
        ["DB_POOL_SIZE", "0"],
        ["DB_POOL_SIZE", "-1"],
        ["DB_CONNECT_TIMEOUT", "soon"],
        ["DB_CONNECT_TIMEOUT", "0 seconds"],
        ["DB_IDLE_TIMEOUT", "-1 seconds"],
        ["DB_MAX_LIFETIME", "0"],
        ["DB_STATEMENT_TIMEOUT", "soon"],
        ["DB_STATEMENT_TIMEOUT", "-1 seconds"]
      ] as const) {
        assert.include(yield* refused({ [name]: value }), name, value)
      }
      const error = yield* Effect.flip(configured({ DATABASE_URL: postgresUrl, DB_SCHEMA: "s".repeat(64) }))
      assert.strictEqual(error._tag, "InvalidInput")
      assert.include(error.message, "schema: Expected a name of at most 63 bytes")
      // As a caller without a type checker could write it.
      const part: object = { acquireTimeout: "soon" }
      const late = yield* Effect.flip(configured({ DATABASE_URL: postgresUrl }, Object.assign({ schema: "x" }, part)))
      assert.strictEqual(late._tag, "InvalidInput")
      assert.include(late.message, "acquireTimeout: Expected a duration")
    })
  )

  it.live("refuses a list of hosts without their ports, and an attribute that is none", () =>
    Effect.gen(function* () {
      for (const [env, says] of [
        [{ DATABASE_URL: "postgres://x@a,b/x?port=1,2,3" }, /3 for 2[^]*DATABASE_URL/],
        [{ DATABASE_URL: "postgres://x@a:1,b:70000/x" }, /1 to 65535[^]*DATABASE_URL/],
        [{ DATABASE_URL: "postgres://x@a:1:2,b/x" }, /hosts of the form name:port[^]*DATABASE_URL/],
        [{ DB_HOST: "a,b,c", DB_PORT: "1,2" }, /2 for 3[^]*DB_PORT/],
        [{ PGHOST: "a,b,c", PGPORT: "1,2" }, /2 for 3[^]*PGPORT/],
        [
          { DATABASE_URL: "postgres://x@a,b/x?target_session_attrs=writable" },
          /prefer-standby[^]*target_session_attrs/
        ],
        [{ PGTARGETSESSIONATTRS: "writable" }, /prefer-standby[^]*PGTARGETSESSIONATTRS/]
      ] as const) {
        assert.match(yield* refused(env), says)
      }
    })
  )

  it.live("gives up on a server that accepts and says nothing after DB_CONNECT_TIMEOUT", () =>
    Effect.gen(function* () {
      const { hostname, port } = new URL(postgresUrl)
      const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
      const DB_SCHEMA = yield* freshSchema()
      const DATABASE_URL = proxy.url(postgresUrl)
      yield* proxy.stall(true)
      // The driver gives up by itself after 5 seconds: by then no caller would be waiting for the pool any more.
      const options = { acquireTimeout: "2 seconds" } as const
      const start = configured({ DATABASE_URL, DB_SCHEMA, DB_CONNECT_TIMEOUT: "200 millis" }, options)
      yield* failsWith(
        start,
        "Postgres.migrate",
        "Unavailable",
        /no connection to the server: Connection timed out; check/
      )
      yield* proxy.stall(false)
      // A busy server may take longer than that, too.
      const { offsets } = yield* Effect.retry(start, { while: ({ _tag }) => _tag === "StoreError" })
      yield* offsets.ping
    })
  )
})

/** A server that answers each request for TLS with `answer`, and notes what it is sent after that. */
const fakeServer = (
  answer: string
): Effect.Effect<{ readonly port: number; readonly received: Array<Buffer> }, never, Scope.Scope> =>
  Effect.gen(function* () {
    const received: Array<Buffer> = []
    const sockets = new Set<Socket>()
    const listening = yield* Deferred.make<number>()
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const server = createServer((socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          socket.once("data", () => socket.write(answer))
          socket.on("data", (chunk: Buffer) => received.push(chunk))
        })
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          Deferred.doneUnsafe(
            listening,
            Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)
          )
        })
        return server
      }),
      (server) =>
        Effect.sync(() => {
          for (const socket of sockets) socket.destroy()
          server.close()
        })
    )
    return { port: yield* Deferred.await(listening), received }
  })

describe("sslmode", () => {
  it.live("require, verify-ca and verify-full refuse a server without TLS, and send it nothing in plain text", () =>
    Effect.gen(function* () {
      for (const mode of ["require", "verify-ca", "verify-full"]) {
        const { port, received } = yield* fakeServer("N")
        const env = {
          DB_HOST: "127.0.0.1",
          DB_PORT: `${port}`,
          DB_USER: "someone",
          DB_PASSWORD: "secret",
          DB_SSLMODE: mode
        }
        const DATABASE_URL = `postgres://someone:secret@127.0.0.1:${port}/x?sslmode=${mode}`
        const says = /no connection to the server: The server does not support TLS; check/
        yield* failsWith(configured({ DATABASE_URL }), "Postgres.migrate", "Unavailable", says)
        yield* failsWith(configured(env), "Postgres.migrate", "Unavailable", says)
        // Each has sent the request for TLS (80877103) and not a byte more: no user's name, and no password.
        const request = [0, 0, 0, 8, 4, 210, 22, 47]
        assert.deepStrictEqual(Buffer.concat(received), Buffer.from([...request, ...request]))
      }
    })
  )

  it.live("require against a real server without TLS is Unavailable, and disable and prefer connect", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make({ settings: { ssl: "off" } })
      const withMode = (mode: string) => configured({ DATABASE_URL: `${server.url}?sslmode=${mode}` })
      yield* failsWith(withMode("require"), "Postgres.migrate", "Unavailable", /The server does not support TLS/)
      for (const mode of ["disable", "prefer"]) yield* (yield* withMode(mode)).offsets.ping
    })
  )

  it.live(
    "require, verify-full and prefer refuse a certificate that nobody vouches for, and take one that is known",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const certificate = yield* encrypt(server)

        for (const mode of ["require", "verify-full", "prefer"]) {
          yield* failsWith(
            configured({ DATABASE_URL: `${server.url}?sslmode=${mode}` }),
            "Postgres.migrate",
            "Unavailable",
            /no connection to the server: self-signed certificate.*; check/
          )
        }
        const pool = PgClient.layer({ url: Redacted.make(`${server.url}?sslmode=require`), ssl: { ca: certificate } })
        const context = yield* Layer.build(Layer.provideMerge(Postgres.layer(), pool))
        yield* Context.get(context, OffsetStore.OffsetStore).ping
        const encrypted = Context.get(
          context,
          PgClient.PgClient
        )`SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`
        assert.deepStrictEqual(yield* encrypted, [{ ssl: true }])
      })
  )
})

describe("a client whose longest message is shorter than a row can be", () => {
  it.live("is refused, as what was written could not be read again", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      const client = PgClient.layer({ url: Redacted.make(postgresUrl), maxMessageSize: 16 * 1024 * 1024 - 1 })
      const error = yield* Effect.flip(Layer.build(Layer.provide(Postgres.layer({ schema }), client)))
      assert.instanceOf(error, InvalidInput.InvalidInput)
      assert.deepStrictEqual(
        error.issues.map(({ field }) => field),
        ["maxMessageSize"]
      )
    })
  )
})
