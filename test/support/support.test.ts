import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Predicate, Redacted, Schedule, Schema, Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import { spawn } from "node:child_process"
import { access } from "node:fs/promises"
import { connect, createServer, type Socket } from "node:net"
import { createInterface } from "node:readline"
import { supportApplicationName, withConnection } from "./connection.ts"
import {
  backends,
  layerSchema,
  postgresUrl,
  scratchDatabase,
  TestSchema,
  waitForBackends,
  withDatabase
} from "./database.ts"
import { database } from "./databases.ts"
import { freePort } from "./ports.ts"
import * as PostgresServer from "./PostgresServer.ts"
import * as Proxy from "./Proxy.ts"

const exists = (path: string) =>
  Effect.promise(() =>
    access(path).then(
      () => true,
      () => false
    )
  )

const isDown = (url: string) => Effect.map(Effect.exit(withConnection(url, (sql) => sql`SELECT 1`)), Exit.isFailure)

describe("PostgresServer", () => {
  it.live("comes back on the same port with all that was committed", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make({ settings: { work_mem: "5MB" } })
      const ask = (statement: string) => withConnection(server.url, (sql) => sql.unsafe(statement).values)

      assert.match(server.version, /^\d+\.\d+$/)
      assert.deepStrictEqual(yield* ask("SHOW work_mem"), [["5MB"]])
      assert.deepStrictEqual(yield* ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"), [[true]])
      yield* ask("CREATE TABLE kept (n int)")

      const outages = [server.stop("fast"), server.stop("immediate"), server.stop("smart"), server.kill]
      for (const [n, outage] of outages.entries()) {
        yield* ask(`INSERT INTO kept VALUES (${n})`)
        yield* outage
        assert.isTrue(yield* isDown(server.url))
        yield* server.start
      }
      yield* server.restart("fast")
      assert.deepStrictEqual(yield* ask("SELECT n FROM kept ORDER BY n"), [[0], [1], [2], [3]])
      assert.include(yield* server.log, "ready to accept connections")
    })
  )

  it.live("kills a server that is busy, and is then gone", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const busy = yield* Effect.forkChild(withConnection(server.url, (sql) => sql`SELECT pg_sleep(3600)`))
      yield* waitForBackends(supportApplicationName, (all) => all.some(isSleeping), server.url)
      yield* server.kill
      assert.isTrue(Exit.isFailure(yield* Fiber.await(busy)))
      yield* server.kill
      yield* server.stop("fast")
      yield* Effect.all([server.start, server.start], { concurrency: "unbounded" })
      assert.isFalse(yield* isDown(server.url))
    })
  )

  it.effect("leaves nothing behind when its scope closes, under a test clock too", () =>
    Effect.gen(function* () {
      const { dataDir, url } = yield* Effect.scoped(
        Effect.tap(PostgresServer.make(), ({ dataDir }) => Effect.map(exists(dataDir), assert.isTrue))
      )
      assert.isFalse(yield* exists(dataDir))
      assert.isTrue(yield* isDown(url))
    })
  )

  it.live("says why it did not start", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(PostgresServer.make({ settings: { no_such_setting: "1" } }))
      assert.strictEqual(error.operation, "start")
      assert.include(error.log, `unrecognized configuration parameter "no_such_setting"`)
      assert.include(error.message, error.log)
    })
  )

  it.live("dies with a process that is killed", () =>
    Effect.gen(function* () {
      const program = `
        import { Effect } from "effect"
        import { make } from ${JSON.stringify(new URL("PostgresServer.ts", import.meta.url).href)}
        const report = ({ dataDir, url }) => Effect.sync(() => console.log(JSON.stringify({ dataDir, url })))
        Effect.runFork(Effect.scoped(make().pipe(Effect.tap(report), Effect.andThen(Effect.never))))
        setInterval(() => {}, 1000)
      `
      const child = yield* Effect.acquireRelease(
        Effect.sync(() =>
          spawn(process.execPath, ["--input-type=module", "--eval", program], {
            cwd: import.meta.dirname,
            stdio: ["ignore", "pipe", "inherit"]
          })
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      const line = yield* Effect.callback<string>((resume) => {
        createInterface(child.stdout)
          .once("line", (line) => resume(Effect.succeed(line)))
          .once("close", () => resume(Effect.die("the program ended without a word")))
      })
      const Report = Schema.fromJsonString(Schema.Struct({ dataDir: Schema.String, url: Schema.String }))
      const { dataDir, url } = yield* Schema.decodeUnknownEffect(Report)(line)
      assert.isFalse(yield* isDown(url))
      child.kill("SIGKILL")
      // Nobody is left to tell when it is done, so this looks until it is, or the test's time is over.
      yield* Effect.repeat(exists(dataDir), { while: (there) => there, schedule: Schedule.spaced("20 millis") })
      assert.isTrue(yield* isDown(url))
    })
  )
})

