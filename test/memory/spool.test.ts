/** What time does to a spool, by a clock that tests control. */
import { assert, it } from "@effect/vitest"
import {
  Duration,
  Effect,
  Fiber,
  Latch,
  Layer,
  Logger,
  Metric,
  Option,
  Queue,
  Schedule,
  Schema,
  type Scope
} from "effect"
import { Health, OffsetStore, Spool, SpoolStore, StoreError, Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { TestClock } from "effect/testing"

const Payload = Schema.String

/** A test on a database of its own. */
const test = <A, E>(
  name: string,
  effect: Effect.Effect<A, E, Memory.Stores | Memory.MemoryDatabase.MemoryDatabase | Scope.Scope>
) => it.effect(name, () => Effect.scoped(Effect.provide(effect, Layer.fresh(Memory.layer))))

const shown = (delays: ReadonlyArray<Duration.Duration>) => delays.map((delay) => Duration.format(delay))

it.effect("the default policy begins with 15 minutes, doubles, and never exceeds a day, jitter included", () =>
  Effect.gen(function* () {
    assert.deepStrictEqual(shown(yield* Spool.preview(Spool.backoff())), [
      "15m",
      "30m",
      "1h",
      "2h",
      "4h",
      "8h",
      "16h",
      "1d",
      "1d",
      "1d"
    ])
    assert.deepStrictEqual(shown(yield* Spool.preview(Spool.fixed("5 minutes"), 3)), ["5m", "5m", "5m"])
    assert.deepStrictEqual(shown(yield* Spool.preview(Schedule.recurs(2))), ["0", "0"])
  })
)

const failing = <Policies extends string = never>(policies?: Readonly<Record<Policies, Spool.Policy>>) =>
  Spool.make({ name: "failing", payload: Payload, maxAttempts: 4, ...(policies === undefined ? {} : { policies }) })

/** Runs a worker whose handler fails. Returns a queue of the times of its attempts, in minutes. */
const watch = (spool: Spool.Spool<string>) =>
  Effect.gen(function* () {
    const attempts = yield* Queue.unbounded<number>()
    const handler = () =>
      Effect.gen(function* () {
        yield* Queue.offer(
          attempts,
          Duration.toMinutes(Duration.millis(yield* Effect.clockWith((clock) => clock.currentTimeMillis)))
        )
        return yield* Effect.fail(new Error("no"))
      })
    yield* Effect.forkScoped(spool.run(handler))
    return attempts
  })

test(
  "a message is tried again after the delays of its policy",
  Effect.gen(function* () {
    const spool = failing({ default: Spool.fixed("5 minutes"), slow: Schedule.exponential("1 hour") })
    yield* spool.enqueue("a")
    yield* spool.enqueue("b", { policy: "slow", delay: "1 minute" })
    const attempts = yield* watch(spool)
    yield* TestClock.adjust("10 hours")
    const made = yield* Queue.takeAll(attempts)
    assert.deepStrictEqual(
      made.map(Math.round).toSorted((a, b) => a - b),
      [0, 1, 5, 10, 15, 61, 181, 421]
    )
    const { counts } = yield* spool.stats
    assert.strictEqual(counts.bounce, 2)
  })
)

test(
  "jitter keeps retries apart",
  Effect.gen(function* () {
    const spool = failing()
    yield* spool.enqueueAll(Array.from({ length: 20 }, (_, n) => ({ payload: `${n}` })))
    const attempts = yield* watch(spool)
    yield* TestClock.adjust("19 minutes")
    const retries = (yield* Queue.takeAll(attempts)).filter((minute) => minute > 0)
    assert.strictEqual(retries.length, 20)
    assert.isAbove(new Set(retries).size, 10)
    assert.isTrue(retries.every((minute) => minute >= 12 && minute <= 18.1))
  })
)

test(
  "the id of a sender stays taken for a day after the delivery, and then a worker forgets it",
  Effect.gen(function* () {
    const store = yield* SpoolStore.SpoolStore
    const spool = Spool.make({ name: "mails", payload: Payload })
    const handled = yield* Queue.unbounded<string>()
    yield* Effect.forkScoped(spool.run((text) => Queue.offer(handled, text)))
    yield* spool.enqueue("a", { id: "1" })
    assert.strictEqual(yield* Queue.take(handled), "a")
    yield* TestClock.adjust("23 hours")
    assert.strictEqual(yield* spool.enqueue("a", { id: "1" }), "1")
    assert.strictEqual((yield* Effect.flip(spool.enqueue("b", { id: "1" })))._tag, "IdConflict")
    yield* TestClock.adjust("70 minutes")
    assert.strictEqual(yield* store.forgetIds(), 0)
    yield* spool.enqueue("b", { id: "1" })
    assert.strictEqual(yield* Queue.take(handled), "b")
  })
)

test(
  "an unknown policy is the default, and is warned of once",
  Effect.gen(function* () {
    const logged: Array<string> = []
    const logger = Logger.make(({ message }) => void logged.push(String(message)))
    const spool = failing({ default: Spool.fixed("5 minutes") })
    // Such a message comes of another program, or of another version of this one.
    const other = failing({ "unheard of": Spool.fixed("1 hour") })
    yield* other.enqueueAll(["a", "b"].map((payload) => ({ payload, policy: "unheard of" })))
    const attempts = yield* Effect.provide(watch(spool), Logger.layer([logger]))
    yield* TestClock.adjust("11 minutes")
    assert.deepStrictEqual((yield* Queue.takeAll(attempts)).map(Math.round), [0, 0, 5, 5, 10, 10])
    assert.deepStrictEqual(
      logged.filter((message) => message.includes("policy")),
      [`queue "failing" has no policy "unheard of": its messages use the default`]
    )
  })
)

test(
  "leases are renewed while a handler runs, and it is interrupted when the store is gone for longer than a lease",
  Effect.gen(function* () {
    const { failNext } = yield* Memory.MemoryDatabase.MemoryDatabase
    const store = yield* SpoolStore.SpoolStore
    const spool = failing()
    const id = yield* spool.enqueue("a")
    const events = yield* Queue.unbounded<string>()
    yield* Effect.forkScoped(
      spool.run(
        () =>
          Effect.andThen(Queue.offer(events, "begun"), Effect.never).pipe(
            Effect.onInterrupt(() => Queue.offer(events, "interrupted"))
          ),
        // With a timeout, a failure of this test would wait for a handler that never ends, by a clock that stands still.
        { shutdownTimeout: 0 }
      )
    )
    assert.strictEqual(yield* Queue.take(events), "begun")
    yield* TestClock.adjust("10 minutes")
    assert.deepStrictEqual(yield* store.recover(), [])
    assert.strictEqual((yield* store.getMeta({ queue: spool.name, id })).attempts, 1)
    yield* failNext(new StoreError.Unavailable({ message: "gone" }), { times: 1000 })
    yield* TestClock.adjust("41 seconds")
    assert.strictEqual(yield* Queue.take(events), "interrupted")
  })
)

/** Two workers with leases of 30 seconds and room for one message, whose handler takes five minutes: which one gets it. */
const deliveries = Effect.gen(function* () {
  const spool = failing({ default: Spool.fixed(0) })
  const begun: Array<string> = []
  const ended: Array<string> = []
  const work = (worker: string) =>
    Effect.forkScoped(
      spool.run(
        () =>
          Effect.sync(() => begun.push(worker)).pipe(
            Effect.andThen(Effect.sleep("5 minutes")),
            Effect.andThen(Effect.sync(() => ended.push(worker)))
          ),
        { concurrency: 1, buffer: 0, lease: "30 seconds", shutdownTimeout: 0 }
      )
    )
  yield* work("first")
  yield* spool.enqueue("a")
  yield* TestClock.adjust("1 second")
  assert.deepStrictEqual(begun, ["first"])
  yield* work("second")
  // Second by second, so that both workers see each of them.
  yield* Effect.repeat(TestClock.adjust("1 second"), { times: 310 })
  const { counts } = yield* spool.stats
  return { begun, ended, left: Object.values(counts).reduce((sum, count) => sum + count, 0) }
})

test(
  "a handler that runs for several leases keeps its message: no other worker gets it",
  Effect.gen(function* () {
    assert.deepStrictEqual(yield* deliveries, { begun: ["first"], ended: ["first"], left: 0 })
  })
)

test(
  "a message whose lease is not renewed goes to another worker while the first one still has it",
  Effect.gen(function* () {
    const store = yield* SpoolStore.SpoolStore
    const forgetful = SpoolStore.SpoolStore.of({ ...store, heartbeat: () => Effect.succeed([]) })
    const { begun } = yield* Effect.provideService(deliveries, SpoolStore.SpoolStore, forgetful)
    assert.deepStrictEqual(begun.slice(0, 2), ["first", "second"])
  })
)

test(
  "a message that a worker claims again before it could settle it does not end the worker",
  Effect.gen(function* () {
    const store = yield* SpoolStore.SpoolStore
    const settling = yield* Latch.make()
    const free = yield* Latch.make()
    const slow = SpoolStore.SpoolStore.of({
      ...store,
      trySettle: (outcomes) => settling.open.pipe(Effect.andThen(free.await), Effect.andThen(store.trySettle(outcomes)))
    })
    const spool = failing()
    const handled = yield* Queue.unbounded<string>()
    const worker = yield* spool
      .run((text) => Queue.offer(handled, text))
      .pipe(Effect.provideService(SpoolStore.SpoolStore, slow), Effect.forkScoped)
    yield* spool.enqueue("first")
    assert.strictEqual(yield* Queue.take(handled), "first")
    yield* settling.await
    const id = yield* spool.enqueue("again")
    assert.strictEqual(yield* Queue.take(handled), "again")
    yield* TestClock.adjust("1 second")
    yield* store.moveToState({ queue: spool.name, id }, "active", "incoming")
    assert.strictEqual(yield* Queue.take(handled), "again")
    yield* TestClock.adjust("1 second")
    yield* free.open
    yield* TestClock.adjust("1 second")
    assert.isUndefined(worker.pollUnsafe())
    const { counts } = yield* spool.stats
    assert.isTrue(Object.values(counts).every((count) => count === 0))
  })
)

test(
  "an idle worker asks the store no more than twice a minute",
  Effect.gen(function* () {
    const spool = failing()
    const operations = Effect.gen(function* () {
      let count = 0
      for (const metric of yield* Metric.snapshot) {
        if (metric.id === "strata_operations" && metric.type === "Counter") count += Number(metric.state.count)
      }
      return count
    })
    yield* spool.enqueue("later", { delay: "10 days" })
    const worker = yield* Effect.forkScoped(spool.run(() => Effect.void))
    yield* TestClock.adjust("1 minute")
    const before = yield* operations
    yield* TestClock.adjust("100 minutes")
    const asked = (yield* operations) - before
    assert.isAtLeast(asked, 50)
    assert.isAtMost(asked, 200)
    yield* Fiber.interrupt(worker)
  }).pipe(
    Effect.provideService(Metric.MetricRegistry, new Map()),
    // The gauges are no worker's: `health.test.ts` counts how often they are fed.
    Effect.provideService(Health.GaugeInterval, Duration.infinity)
  )
)

test(
  "a worker counts its attempts, its claims and the messages of its queue in metrics",
  Effect.gen(function* () {
    const spool = Spool.make({
      name: "watched",
      payload: Payload,
      maxAttempts: 2,
      policies: { default: Spool.fixed(0) }
    })
    yield* spool.enqueueAll([{ payload: "good" }, { payload: "bad" }, { payload: "later", delay: "1 day" }])
    yield* Effect.forkScoped(spool.run((text) => (text === "bad" ? Effect.fail("no") : Effect.void)))
    yield* Effect.repeat(TestClock.adjust("1 second"), { times: 4 })
    yield* spool.stats
    const found = new Map<string, unknown>()
    for (const { attributes, id, state } of yield* Metric.snapshot) {
      const { outcome = "", queue, state: of = "" } = { ...attributes }
      if (queue === "watched") found.set(`${id} ${outcome}${of}`, "count" in state ? Number(state.count) : state)
    }
    assert.strictEqual(found.get("strata_spool_attempts delivered"), 1)
    assert.strictEqual(found.get("strata_spool_attempts failed"), 1)
    assert.strictEqual(found.get("strata_spool_attempts bounced"), 1)
    assert.strictEqual(found.get("strata_spool_claim_latency "), 3)
    assert.deepInclude(found.get("strata_spool_depth bounce"), { value: 1 })
    assert.deepInclude(found.get("strata_spool_depth deferred"), { value: 1 })
    assert.isTrue(found.has("strata_spool_oldest_ready_seconds "))
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
)

test(
  "settlements in transactions lock messages in the order of their ids: two of the same messages never form a circle",
  Effect.gen(function* () {
    const store = yield* SpoolStore.SpoolStore
    const { waiting } = yield* Memory.MemoryDatabase.MemoryDatabase
    const { withTransaction } = yield* Transactor.Transactor
    const ids = ["a", "b", "c"]
    yield* store.storeMany(ids.map((id) => ({ id })))
    yield* store.claim({ limit: 3, lease: "1 minute", owner: "o" })
    const outcomes = ids.map((id) => ({ outcome: "done" as const, id, owner: "o", attempt: 1 }))
    // A transaction holds the message in the middle until both settlements wait for it.
    const held = yield* Latch.make()
    const release = yield* Latch.make()
    const holder = yield* Effect.forkChild(
      withTransaction(
        store.updateMeta("b", { lastError: "held" }).pipe(Effect.andThen(held.open), Effect.andThen(release.await))
      )
    )
    yield* held.await
    const fibers = yield* Effect.forEach([outcomes, outcomes.toReversed()], (some) =>
      Effect.forkChild(withTransaction(store.settle(some)))
    )
    while ((yield* waiting) !== 2) yield* Effect.yieldNow
    yield* release.open
    yield* Fiber.join(holder)
    const lost = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
    assert.deepStrictEqual(lost.map((all) => all.length).toSorted(), [0, 3])
  })
)

test(
  "a transactional worker whose message stays locked rolls back, and handles it again once it can be settled",
  Effect.gen(function* () {
    const store = yield* SpoolStore.SpoolStore
    const offsets = yield* OffsetStore.OffsetStore
    const { withTransaction } = yield* Transactor.Transactor
    const spool = failing()
    const begun = yield* Queue.unbounded<number>()
    const go = yield* Queue.unbounded<void>()
    const value = Effect.map(offsets.getCurrentOffset({ projectionName: "p", shardNumber: 0 }), (offset) =>
      Option.getOrUndefined(Option.map(offset, ({ value }) => value))
    )
    yield* Effect.forkScoped(
      spool.run(
        (_, { attempts }) =>
          Effect.gen(function* () {
            yield* Queue.offer(begun, attempts)
            yield* Queue.take(go)
            const written = (yield* value) ?? 0n
            yield* offsets.writeOffset({ projectionName: "p", shardNumber: 0, value: written + 1n })
          }),
        { transactional: true }
      )
    )
    const id = yield* spool.enqueue("locked")
    assert.strictEqual(yield* Queue.take(begun), 1)
    const held = yield* Latch.make()
    const release = yield* Latch.make()
    const holder = yield* Effect.forkChild(
      withTransaction(
        store
          .updateMeta({ queue: spool.name, id }, { priority: 1 })
          .pipe(Effect.andThen(held.open), Effect.andThen(release.await))
      )
    )
    yield* held.await
    yield* Queue.offer(go, undefined)
    yield* Effect.repeat(TestClock.adjust("1 second"), { times: 10 })
    assert.isUndefined(yield* value)
    assert.strictEqual((yield* store.getMeta({ queue: spool.name, id })).state, "active")
    yield* release.open
    yield* Fiber.join(holder)
    yield* Effect.repeat(TestClock.adjust("1 second"), { times: 3 })
    // The attempt that was rolled back does not count.
    assert.strictEqual(yield* Queue.take(begun), 1)
    yield* Queue.offer(go, undefined)
    yield* TestClock.adjust("1 second")
    assert.strictEqual(yield* value, 1n)
    assert.strictEqual((yield* Effect.flip(store.getMeta({ queue: spool.name, id })))._tag, "MessageNotFound")
  })
)
