/**
 * Connections that are silently dead: nothing passes on those that are there, and new ones are fine. What waits for an answer
 * is told, with what is known of it, and no backend stays behind. What takes long is not taken for dead.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Latch, Schedule, Scope, Stream } from "effect"
import { Projection, StoreError } from "effect-strata"
import { SqlError } from "effect/sql"
import { type Backend, backends, postgresUrl, scratchDatabase, waitForBackends } from "../support/database.ts"
import * as Pgbouncer from "../support/Pgbouncer.ts"
import * as Proxy from "../support/Proxy.ts"
import { event, follow, serveEvents, session, versionsIn } from "./events.harness.ts"
import { execute, failsWith, open, query, type Settings, unique } from "./harness.ts"
import { status } from "./subscriptions.harness.ts"

const maxConnections = 4

/** A proxy before the server of the tests, or before another one. */
const proxyTo = (url: string) => {
  const { hostname, port } = new URL(url)
  return Proxy.make({ host: hostname, port: Number(port || 5432) })
}

/** Stores behind a proxy, and others, for the same tables, that are not. The former have used all connections of their pool. */
const proxied = Effect.fnUntraced(function* (settings: Settings = {}, near: string = postgresUrl, far: string = near) {
  const proxy = yield* proxyTo(far)
  const direct = yield* serveEvents({ url: near })
  const options = { ...settings.options, schema: direct.schema }
  const client = { maxConnections, ...settings.client }
  const behind = yield* serveEvents({ ...settings, client, options, url: proxy.url(far) })
  const { events, withTransaction } = behind
  const transactions = yield* Effect.replicateEffect(open(withTransaction, events.latestVersion), maxConnections)
  yield* Effect.forEach(transactions, ({ commit }) => commit)
  const pids = new Set((yield* backends(behind.applicationName)).map(({ pid }) => pid))
  /** Waits until none of the backends is left that were there in the beginning. */
  const ended = Effect.map(
    waitForBackends(behind.applicationName, (all) => !all.some(({ pid }) => pids.has(pid))),
    (all) =>
      assert.deepStrictEqual(
        all.filter(({ pid }) => pids.has(pid)),
        []
      )
  )
  return { behind, direct, proxy, ended }
})