const isSleeping = (backend: { readonly query: string }) => backend.query.includes("pg_sleep(3600)")

/** A proxy before the shared server and a client that goes through it. */
const proxied = Effect.fnUntraced(function* (applicationName?: string) {
  const { hostname, port } = new URL(postgresUrl)
  const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
  const url = Redacted.make(proxy.url(postgresUrl))
  const sql = yield* PgClient.make({ url, applicationName, maxConnections: 1 }).pipe(Effect.provide(Reactivity.layer))
  return { proxy, sql }
})

describe("Proxy", () => {
  it.live("passes everything, also what is larger than its buffers", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied()
      const text = "x".repeat(8_000_000)
      const [row] = yield* sql`SELECT ${text}::text AS text`.values
      assert.isTrue(row?.[0] === text)
      assert.strictEqual(yield* proxy.connections, 1)
      assert.strictEqual(new URL(proxy.url(postgresUrl)).host, `${proxy.host}:${proxy.port}`)
    })
  )

  it.live("cuts what is connected, and accepts anew", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied("strata-test-cut")
      const torn = yield* sql`SELECT 1`.pipe(
        Effect.andThen(proxy.cut),
        Effect.andThen(sql`SELECT 2`),
        sql.withTransaction,
        Effect.exit
      )
      assert.isTrue(Exit.isFailure(torn))
      assert.deepStrictEqual(yield* sql`SELECT 3`.values, [[3]])
      assert.lengthOf(yield* waitForBackends("strata-test-cut", (all) => all.length === 1), 1)
    })
  )

  it.live("refuses new connections, keeps the present one, and listens again", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied()
      const other = withConnection(proxy.url(postgresUrl), (sql) => sql`SELECT 1`.values)
      yield* sql`SELECT 1`
      yield* proxy.refuse(true)
      yield* proxy.refuse(true)
      const refused = yield* Effect.flip(other)
      assert.isTrue(Predicate.isTagged(refused.reason, "ConnectionError"))
      assert.include(String(refused.reason.cause), "ECONNREFUSED")
      assert.deepStrictEqual(yield* sql`SELECT 2`.values, [[2]])
      yield* proxy.refuse(false)
      assert.deepStrictEqual(yield* other, [[1]])
    })
  )

  it.live("holds everything back while stalled", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied("strata-test-stall")
      const idle = yield* sql`SELECT 1 AS before_the_stall`.pipe(Effect.andThen(backends("strata-test-stall")))
      yield* proxy.stall(true)
      const waiting = yield* Effect.forkChild(sql`SELECT 2`.values, { startImmediately: true })
      const connecting = yield* Effect.forkChild(
        withConnection(proxy.url(postgresUrl), (sql) => sql`SELECT 3`.values),
        { startImmediately: true }
      )
      // Had it got through, the server would know this statement by the third time we ask.
      for (let looks = 0; looks < 3; looks++) {
        assert.deepStrictEqual(yield* backends("strata-test-stall"), idle)
      }
      assert.isUndefined(waiting.pollUnsafe())
      assert.isUndefined(connecting.pollUnsafe())
      yield* proxy.stall(false)
      assert.deepStrictEqual(yield* Fiber.join(waiting), [[2]])
      assert.deepStrictEqual(yield* Fiber.join(connecting), [[3]])
    })
  )

  it.live("never lets anything pass on connections that it has blackholed, and new ones work", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied("strata-test-blackhole")
      const dead = yield* sql.reserve
      yield* proxy.blackhole
      const answer = yield* Effect.forkScoped(dead.execute("SELECT 1", [], undefined), { startImmediately: true })
      const rows = yield* withConnection(proxy.url(postgresUrl), (another) => another`SELECT 1`.values)
      assert.deepStrictEqual(rows, [[1]])
      yield* proxy.stall(true)
      yield* proxy.stall(false)
      assert.isUndefined(answer.pollUnsafe())
      yield* proxy.cut
      assert.isTrue(Exit.isFailure(yield* Fiber.await(answer)))
    })
  )

  it.live("buries connections: cutting does not tell their ends, and the server's ends can be told alone", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied("strata-test-buried")
      const dead = yield* sql.reserve
      const told = yield* proxy.bury
      const answer = yield* Effect.forkScoped(dead.execute("SELECT 1", [], undefined), { startImmediately: true })
      yield* proxy.cut
      const rows = yield* withConnection(proxy.url(postgresUrl), (another) => another`SELECT 1`.values)
      assert.deepStrictEqual(rows, [[1]])
      assert.lengthOf(yield* backends("strata-test-buried"), 1)
      yield* told
      assert.deepStrictEqual(yield* waitForBackends("strata-test-buried", (all) => all.length === 0), [])
      assert.isUndefined(answer.pollUnsafe())
    })
  )

  it.live("leads new connections elsewhere, and keeps the present ones", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied()
      const present = yield* sql.reserve
      const server = yield* PostgresServer.make()
      const url = new URL(server.url)
      yield* proxy.lead(server.port)
      const path = "SHOW data_directory"
      assert.deepStrictEqual(yield* withConnection(proxy.url(url.href), (another) => another.unsafe(path).values), [
        [server.dataDir]
      ])
      assert.notDeepEqual(yield* present.executeValues(path, []), [[server.dataDir]])
    })
  )

  it.live("tells which connections their clients have ended", () =>
    Effect.gen(function* () {
      const accepted: Array<Socket> = []
      // As a backend that waits for a lock: it reads nothing, and notices no end.
      const accept = (socket: Socket) => void accepted.push(socket.on("error", () => {}))
      const port = yield* freePort
      yield* Effect.acquireRelease(
        Effect.sync(() => createServer({ allowHalfOpen: true }, accept).listen(port)),
        (listening) => Effect.sync(() => listening.close())
      )
      const proxy = yield* Proxy.make({ host: "127.0.0.1", port })
      const look = Effect.delay(proxy.abandoned, "5 millis")
      const begin = Effect.gen(function* () {
        const count = accepted.length + 1
        const client = connect(proxy.port, proxy.host).on("error", () => {})
        yield* Effect.repeat(look, { until: () => accepted.length === count })
        return { client, port: accepted.at(-1)?.remotePort }
      })
      const [ended, broken, cut] = [yield* begin, yield* begin, yield* begin]
      assert.deepStrictEqual(yield* proxy.abandoned, [])
      ended.client.end()
      yield* Effect.repeat(look, { until: ({ length }) => length === 1 })
      broken.client.resetAndDestroy()
      yield* Effect.repeat(look, { until: ({ length }) => length === 2 })
      yield* proxy.cut
      yield* Effect.repeat(look, { until: () => cut.client.destroyed })
      assert.deepStrictEqual<ReadonlyArray<unknown>>(yield* proxy.abandoned, [ended.port, broken.port])
      for (const socket of accepted) socket.destroy()
    })
  )

  it.live("hides from the server, while stalled, that the client has gone", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { proxy, sql } = yield* Scope.provide(proxied("strata-test-gone"), yield* Effect.scope).pipe(
        Effect.flatMap(({ proxy }) =>
          PgClient.make({ url: Redacted.make(proxy.url(postgresUrl)), applicationName: "strata-test-gone" }).pipe(
            Effect.provide(Reactivity.layer),
            Scope.provide(scope),
            Effect.map((sql) => ({ proxy, sql }))
          )
        )
      )
      yield* sql`SELECT 1`
      yield* proxy.stall(true)
      yield* Scope.close(scope, Exit.void)
      assert.lengthOf(yield* backends("strata-test-gone"), 1)
      yield* proxy.stall(false)
      assert.deepStrictEqual(yield* waitForBackends("strata-test-gone", (all) => all.length === 0), [])
    })
  )

  it.live("delays in both directions", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied()
      yield* sql`SELECT 1`
      yield* proxy.delay("100 millis")
      const start = yield* Clock.currentTimeMillis
      yield* sql`SELECT 1`
      // Only the least it can take: timers may fire a millisecond early, and as late as they like.
      assert.isAtLeast((yield* Clock.currentTimeMillis) - start, 190)
      yield* proxy.delay(0)
    })
  )

  it.live("lets no more than so many bytes pass in a second", () =>
    Effect.gen(function* () {
      const { proxy, sql } = yield* proxied()
      yield* proxy.throttle(100_000)
      const start = yield* Clock.currentTimeMillis
      yield* sql`SELECT repeat('x', 50000)`
      assert.isAtLeast((yield* Clock.currentTimeMillis) - start, 490)
      yield* proxy.throttle(Number.POSITIVE_INFINITY)
    })
  )

  it.live("closes everything with its scope", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { proxy, sql } = yield* Scope.provide(proxied(), scope)
      yield* sql`SELECT 1`
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(yield* isDown(proxy.url(postgresUrl)))
    })
  )
})

