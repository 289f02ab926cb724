/** Several hosts in one URL, as libpq has them: the one that answers and fits is used, on every new connection. */
import { PgClient, PgConnection } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { inspect } from "node:util"
import { strata } from "../cli/harness.ts"
import { waitForBackends } from "../support/database.ts"
import { freePort } from "../support/ports.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { standbyOf } from "../support/Replicas.ts"
import { event, follow } from "./events.harness.ts"
import { encrypt, execute, failsWith, unique } from "./harness.ts"
import { configured, connected, fakeHost, urlTo } from "./hosts.harness.ts"

/** A server, its standby, a port that nobody listens on, and a host that accepts and says nothing. */
const four = Effect.gen(function* () {
  const primary = yield* PostgresServer.make()
  const standby = yield* standbyOf(primary)
  const silent = yield* Proxy.make({ host: "127.0.0.1", port: primary.port })
  yield* silent.stall(true)
  const at = (port: number) => `127.0.0.1:${port}`
  return {
    primary,
    standby,
    hosts: {
      primary: at(primary.port),
      standby: at(standby.port),
      silent: at(silent.port),
      closed: at(yield* freePort)
    }
  }
})

describe("a list of hosts", () => {
  it.live("leads to the first one that answers and fits", () =>
    Effect.gen(function* () {
      const { hosts, primary, standby } = yield* four
      const cases: ReadonlyArray<readonly [ReadonlyArray<keyof typeof hosts>, string | undefined, number]> = [
        [["closed", "primary"], undefined, primary.port],
        [["closed", "standby", "primary"], undefined, standby.port],
        [["closed", "standby", "primary"], "any", standby.port],
        [["closed", "standby", "primary"], "read-write", primary.port],
        [["standby", "closed", "primary"], "primary", primary.port],
        [["primary", "closed", "standby"], "standby", standby.port],
        [["primary", "standby"], "read-only", standby.port],
        [["primary", "standby"], "prefer-standby", standby.port],
        [["primary", "closed"], "prefer-standby", primary.port],
        [["standby", "silent", "primary"], "read-write", primary.port],
        [["primary"], "read-write", primary.port],
        [["standby"], "standby", standby.port]
      ]
      for (const [names, wanted, port] of cases) {
        const list = names.map((name) => hosts[name])
        const parameters: Record<string, string> = wanted === undefined ? {} : { target_session_attrs: wanted }
        const DATABASE_URL = urlTo(primary.url, list, parameters)
        const found = yield* connected({
          DATABASE_URL,
          DB_CONNECT_TIMEOUT: names.includes("silent") ? "5 seconds" : "1 minute"
        })
        assert.strictEqual(yield* found.port, port, `${names.join()} ${wanted}`)
      }
    })
  )

  it.live("passes a host that is starting, one that ends the connection, and one that is no server", () =>
    Effect.gen(function* () {
      const { hosts, primary } = yield* four
      const fields = "SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
      const starting = Buffer.from(`E\0\0\0${String.fromCharCode(4 + fields.length)}${fields}`, "latin1")
      const others = [
        yield* fakeHost((socket) => socket.end(starting)),
        yield* fakeHost((socket) => socket.destroy()),
        yield* fakeHost((socket) => socket.write("HTTP/1.1 400 Bad Request\r\n\r\n")),
        // It asks for the password in plain text, and is gone before it has the answer.
        yield* fakeHost((socket) => socket.end(Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 3])))
      ].map(({ host }) => host)
      const found = yield* connected({ DATABASE_URL: urlTo(primary.url, [...others, hosts.primary]) })
      assert.strictEqual(yield* found.port, primary.port)
      const says =
        /: the database system is starting up; .*: the server closed.*; .*: The server does not answer as PostgreSQL does; /
      yield* failsWith(
        configured({ DATABASE_URL: urlTo(primary.url, others) }),
        "Postgres.migrate",
        "Unavailable",
        says
      )
    })
  )

  it.live("is not waited for at every connection if its first host says nothing", () =>
    Effect.gen(function* () {
      const { hosts, primary } = yield* four
      const silent = yield* fakeHost(() => {})
      const DATABASE_URL = urlTo(primary.url, [silent.host, hosts.primary])
      const { sql } = yield* connected({ DATABASE_URL, DB_CONNECT_TIMEOUT: "5 seconds" })
      yield* sql`SELECT 1`
      const holding = sql.withTransaction(sql`SELECT pg_sleep(0.1)`)
      yield* Effect.all([holding, holding, holding], { concurrency: "unbounded" })
      assert.strictEqual(silent.connections(), 1)
    })
  )

  it.live("can stand in the authority, in parameters, in parts and in libpq's variables, and in --url", () =>
    Effect.gen(function* () {
      const { hosts, primary, standby } = yield* four
      const { password, pathname, username } = new URL(primary.url)
      const database = pathname.slice(1)
      const ports = `${standby.port},${primary.port}`
      const wanted = { target_session_attrs: "read-write" }
      const list = [hosts.standby, hosts.primary]
      const environments: ReadonlyArray<Record<string, string>> = [
        { DATABASE_URL: urlTo(primary.url, list, wanted) },
        { DATABASE_URL: urlTo(primary.url, [""], { host: "127.0.0.1,127.0.0.1", port: ports, ...wanted }) },
        { DATABASE_URL: urlTo(primary.url, list), PGTARGETSESSIONATTRS: "read-write" },
        { DATABASE_URL: urlTo(primary.url, list), DB_TARGET_SESSION_ATTRS: "read-write", PGTARGETSESSIONATTRS: "any" },
        {
          DATABASE_URL: urlTo(primary.url, [""]),
          PGHOST: "127.0.0.1,127.0.0.1",
          PGPORT: ports,
          PGTARGETSESSIONATTRS: "primary"
        },
        {
          DB_HOST: "127.0.0.1,127.0.0.1",
          DB_PORT: ports,
          DB_NAME: database,
          DB_USER: username,
          DB_PASSWORD: password,
          DB_TARGET_SESSION_ATTRS: "primary"
        },
        {
          PGHOST: "127.0.0.1,127.0.0.1",
          PGPORT: ports,
          PGDATABASE: database,
          PGUSER: username,
          PGPASSWORD: password,
          PGTARGETSESSIONATTRS: "primary"
        }
      ]
      for (const env of environments) {
        assert.strictEqual(yield* (yield* connected(env)).port, primary.port, Object.keys(env).join())
      }
      // Migrations would be refused by the standby.
      const migrated = yield* strata(["migrate", "--url", urlTo(primary.url, list, wanted)])
      assert.strictEqual(migrated.status, 0, migrated.stderr)
    })
  )

  it.live("says what is wrong with each host where none will do, and passes on what a server says of the login", () =>
    Effect.gen(function* () {
      const { hosts, primary } = yield* four
      const url = (names: ReadonlyArray<keyof typeof hosts>) =>
        urlTo(
          primary.url,
          names.map((name) => hosts[name]),
          { target_session_attrs: "read-write" }
        )
      const none = url(["closed", "standby"])
      const says = new RegExp(
        `no connection to the server: ${hosts.closed}: connect ECONNREFUSED.*; ${hosts.standby}: it is a standby, and target_session_attrs is read-write; check`
      )
      yield* failsWith(configured({ DATABASE_URL: none }), "Postgres.migrate", "Unavailable", says)
      const DATABASE_URL = url(["closed", "primary"]).replace(/:[^:@]*@/, ":wrong@")
      yield* failsWith(configured({ DATABASE_URL }), "Postgres.migrate", "Denied", /password authentication failed/)
    })
  )
})

