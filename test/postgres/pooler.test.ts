/** Behind a pooler: what works there, and how the library does where it can hear of nothing. */
import { assert, describe, it } from "@effect/vitest"
import { Context, type Duration, Effect, Queue, Redacted, Result, Schema } from "effect"
import { type EventStore, Projection, Spool, SpoolStore } from "effect-strata"
import type * as Postgres from "effect-strata/postgres"
import { scratchDatabase, waitForBackends } from "../support/database.ts"
import { mistakes, none } from "../support/histories.ts"
import * as Pgbouncer from "../support/Pgbouncer.ts"
import { event, follow, serveEvents, session, versionsIn } from "./events.harness.ts"
import { failsWith, type Settings, unique } from "./harness.ts"

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)

/** Stores behind a pooler, and stores that are not, on the same tables. */
const pooled = Effect.fnUntraced(function* (mode: Pgbouncer.Mode, client: Settings["client"] = {}) {
  const url = yield* scratchDatabase()
  const options = { schema: "public" }
  const direct = yield* serveEvents({ url, options })
  const poolerUrl = yield* Pgbouncer.make(mode, url)
  return { url, poolerUrl, direct, behind: yield* serveEvents({ url: poolerUrl, options, client }) }
})

type Pooled = Effect.Success<ReturnType<typeof pooled>>

/** Writers on both sides, some of whose transactions are rolled back: subscribers see every event, once and in order. */
const losesNothing = Effect.fnUntraced(function* ({ behind, direct, url }: Pooled) {
  const followers = [yield* follow(behind, { after: "start" }), yield* follow(direct, { after: "start" })]
  const write = ({ events, withTransaction }: Pooled["behind"], writer: number) =>
    Effect.forEach(numbers(30), (round) =>
      Effect.gen(function* () {
        yield* events.append(event(`aggregate ${writer}`))
        yield* events.loadByAggregate(`aggregate ${writer}`)
        if (round % 5 === 0) return yield* Effect.fail("rolled back")
        return yield* events.append([event(`aggregate ${writer}`), event("all")])
      }).pipe(
        withTransaction,
        Effect.catchIf(
          (error) => error === "rolled back",
          () => Effect.void
        )
      )
    )
  yield* Effect.forEach(numbers(12), (writer) => write(writer % 2 === 0 ? behind : direct, writer), {
    concurrency: "unbounded"
  })
  // No later append wakes the subscribers: behind the pooler they find the last event only by looking.
  const [last] = yield* direct.events.append(event("last"))
  for (const { until } of followers) yield* until(last?.version ?? 0n)
  const stored = yield* versionsIn("public.events", "true", url)
  assert.lengthOf(stored, 12 * 24 * 3 + 1)
  for (const { seen } of followers) assert.deepStrictEqual(mistakes(seen, stored), none)
})

/** Workers on both sides claim all that is there: each message goes to one of them. */
const claimsOnce = Effect.fnUntraced(function* ({ behind, direct }: Pooled) {
  const spool = ({ context }: Pooled["behind"]) => Context.get(context, SpoolStore.SpoolStore)
  const ids = numbers(300).map((index) => `message ${index}`)
  yield* spool(behind).storeMany(ids.map((id) => ({ id, queue: "mail", payload: id })))
  const claimed: Array<string> = []
  const work = Effect.fnUntraced(function* (served: Pooled["behind"], worker: number) {
    const { claim, settle } = spool(served)
    while (true) {
      const messages = yield* claim({ queue: "mail", limit: 7, lease: "1 minute", owner: `worker ${worker}` })
      if (messages.length === 0) return
      const outcomes = messages.map((message) =>
        Object.assign({ outcome: "done" as const }, SpoolStore.leaseOf(message, `worker ${worker}`))
      )
      assert.deepStrictEqual(yield* settle(outcomes), [])
      claimed.push(...messages.map(({ id }) => id))
    }
  })
  yield* Effect.forEach(numbers(8), (worker) => work(worker % 2 === 0 ? behind : direct, worker), {
    concurrency: "unbounded"
  })
  assert.deepStrictEqual(claimed.toSorted(), ids.toSorted())
})

const behindPooler = (name: string, body: Effect.Effect<unknown, unknown, never>) =>
  it.live(name, ({ skip }) =>
    Pgbouncer.noPgbouncer === undefined ? body : Effect.sync(() => skip(Pgbouncer.noPgbouncer))
  )

