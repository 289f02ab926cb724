/** What the network and the server can do to a subscription: it goes on, and no subscriber loses an event or gets one twice. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Schedule } from "effect"
import { postgresUrl, waitForBackends } from "../support/database.ts"
import { mistakes, none } from "../support/histories.ts"
import * as Proxy from "../support/Proxy.ts"
import { event, follow, serveEvents, type ServedEvents, versionsIn } from "./events.harness.ts"
import { query, type Settings } from "./harness.ts"
import { assertComplete, onServer, status } from "./subscriptions.harness.ts"

/** Appends, whatever happens, until the scope closes or it is told to stop. Says which appends were acknowledged. */
const writing = Effect.fnUntraced(function* ({ events }: Pick<ServedEvents, "events">, writers = 4) {
  const acknowledged: Array<bigint> = []
  const stopping = yield* Deferred.make<void>()
  const writer = Effect.fnUntraced(function* (number: number) {
    while (!(yield* Deferred.isDone(stopping))) {
      const stored = yield* Effect.catch(events.append(event(`aggregate ${number}`)), () =>
        Effect.as(Effect.sleep(5), [])
      )
      acknowledged.push(...stored.map(({ version }) => version))
      yield* Effect.sleep(1)
    }
  })
  const numbers = Array.from({ length: writers }, (_, number) => number)
  const fiber = yield* Effect.forkScoped(Effect.forEach(numbers, writer, { concurrency: "unbounded" }))
  return { acknowledged, stop: Effect.andThen(Deferred.succeed(stopping, undefined), Fiber.join(fiber)) }
})

/** A store behind a proxy, and one that is not, for the same table. */
const proxied = Effect.fnUntraced(function* (settings: Settings = {}) {
  const { hostname, port } = new URL(postgresUrl)
  const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
  const direct = yield* serveEvents()
  const options = { ...settings.options, schema: direct.schema }
  return { proxy, direct, behind: yield* serveEvents({ ...settings, options, url: proxy.url(postgresUrl) }) }
})

/** Opens all connections of the pool, so that they lie there idle. */
const fill = ({ sql }: ServedEvents, maxConnections: number) =>
  Effect.forEach(
    Array.from({ length: maxConnections }, () => sql`SELECT pg_sleep(0.1)`),
    (statement) => statement,
    { concurrency: "unbounded" }
  )

describe("connections that are killed", () => {
  it.live("every 100 ms for 10 s, under writes", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { stop, acknowledged } = yield* writing(served)
      const followers = [
        yield* follow(served, { after: "start" }),
        // This one reads the table most of the time: more events come than its pages hold.
        yield* follow(served, { after: "start", batchSize: 1 }),
        yield* follow(served, { after: "start", eventTypes: ["Happened"] })
      ]
      let killed = 0
      const kill = Effect.map(
        query(
          `SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity WHERE application_name = '${served.applicationName}'`
        ),
        ([row]) => {
          killed += Number(row?.[0])
        }
      )
      let rounds = 0
      // It goes on for longer where connections take long to come back.
      const isEnough = () => ++rounds > 100 && killed > 100
      yield* Effect.repeat(kill, { schedule: Schedule.spaced("100 millis"), until: isEnough })
      yield* stop
      const stored = yield* assertComplete(served, followers)
      assert.strictEqual(mistakes(acknowledged, stored).invented, 0)
    })
  )
})