describe("a failover", () => {
  it.live("is followed by every new connection, of the pool and of subscribers, while the layer lives", () =>
    Effect.gen(function* () {
      const { hosts, primary, standby } = yield* four
      const DATABASE_URL = urlTo(primary.url, [hosts.primary, hosts.standby], { target_session_attrs: "primary" })
      const stores = yield* configured({ DATABASE_URL })
      const { events } = stores
      const { seen, until } = yield* follow({ events }, { after: "start" })
      const [before] = yield* events.append(event("a", "before"))
      yield* until(before?.version ?? 0n)
      // The shutdown waits until the standby has everything.
      yield* primary.stop("fast")
      yield* failsWith(events.append(event("a")), "EventStore.append", "Unavailable", /connection/)
      yield* execute(["SELECT pg_promote()"], standby.url)
      const [after] = yield* Effect.retry(events.append(event("a", "after"), { onDuplicate: "ignore" }), {
        while: ({ _tag }) => _tag === "StoreError"
      })
      yield* until(after?.version ?? 0n)
      assert.deepStrictEqual(seen, [before?.version, after?.version])
      assert.strictEqual(yield* stores.port, standby.port)
    })
  )
})

describe("an interrupted statement", () => {
  const cancels = Effect.fnUntraced(function* (config: PgClient.PgClientConfig, server: string) {
    const applicationName = yield* unique
    const pool = PgClient.layer({ ...config, applicationName, maxConnections: 1 })
    const sql = Context.get(yield* Layer.build(pool), PgClient.PgClient)
    const pid = sql`SELECT pg_backend_pid() AS pid`.values
    const before = yield* pid
    const sleep = yield* Effect.forkScoped(sql`SELECT pg_sleep(3600)`)
    yield* waitForBackends(applicationName, (all) => all.some(({ state }) => state === "active"), server)
    yield* Fiber.interrupt(sleep)
    // The driver keeps a connection only if the server has said that the statement is cancelled.
    assert.deepStrictEqual(yield* pid, before)
  })

  it.live("is cancelled on the host that runs it", () =>
    Effect.gen(function* () {
      const { hosts, primary, standby } = yield* four
      const list = [hosts.closed, hosts.standby, hosts.primary]
      for (const [wanted, server] of [
        ["primary", primary],
        ["standby", standby]
      ] as const) {
        const url = urlTo(primary.url, list, { target_session_attrs: wanted })
        yield* cancels(yield* Postgres.PostgresConfig.fromUrl(Redacted.make(url)), server.url)
      }
    })
  )

  it.live("is cancelled over TLS as well", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const ca = yield* encrypt(server)
      const url = Redacted.make(
        urlTo(server.url, [`127.0.0.1:${yield* freePort}`, `127.0.0.1:${server.port}`], { sslmode: "verify-full" })
      )
      yield* cancels(yield* Postgres.PostgresConfig.fromUrl(url, { tls: { ca } }), server.url)
    })
  )
})

