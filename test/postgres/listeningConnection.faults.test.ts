/** The connection that listens is opened wherever the pool's are, and what arrives on it is seen whatever carries it. */
import type { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Redacted, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { connect } from "node:net"
import { Duplex } from "node:stream"
import { postgresUrl, scratchDatabase } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { event, follow, serveEvents } from "./events.harness.ts"
import { encrypt, execute, failsWith, freshRole, freshSchema, urlWith } from "./harness.ts"
import { urlTo } from "./hosts.harness.ts"

/** How many bytes the line lets pass in a second: the large event takes more than 5 seconds. */
const bytesPerSecond = 1_000_000
const large = { ...event("large"), data: "x".repeat(7 * bytesPerSecond) }

const serverWith = Effect.gen(function* () {
  const server = yield* PostgresServer.make({ settings: { unix_socket_directories: "." } })
  const ca = yield* encrypt(server)
  const { password, pathname, port, username } = new URL(server.url)
  const proxy = yield* Proxy.make({ host: "127.0.0.1", port: Number(port) })
  const parts = {
    url: undefined,
    port: Number(port),
    database: pathname.slice(1),
    username: decodeURIComponent(username),
    password: Redacted.make(decodeURIComponent(password))
  }
  const path = `${server.dataDir}/.s.PGSQL.${port}`
  const url = (change: (url: URL) => void) => ({ url: Redacted.make(urlWith(change, server.url)) })
  const elsewhere = (parameters: Record<string, string>) =>
    url((url) => {
      url.host = "elsewhere.invalid:1"
      for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
    })
  const settings: Record<string, Partial<PgClient.PgPoolConfig>> = {
    "a host and a port": { ...parts, host: "127.0.0.1" },
    "a host and a port beside a URL": {
      ...elsewhere({}),
      host: "127.0.0.1",
      port: Number(port),
      keepAlive: "30 seconds"
    },
    "no host": parts,
    "parameters of a URL": elsewhere({ host: "127.0.0.1", port }),
    "the directory of a socket": { ...parts, host: server.dataDir },
    "the directory of a socket in a URL": elsewhere({ host: server.dataDir, port }),
    "a socket": { ...parts, host: "elsewhere.invalid", path },
    "a socket of one's own": { ...elsewhere({}), stream: () => connect(path) },
    "a stream of one's own": {
      ...elsewhere({}),
      stream: () => {
        const socket = connect(proxy.port, "127.0.0.1")
        return Duplex.from({ readable: socket, writable: socket })
      }
    },
    "several hosts": yield* Postgres.PostgresConfig.fromUrl(
      Redacted.make(urlTo(server.url, ["127.0.0.1:1", `127.0.0.1:${proxy.port}`], { target_session_attrs: "primary" }))
    ),
    "several hosts, and TLS": yield* Postgres.PostgresConfig.fromUrl(
      Redacted.make(urlTo(server.url, ["127.0.0.1:1", `127.0.0.1:${proxy.port}`])),
      { tls: { ca } }
    ),
    TLS: { url: Redacted.make(`${proxy.url(server.url)}?sslmode=require`), ssl: { ca } }
  }
  return { proxy, server, settings }
})

/** Whether the proxy lies between. */
const isBetween = (name: string) => name === "TLS" || name === "a stream of one's own"

it.live("it is found and watched, wherever the server is and whatever lies between", () =>
  Effect.gen(function* () {
    const { proxy, server, settings } = yield* serverWith
    const options = { schema: "public" }
    const direct = yield* serveEvents({ url: server.url, options })
    const followers = yield* Effect.forEach(Object.entries(settings), ([name, client]) =>
      Effect.gen(function* () {
        const served = yield* serveEvents({ client: { ...client, maxConnections: 2 }, options })
        const { until } = yield* follow(served, { after: "start" })
        const lost = served.events.listener.changes.pipe(
          Stream.dropWhile((status) => status !== "connected"),
          Stream.filter((status) => status !== "connected"),
          Stream.take(1),
          Stream.runDrain,
          Effect.andThen(Effect.die(`${name}: the connection was given up`))
        )
        return { name, until, whole: (version: bigint) => Effect.raceFirst(until(version), lost) }
      })
    )
    const all = (version: bigint) =>
      Effect.forEach(followers, ({ whole }) => whole(version), { concurrency: "unbounded", discard: true })
    yield* direct.events.append(event("small"))
    yield* all(1n)
    yield* proxy.throttle(bytesPerSecond)
    yield* direct.events.append(large)
    yield* all(2n)
    assert.strictEqual(yield* direct.events.latestVersion, 2n)
    // What lies between can die, too.
    yield* proxy.throttle(Number.POSITIVE_INFINITY)
    const between = followers.filter(({ name }) => isBetween(name))
    assert.lengthOf(between, 2)
    yield* proxy.blackhole
    const [third] = yield* direct.events.append(event("third"))
    yield* Effect.forEach(between, ({ until }) => until(third?.version ?? 0n), { concurrency: "unbounded" })
  })
)

it.live("it is not taken for deaf by a process that is too busy to read what has arrived", () =>
  Effect.gen(function* () {
    const { hostname, port } = new URL(postgresUrl)
    const proxy = yield* Proxy.make({ host: hostname, port: Number(port) })
    // What the connection that listens is sent takes its time: the other connections are open by then.
    yield* proxy.delay("300 millis")
    let isOpen = false
    const stream = () => (isOpen ? connect(proxy.port, proxy.host) : connect(Number(port), hostname))
    const served = yield* serveEvents({ client: { stream, maxConnections: 1 } })
    isOpen = true
    const { until } = yield* follow(served, { after: "start" })
    yield* Stream.runDrain(Stream.takeUntil(served.events.listener.changes, (status) => status === "connected"))
    // From now on each turn of the event loop takes longer than a notification may.
    const busy = new Int32Array(new SharedArrayBuffer(4))
    yield* Effect.callback<void>((resume) => {
      const turn = (left: number) => {
        Atomics.wait(busy, 0, 0, 6000)
        if (left === 0) resume(Effect.void)
        else setImmediate(turn, left - 1)
      }
      setImmediate(turn, 3)
    })
    const [appended] = yield* served.events.append(event("a"))
    yield* until(appended?.version ?? 0n)
    assert.deepStrictEqual(served.logged, [])
  })
)

it.live("it is refused where it leads to another database", () =>
  Effect.gen(function* () {
    const { role, url } = yield* freshRole()
    const schema = yield* freshSchema()
    yield* execute([`CREATE SCHEMA ${schema} AUTHORIZATION ${role}`])
    const served = (listen: string) => serveEvents({ url, options: { schema, listen: { url: Redacted.make(listen) } } })
    const here = yield* served(url)
    const [appended] = yield* here.events.append(event("a"))
    const { until } = yield* follow(here, { after: "start" })
    yield* until(appended?.version ?? 0n)
    const elsewhere = yield* served(yield* scratchDatabase())
    const subscribed = Stream.runDrain(elsewhere.events.subscribe({ after: "start" }))
    yield* failsWith(subscribed, "EventStore.subscribe", "Unexpected", /listen names leads to another database/)
  })
)