/** Stores behind a proxy, on a pool whose connections only the application has used. */
const unnoticed = Effect.fnUntraced(function* () {
  const proxy = yield* proxyTo(postgresUrl)
  const direct = yield* serveEvents()
  const options = { schema: direct.schema }
  const served = yield* serveEvents({ client: { maxConnections }, options, url: proxy.url(postgresUrl) })
  // Those on which the layer has looked at the tables.
  yield* execute([
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '${served.applicationName}'`
  ])
  yield* waitForBackends(served.applicationName, ({ length }) => length === 0)
  yield* Effect.scoped(Effect.replicateEffect(served.sql.reserve, maxConnections))
  return { direct, proxy, served }
})

/** Waits until something is on its way on connections that are silently dead. */
const untilSwallowed = ({ swallowed }: Proxy.Proxy) =>
  Effect.repeat(swallowed, { schedule: Schedule.spaced("10 millis"), until: (count) => count > 0 })

/** Calls again while the error says that it may help. */
const persistently = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.retry(effect, {
    schedule: Schedule.spaced("10 millis"),
    while: (error) => error instanceof StoreError.StoreError && error.isRetryable
  })

const isActive = (text: string) => (all: ReadonlyArray<{ readonly state: string; readonly query: string }>) =>
  all.some(({ query, state }) => state === "active" && query.includes(text))

/** Locks the table against appends until it is told to end. */
const locking = Effect.fnUntraced(function* (table: string, mode: string, url: string = postgresUrl) {
  const say = yield* session(url)
  yield* say("BEGIN")
  yield* say(`LOCK TABLE ${table} IN ${mode} MODE`)
  return say("COMMIT")
})

/** Waits until a statement of the application has waited for something for so many seconds, by the server's clock. */
const untilWaiting = (applicationName: string, event: "Lock" | "ClientWrite", seconds: number) =>
  query(`SELECT max(clock_timestamp() - query_start) > '${seconds} seconds' FROM pg_stat_activity
    WHERE application_name = '${applicationName}' AND '${event}' IN (wait_event_type, wait_event)`).pipe(
    Effect.repeat({ schedule: Schedule.spaced("100 millis"), until: ([row]) => row?.[0] === true }),
    Effect.asVoid
  )

const untilLocked = (applicationName: string, seconds: number) => untilWaiting(applicationName, "Lock", seconds)

describe.concurrent("connections that are silently dead", () => {
  it.live("end an append that the server has not got, and the next one goes through", () =>
    Effect.gen(function* () {
      const { behind, direct, ended, proxy } = yield* proxied()
      yield* proxy.blackhole
      const says = /silently dead: its backend \d+ \(now ended\) had not got the statement/
      yield* failsWith(behind.events.append(event("a")), "EventStore.append", "Unavailable", says)
      // The others of the pool are found out together with it, without a statement of the application.
      yield* ended
      const [stored] = yield* behind.events.append(event("a"))
      assert.deepStrictEqual(yield* versionsIn(direct.table), [stored?.version ?? 0n])
    })
  )

  it.live("end an append that the server has done, which is then unknown", () =>
    Effect.gen(function* () {
      const { behind, direct, ended, proxy } = yield* proxied()
      const unlock = yield* locking(direct.table, "EXCLUSIVE")
      const fiber = yield* Effect.forkChild(
        failsWith(
          behind.events.append(event("a")),
          "EventStore.append",
          "Unavailable",
          /silently dead: its backend \d+ \(now ended\) waited for the next statement, .* it is unknown whether/
        )
      )
      yield* untilLocked(behind.applicationName, 0)
      yield* proxy.blackhole
      yield* unlock
      yield* Fiber.join(fiber)
      yield* ended
      assert.lengthOf(yield* versionsIn(direct.table), 1)
    })
  )

  it.live("end BEGIN on connections that only the application has used, and the next transaction goes through", () =>
    Effect.gen(function* () {
      const { direct, proxy, served } = yield* unnoticed()
      yield* proxy.blackhole
      const appending = served.withTransaction(served.events.append(event("a")))
      const says = /silently dead: its backend \d+ \(now ended\) had not got the statement/
      yield* failsWith(appending, "Transactor.withTransaction", "Unavailable", says)
      const [stored] = yield* persistently(appending)
      assert.deepStrictEqual(yield* versionsIn(direct.table), [stored?.version ?? 0n])
    })
  )

  it.live("do not keep the pool from closing while BEGIN is on its way", () =>
    Effect.gen(function* () {
      const own = yield* Scope.fork(yield* Effect.scope)
      const { proxy, served } = yield* Scope.provide(unnoticed(), own)
      yield* proxy.blackhole
      const fiber = yield* Effect.forkChild(served.withTransaction(served.events.append(event("a"))))
      yield* untilSwallowed(proxy)
      yield* Fiber.interrupt(fiber)
      yield* Scope.close(own, Exit.void)
    })
  )

  it.live("do not keep the pool from closing while a notification is on its way", () =>
    Effect.gen(function* () {
      const own = yield* Scope.fork(yield* Effect.scope)
      const { behind, proxy } = yield* Scope.provide(proxied(), own)
      const { events, sql, withTransaction } = behind
      yield* withTransaction(Effect.andThen(events.append(event("a")), sql.afterCommit(proxy.blackhole)))
      yield* untilSwallowed(proxy)
      yield* Scope.close(own, Exit.void)
    })
  )

  it.live("end an append whose backend is gone", () =>
    Effect.gen(function* () {
      const { behind, direct, ended, proxy } = yield* proxied()
      const unlock = yield* locking(direct.table, "EXCLUSIVE")
      const fiber = yield* Effect.forkChild(
        failsWith(behind.events.append(event("a")), "EventStore.append", "Unavailable", /its backend \d+ is gone/)
      )
      yield* untilLocked(behind.applicationName, 0)
      yield* proxy.blackhole
      yield* execute([
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = '${behind.applicationName}' AND state = 'active'`
      ])
      yield* Fiber.join(fiber)
      yield* unlock
      yield* ended
      assert.deepStrictEqual(yield* versionsIn(direct.table), [])
    })
  )

  it.live("end a COMMIT, of which it is unknown whether it took effect", () =>
    Effect.gen(function* () {
      const { behind, direct, ended, proxy } = yield* proxied()
      const lock = `hashtext('${direct.schema}')`
      yield* execute([
        `CREATE FUNCTION ${direct.schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN PERFORM pg_advisory_xact_lock_shared(${lock}); RETURN NULL; END $$`,
        `CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON ${direct.table}
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ${direct.schema}.wait()`
      ])
      const say = yield* session()
      yield* say("BEGIN")
      yield* say(`SELECT pg_advisory_xact_lock(${lock})`)
      const after: Array<string> = []
      const fiber = yield* behind.events.append(event("a")).pipe(
        behind.withTransaction,
        Effect.tap(() => Effect.sync(() => void after.push("committed"))),
        (effect) => failsWith(effect, "Transactor.withTransaction", "Unavailable", /it is unknown whether/),
        Effect.forkChild
      )
      yield* waitForBackends(behind.applicationName, isActive("COMMIT"))
      yield* proxy.blackhole
      yield* say("COMMIT")
      yield* Fiber.join(fiber)
      yield* ended
      assert.lengthOf(yield* versionsIn(direct.table), 1)
      assert.deepStrictEqual(after, [])
    })
  )

  it.live.each(["the stores'", "the application's"])("end the application's statements in %s transaction", (whose) =>
    Effect.gen(function* () {
      const { behind, direct, ended, proxy } = yield* proxied()
      const { events, sql } = behind
      const withTransaction = whose === "the stores'" ? behind.withTransaction : sql.withTransaction
      const exits: Array<string> = []
      yield* Effect.exit(
        withTransaction(
          Effect.gen(function* () {
            yield* events.append(event("a"))
            yield* proxy.blackhole
            const error = yield* Effect.flip(sql`SELECT 1`)
            assert.isTrue(SqlError.isSqlError(error) && StoreError.isReason(error.reason.cause))
            exits.push(String(error.reason.cause))
            return yield* error
          })
        )
      )
      assert.match(exits.join(), /silently dead/)
      yield* ended
      assert.deepStrictEqual(yield* versionsIn(direct.table), [])
    })
  )

  it.live("do not stop a projection", () =>
    Effect.gen(function* () {
      const { behind, direct, ended, proxy } = yield* proxied()
      const handled = yield* Latch.make()
      const seen = new Set<bigint>()
      const projection = Projection.make({
        name: yield* unique,
        shards: 2,
        handler: ({ version }) =>
          Effect.andThen(
            Effect.sync(() => seen.add(version)),
            handled.open
          )
      })
      yield* Effect.forkScoped(Effect.provide(Projection.run(projection), behind.context))
      const until = (version: bigint) =>
        Effect.whileLoop({
          while: () => !seen.has(version),
          body: () => Effect.andThen(handled.close, handled.await),
          step: () => {}
        })
      const appendTo = (aggregateId: string) =>
        Effect.map(direct.events.append(event(aggregateId)), ([stored]) => stored?.version ?? 0n)
      const ids = Array.from({ length: 8 }, (_, number) => `aggregate ${number}`)
      for (const id of ids) yield* until(yield* appendTo(id))
      yield* proxy.blackhole
      for (const id of ids) yield* until(yield* appendTo(id))
      yield* ended
    })
  )

  it.live("together with all new ones end what waits after a limit, and what works later is whole", () =>
    Effect.gen(function* () {
      const { behind, ended, proxy } = yield* proxied()
      yield* proxy.blackhole
      yield* proxy.stall(true)
      const says = /no answer came on a connection for 10 seconds, and no other connection reaches the server/
      yield* failsWith(behind.events.append(event("a")), "EventStore.append", "Unavailable", says)
      yield* proxy.stall(false)
      yield* persistently(behind.events.append(event("a")))
      yield* ended
    })
  )
})