describe("TLS", () => {
  const file = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))

  it.live("verifies the name of the host that is used", () =>
    Effect.gen(function* () {
      const primary = yield* PostgresServer.make()
      const byName = yield* encrypt(primary, "localhost-")
      const standby = yield* standbyOf(primary)
      const byAddress = yield* encrypt(standby, "loopback-")
      const tls = { ca: [byName, byAddress] }
      const hostsOf = (nameOfPrimary: string, nameOfStandby: string) => [
        `${nameOfStandby}:${standby.port}`,
        `${nameOfPrimary}:${primary.port}`
      ]
      const connect = Effect.fnUntraced(function* (hosts: ReadonlyArray<string>, target_session_attrs: string) {
        const url = urlTo(primary.url, hosts, { sslmode: "verify-full", target_session_attrs })
        const config = yield* Postgres.PostgresConfig.fromUrl(Redacted.make(url), { tls })
        const sql = Context.get(yield* Layer.build(PgClient.layer(config)), PgClient.PgClient)
        return yield* sql`
          SELECT current_setting('port')::int AS port, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`
      })
      const right = hostsOf("localhost", "127.0.0.1")
      assert.deepStrictEqual(yield* connect(right, "primary"), [{ port: primary.port, ssl: true }])
      assert.deepStrictEqual(yield* connect(right, "standby"), [{ port: standby.port, ssl: true }])
      // A certificate of the other one is no reason to use a host.
      const swapped = hostsOf("127.0.0.1", "localhost")
      for (const wanted of ["primary", "standby", "any"]) {
        const error = yield* Effect.flip(connect(swapped, wanted))
        assert.match(inspect(error), /does not match certificate's altnames.*; .*does not match/)
      }
      assert.deepStrictEqual(yield* connect(hostsOf("localhost", "localhost"), "any"), [
        { port: primary.port, ssl: true }
      ])

      // Beside the settings, the driver would use them itself, for the name of no host.
      const url = Redacted.make(urlTo(primary.url, right))
      const beside = { ...(yield* Postgres.PostgresConfig.fromUrl(url)), ssl: tls }
      assert.match(
        inspect(yield* Effect.flip(PgConnection.make(beside))),
        /belong into those of PostgresConfig.fromUrl/
      )

      // The same with files, by the configuration.
      const trusted = { DB_SSLROOTCERT: file("localhost-certificate.pem") }
      const DATABASE_URL = urlTo(primary.url, right)
      assert.strictEqual(yield* (yield* connected({ DATABASE_URL, ...trusted })).port, primary.port)
      assert.match(yield* Effect.promise(() => readFile(trusted.DB_SSLROOTCERT, "utf8")), /BEGIN CERTIFICATE/)
    })
  )
})