const schemaExists = (name: string) =>
  withConnection(postgresUrl, (sql) => sql`SELECT count(*)::int FROM pg_namespace WHERE nspname = ${name}`.values).pipe(
    Effect.map((rows) => rows[0]?.[0] === 1)
  )

describe("database", () => {
  it.effect("gives each layer a schema, and drops it after the pool has closed", () =>
    Effect.gen(function* () {
      const use = Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const { name } = yield* TestSchema
        yield* sql`CREATE TABLE things (n int)`
        assert.deepStrictEqual(
          yield* sql`SELECT schemaname FROM pg_tables WHERE tablename = 'things'
          AND schemaname = ${name}`.values,
          [[name]]
        )
        assert.isTrue(yield* schemaExists(name))
        // The pool's one connection is left in a transaction, whose lock keeps others from dropping the schema.
        yield* sql`BEGIN`
        yield* sql`LOCK TABLE things`
        return name
      })
      const options = { applicationName: "strata-test-schema", maxConnections: 1 }
      const first = yield* Effect.provide(use, layerSchema(options))
      const second = yield* Effect.provide(use, layerSchema({ ...options, startupParameters: { work_mem: "1MB" } }))
      assert.notStrictEqual(first, second)
      assert.isFalse((yield* schemaExists(first)) || (yield* schemaExists(second)))
      assert.deepStrictEqual(yield* waitForBackends("strata-test-schema", (all) => all.length === 0), [])
    })
  )

  it.effect("makes a scratch database and drops it, even if clients are connected", () =>
    Effect.gen(function* () {
      const url = yield* withDatabase((url) =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const sql = yield* PgClient.make({ url: Redacted.make(url) }).pipe(
            Effect.provide(Reactivity.layer),
            Scope.provide(scope)
          )
          yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
          assert.deepStrictEqual(yield* sql`SELECT current_database()`.values, [[new URL(url).pathname.slice(1)]])
          return url
        })
      )
      assert.isTrue(yield* isDown(url))
      const other = yield* scratchDatabase()
      assert.notStrictEqual(url, other)
    })
  )

  it.live("drops a database whose last backend takes longer to end than the server waits by itself", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const scope = yield* Scope.make()
      const url = yield* Scope.provide(database(server.url), scope)
      const client = PgClient.make({ url: Redacted.make(url) }).pipe(Effect.provide(Reactivity.layer))
      const pid = yield* Effect.scoped(
        Effect.gen(function* () {
          const [[pid] = []] = yield* (yield* client)`SELECT pg_backend_pid()`.values
          process.kill(Number(pid), "SIGSTOP")
          return Number(pid)
        })
      )
      yield* Effect.forkScoped(
        Effect.andThen(
          Effect.sleep("7 seconds"),
          Effect.sync(() => process.kill(pid, "SIGCONT"))
        )
      )
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(yield* isDown(url))
    })
  )
})