describe("a pooler in transaction mode", () => {
  behindPooler(
    "loses no event and claims nothing twice, and says once that it has to look",
    Effect.gen(function* () {
      const stores = yield* pooled("transaction", { prepare: false })
      yield* losesNothing(stores)
      yield* claimsOnce(stores)
      const { behind, direct } = stores
      while (behind.logged.length === 0) yield* Effect.sleep(50)
      const late = yield* follow(behind, { after: "start" })
      const [another] = yield* direct.events.append(event("another"))
      yield* late.until(another?.version ?? 0n)
      assert.lengthOf(behind.logged, 1)
      assert.match(behind.logged[0] ?? "", /^notifications do not arrive .*pooler in transaction mode.*once a second/)
      assert.deepStrictEqual(direct.logged, [])
    }).pipe(Effect.scoped)
  )

  behindPooler(
    "has workers that have nothing to do look for messages",
    Effect.gen(function* () {
      const { behind, direct } = yield* pooled("transaction", { prepare: false })
      const begun = yield* Queue.unbounded<number>()
      const mails = Spool.make({ name: "mails", payload: Schema.Number })
      yield* mails
        .run((mail) => Queue.offer(begun, mail))
        .pipe(Effect.provideContext(behind.context), behind.watched, Effect.forkScoped)
      for (const number of numbers(8)) {
        // By then the worker has nothing to do, and has asked the store how long that will last.
        yield* Effect.sleep("500 millis")
        yield* Effect.provideContext(mails.enqueue(number), direct.context)
        assert.strictEqual(yield* Queue.take(begun), number)
      }
      while (behind.logged.length === 0) yield* Effect.sleep(50)
      assert.match(behind.logged[0] ?? "", /events and messages are found by looking/)
    }).pipe(Effect.scoped)
  )

  behindPooler(
    "has projections obey orders, and those who wait for them see how far they are",
    Effect.gen(function* () {
      const { behind, direct } = yield* pooled("transaction", { prepare: false })
      const handled: Array<string> = []
      const handler = ({ aggregateId }: EventStore.StoredEvent) => Effect.sync(() => handled.push(aggregateId))
      yield* Projection.run(Projection.make({ name: "orders", handler })).pipe(
        Effect.provideContext(behind.context),
        behind.watched,
        Effect.forkScoped
      )
      const append = Effect.fnUntraced(function* (aggregateId: string) {
        const [appended] = yield* direct.events.append(event(aggregateId))
        return appended?.version ?? 0n
      })
      const waits = (version: bigint, limit: Duration.Input) =>
        Effect.result(Effect.provideContext(Projection.awaitVersion("orders", version, limit), behind.context))
      const order = <E>(given: Effect.Effect<void, E, Projection.Services>) =>
        Effect.provideContext(given, direct.context)
      assert.isTrue(Result.isSuccess(yield* waits(yield* append("a"), "4 minutes")))
      yield* order(Projection.pause("orders"))
      const later = yield* append("b")
      assert.isTrue(Result.isFailure(yield* waits(later, "2 seconds")))
      yield* order(Projection.resume("orders"))
      assert.isTrue(Result.isSuccess(yield* waits(later, "4 minutes")))
      assert.deepStrictEqual(handled, ["a", "b"])
    }).pipe(Effect.scoped)
  )

  behindPooler(
    "is no hindrance to a connection that listens beside it",
    Effect.gen(function* () {
      const { direct, poolerUrl, url } = yield* pooled("transaction")
      const applicationName = yield* unique
      const served = (options: Postgres.Options) =>
        serveEvents({ url: poolerUrl, client: { prepare: false }, options: { schema: "public", ...options } })
      const listening = yield* served({ listen: { url: Redacted.make(url), applicationName } })
      const { until } = yield* follow(listening, { after: "start" })
      const deaf = yield* served({})
      yield* follow(deaf, { after: "start" })
      // Each layer finds out by itself, the second one later.
      while (deaf.logged.length === 0) yield* Effect.sleep(50)
      const [last] = yield* direct.events.append(event("last"))
      yield* until(last?.version ?? 0n)
      assert.deepStrictEqual(listening.logged, [])
      assert.lengthOf(yield* waitForBackends(applicationName, (all) => all.length === 1, url), 1)
    }).pipe(Effect.scoped)
  )

  behindPooler(
    "says what to do where statements were prepared on another connection",
    Effect.gen(function* () {
      const { behind, poolerUrl } = yield* pooled("transaction", { maxConnections: 1 })
      const load = behind.withTransaction(behind.events.loadByAggregate("a"))
      yield* load
      // Another client takes the connection of the server that knows the statement.
      const other = yield* session(poolerUrl)
      yield* other("BEGIN")
      const says = /prepared statement ".*" (does not exist|already exists); .* build the PgClient with prepare: false/
      yield* failsWith(load, "EventStore.loadByAggregate", "Unexpected", says)
      yield* other("ROLLBACK")
    }).pipe(Effect.scoped)
  )
})

describe("a pooler in session mode", () => {
  behindPooler(
    "is like the server itself",
    Effect.gen(function* () {
      const stores = yield* pooled("session")
      yield* losesNothing(stores)
      yield* claimsOnce(stores)
      assert.deepStrictEqual(stores.behind.logged, [])
    }).pipe(Effect.scoped)
  )
})