describe.concurrent("what takes long", () => {
  it.live("is waited for: an append that waits for a lock", () =>
    Effect.gen(function* () {
      const { behind, direct } = yield* proxied()
      const before = yield* backends(behind.applicationName)
      const unlock = yield* locking(direct.table, "EXCLUSIVE")
      const fiber = yield* Effect.forkChild(behind.events.append(event("a")))
      yield* untilLocked(behind.applicationName, 12)
      yield* unlock
      yield* Fiber.join(fiber)
      const pids = yield* waitForBackends(behind.applicationName, (all) => all.length === before.length)
      assert.deepStrictEqual(
        pids.map(({ pid }) => pid),
        before.map(({ pid }) => pid)
      )
    })
  )

  it.live("is waited for: an append that takes long to get to the server", () =>
    Effect.gen(function* () {
      const { behind, proxy } = yield* proxied()
      const bytesPerSecond = 1_000_000
      yield* proxy.throttle(bytesPerSecond)
      yield* behind.events.append({ ...event("large"), data: "x".repeat(9 * bytesPerSecond) })
    })
  )

  it.live("is waited for: an application that reads its own rows slowly", () =>
    Effect.gen(function* () {
      const { applicationName, events, sql, withTransaction } = yield* serveEvents()
      const rows = 20_000
      const reading = Effect.andThen(
        events.latestVersion,
        Stream.runFoldEffect(
          sql`SELECT repeat('x', 1000) AS text FROM generate_series(1, ${rows})`.stream,
          () => 0,
          // The server waits until the first row has been dealt with.
          (count) => Effect.as(count === 0 ? untilWaiting(applicationName, "ClientWrite", 8) : Effect.void, count + 1)
        )
      )
      assert.strictEqual(yield* withTransaction(reading), rows)
    })
  )

  it.live("is waited for: the lock of a table, by subscribers, whose backends stay as many as they were", () =>
    Effect.gen(function* () {
      const direct = yield* serveEvents()
      const processes = yield* Effect.replicateEffect(serveEvents({ options: { schema: direct.schema } }), 3)
      const followers = yield* Effect.forEach(processes, (served) => follow(served, { after: "start" }))
      const untilAll = (version: bigint) => Effect.forEach(followers, ({ until }) => until(version))
      const append = Effect.map(direct.events.append(event("a")), ([stored]) => stored?.version ?? 0n)
      yield* untilAll(yield* append)
      const pidsOf = (all: ReadonlyArray<Backend>) => all.map(({ pid }) => pid).join()
      const before = yield* Effect.forEach(processes, ({ applicationName }) =>
        // The pool closes nothing so soon, and the watch asks nothing while answers come.
        Effect.map(backends(applicationName), (all) => ({ applicationName, pids: pidsOf(all) }))
      )
      /** There may be one more for a moment, on which the server is asked what the others do. */
      const assertSame = Effect.forEach(before, ({ applicationName, pids }) =>
        Effect.map(
          waitForBackends(applicationName, (all) => pidsOf(all) === pids),
          (all) => assert.strictEqual(pidsOf(all), pids)
        )
      )
      const unlock = yield* locking(direct.table, "ACCESS EXCLUSIVE")
      const lost = Effect.forEach(processes, (served) => status(served, "reconnecting"), { concurrency: "unbounded" })
      const losing = yield* Effect.forkChild(lost)
      for (const { applicationName } of processes) yield* untilLocked(applicationName, 12)
      yield* assertSame
      assert.isUndefined(losing.pollUnsafe())
      yield* unlock
      yield* untilAll(yield* append)
      yield* assertSame
    })
  )

  it.live("takes its backend with it when nobody waits for it any more: a subscriber of a locked table", () =>
    Effect.gen(function* () {
      const direct = yield* serveEvents()
      const served = yield* serveEvents({ options: { schema: direct.schema }, client: { minConnections: 0 } })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const follower = yield* follow(served, { after: "start" })
          const [stored] = yield* direct.events.append(event("a"))
          yield* follower.until(stored?.version ?? 0n)
          yield* locking(direct.table, "ACCESS EXCLUSIVE").pipe(Effect.forkScoped)
          yield* untilLocked(served.applicationName, 0)
          yield* Fiber.interrupt(follower.fiber)
          const waiting = yield* waitForBackends(served.applicationName, (all) => !isActive("")(all))
          assert.isFalse(isActive("")(waiting))
        })
      )
    })
  )
})

describe("behind a pooler", () => {
  it.live("what waits for a lock is waited for, and what is dead is found out once all is quiet", ({ skip }) =>
    Effect.gen(function* () {
      if (Pgbouncer.noPgbouncer !== undefined) return yield* Effect.sync(() => skip(Pgbouncer.noPgbouncer))
      const url = yield* scratchDatabase()
      const pooler = yield* Pgbouncer.make("transaction", url)
      const { behind, direct, proxy } = yield* proxied({ client: { prepare: false } }, url, pooler)
      const unlock = yield* locking(direct.table, "EXCLUSIVE", url)
      const fiber = yield* Effect.forkChild(behind.events.append(event("a")))
      yield* untilLocked(behind.applicationName, 12)
      yield* unlock
      const [stored] = yield* Fiber.join(fiber)
      yield* proxy.blackhole
      yield* failsWith(
        behind.events.append(event("a")),
        "EventStore.append",
        "Unavailable",
        /silently dead: .* unknown/
      )
      const [next] = yield* persistently(behind.events.append(event("a")))
      assert.deepStrictEqual(yield* versionsIn(direct.table, "true", url), [stored?.version, next?.version])
    })
  )
})