// These run at the same time, as they mostly wait: a dead network takes seconds to notice.
describe.concurrent("a network that is silently dead", () => {
  it.live("for a while and then goes on", () =>
    Effect.gen(function* () {
      const { behind, direct, proxy } = yield* proxied()
      const follower = yield* follow(behind, { after: "start" })
      const { stop } = yield* writing(direct)
      yield* follower.until(50n)
      // The first is too short to be noticed, the second long enough for the connection to be given up and opened again.
      for (const duration of [300, 6500]) {
        yield* proxy.stall(true)
        yield* Effect.sleep(duration)
        yield* proxy.stall(false)
        const latest = yield* direct.events.latestVersion
        yield* follower.until(latest)
      }
      yield* stop
      yield* assertComplete(direct, [follower])
      yield* status(behind, "connected")
    })
  )

  it.live("for ever on the connections there are, is found out, and new ones are opened", () =>
    Effect.gen(function* () {
      const { behind, direct, proxy } = yield* proxied()
      const follower = yield* follow(behind, { after: "start" })
      const { stop } = yield* writing(direct)
      yield* follower.until(50n)
      yield* proxy.blackhole
      yield* status(behind, "reconnecting")
      yield* status(behind, "connected")
      yield* follower.until(yield* direct.events.latestVersion)
      yield* stop
      yield* assertComplete(direct, [follower])
    })
  )

  it.live(
    "is found out by subscribers that catch up through the pool, too, however many of its connections are dead",
    () =>
      Effect.gen(function* () {
        const maxConnections = 2
        const { behind, direct, proxy } = yield* proxied({ client: { maxConnections } })
        yield* direct.events.append(Array.from({ length: 3000 }, (_, number) => event(`aggregate ${number}`)))
        const follower = yield* follow(behind, { after: "start", batchSize: 1 })
        yield* fill(behind, maxConnections)
        yield* follower.until(100n)
        yield* proxy.blackhole
        assert.isBelow(follower.seen.length, 3000)
        yield* assertComplete(direct, [follower])
      }),
    { timeout: 600_000 }
  )

  it.live("from the moment on when the connection begins to listen", () =>
    Effect.gen(function* () {
      const { behind, direct, proxy } = yield* proxied()
      yield* proxy.delay(400)
      const follower = yield* follow(behind, { after: "start" })
      // Its answer is on the way.
      yield* waitForBackends(behind.applicationName, (all) => all.some((backend) => backend.query.startsWith("LISTEN")))
      yield* proxy.blackhole
      yield* proxy.delay(0)
      yield* assertComplete(direct, [follower])
      yield* status(behind, "connected")
    })
  )
})

// An answer may take any time: the bytes that arrive show that the server is there.
describe.concurrent("a line on which one event takes longer than a silence that means death", () => {
  const bytesPerSecond = 1_000_000
  const large = { ...event("large"), data: "x".repeat(8 * bytesPerSecond) }

  it.live("is not given up, neither by the reader of the end of the log nor by one that catches up", () =>
    Effect.gen(function* () {
      const { behind, direct, proxy } = yield* proxied()
      yield* direct.events.append(large)
      yield* proxy.throttle(bytesPerSecond)
      const follower = yield* follow(behind, { after: "start" })
      yield* follower.until(1n)
      yield* direct.events.append([large, event("next")])
      const given = Effect.andThen(status(behind, "reconnecting"), Effect.die("the connection was given up"))
      yield* Effect.raceFirst(follower.until(3n), given)
      yield* proxy.throttle(Number.POSITIVE_INFINITY)
      yield* assertComplete(direct, [follower])
    })
  )

  it.live("and dies in the middle of it, is found out", () =>
    Effect.gen(function* () {
      const { behind, direct, proxy } = yield* proxied()
      const follower = yield* follow(behind, { after: "start" })
      const [first] = yield* direct.events.append(event("first"))
      yield* follower.until(first?.version ?? 0n)
      // The large event takes 16 seconds.
      yield* proxy.throttle(bytesPerSecond / 2)
      yield* direct.events.append(large)
      // By then the connection has outlived the silence that means death, because bytes arrive.
      yield* Effect.sleep("6 seconds")
      assert.deepStrictEqual(follower.seen, [1n])
      yield* proxy.blackhole
      yield* proxy.throttle(Number.POSITIVE_INFINITY)
      yield* assertComplete(direct, [follower])
    })
  )
})

describe("a server", () => {
  it.live.each([
    ["by default", {}],
    ["soon", { reconnect: Schedule.spaced("50 millis") }]
  ] as const)("that stops and crashes under writes, reached again %s", ([, options]) =>
    Effect.gen(function* () {
      const { served, server } = yield* onServer(options)
      const followers = [
        yield* follow(served, { after: "start" }),
        yield* follow(served, { after: "start", batchSize: 1, aggregateIds: ["aggregate 1", "last"] })
      ] as const
      const { acknowledged, stop } = yield* writing(served)
      for (const outage of [server.stop("immediate"), server.kill, server.stop("fast")]) {
        yield* followers[0].until((yield* served.events.latestVersion) + 50n)
        yield* outage
        yield* status(served, "reconnecting")
        yield* server.start
        const before = followers[0].seen.at(-1) ?? 0n
        yield* followers[0].until(before + 1n)
      }
      yield* stop
      const [last] = yield* served.events.append(event("last"))
      for (const { until } of followers) yield* until(last?.version ?? 0n)
      const stored = yield* versionsIn(served.table, "true", server.url)
      const of1 = yield* versionsIn(served.table, "aggregate_id IN ('aggregate 1', 'last')", server.url)
      assert.deepStrictEqual(mistakes(followers[0].seen, stored), none)
      assert.deepStrictEqual(mistakes(followers[1].seen, of1), none)
      assert.strictEqual(mistakes(acknowledged, stored).invented, 0)
    })
  )
})
