/**
 * The first incident, by the clock of the test: a projection hangs for 17 minutes, another one parks and skips, a message
 * bounces, and nothing tells by itself. Gauges and `Health.check` look.
 */
import { assert, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Latch, Layer, Metric, Schedule, Schema, type Scope } from "effect"
import { EventStore, Health, Projection, Spool, StoreError, Supervisor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { TestClock } from "effect/testing"

/** The values of the series with this name, by one of their attributes. */
const valuesOf = (id: string, by: string) =>
  Effect.map(Metric.snapshot, (all) =>
    Object.fromEntries(
      all.flatMap((metric) =>
        metric.id === id && metric.type === "Gauge" ? [[metric.attributes?.[by] ?? "", Number(metric.state.value)]] : []
      )
    )
  )

/** A test with metrics and a database of its own. */
const test = <A, E>(
  name: string,
  effect: Effect.Effect<A, E, Memory.Stores | Memory.MemoryDatabase.MemoryDatabase | Scope.Scope>
) =>
  it.effect(name, () =>
    effect.pipe(
      Effect.provide(Layer.fresh(Memory.layer)),
      Effect.provideService(Metric.MetricRegistry, new Map()),
      Effect.scoped
    )
  )

const event = (aggregateId: string) => ({ aggregateId, eventType: "Happened", data: 1 })

const rare = { heartbeat: "30 seconds" } as const
const fails = { ...rare, retry: Schedule.recurs(0) } as const

const mails = Spool.make({ name: "mails", payload: Schema.String, maxAttempts: 1 })
const idle = Spool.make({ name: "idle", payload: Schema.String })

/** Begins what the incident is about. */
const begin = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  yield* events.append([event("a"), event("b")])
  const hung = Projection.make({ name: "hung", ...rare, handler: () => Effect.never })
  const parks = Projection.make({ name: "parks", ...fails, onFailure: "park", handler: () => Effect.fail("no") })
  const skips = Projection.make({ name: "skips", ...fails, onFailure: "skip", handler: () => Effect.fail("no") })
  const stops = Projection.make({ name: "stops", ...fails, handler: () => Effect.fail("the disk is full") })
  const runs = yield* Effect.forEach([hung, parks, skips, stops], (projection) =>
    Effect.forkScoped(Projection.run(projection))
  )
  yield* mails.enqueue("bounces")
  yield* idle.enqueue("waits")
  const worker = yield* Effect.forkScoped(mails.run(() => Effect.fail("refused")))
  return [...runs, worker]
})

/** How often an operation was called. */
const callsOf = (operation: string) =>
  Effect.map(Metric.snapshot, (all) =>
    all.reduce(
      (sum, metric) =>
        metric.id === "strata_operations" && metric.type === "Counter" && metric.attributes?.["operation"] === operation
          ? sum + Number(metric.state.count)
          : sum,
      0
    )
  )

test(
  "is seen by the gauges, though what hangs tells nothing",
  Effect.gen(function* () {
    yield* begin
    yield* TestClock.adjust("17 minutes")
    assert.deepStrictEqual(yield* valuesOf("strata_projection_lag_versions", "projection"), {
      hung: 2,
      parks: 0,
      skips: 0,
      stops: 2
    })
    const lag = yield* valuesOf("strata_projection_lag_seconds", "projection")
    assert.deepStrictEqual([lag["hung"], lag["parks"]], [17 * 60, 0])
    assert.deepInclude(yield* valuesOf("strata_projection_parked", "projection"), { hung: 0, parks: 2 })
    assert.deepInclude(yield* valuesOf("strata_projection_skipped", "projection"), { hung: 0, skips: 2 })
    assert.deepInclude(yield* valuesOf("strata_projection_failed", "projection"), { hung: 0, stops: 1 })
    assert.deepStrictEqual(yield* valuesOf("strata_spool_oldest_ready_seconds", "queue"), { mails: 0, idle: 17 * 60 })
    const depths = (yield* Metric.snapshot).flatMap(({ attributes, id, state }) =>
      id === "strata_spool_depth" && "value" in state && state.value !== 0
        ? [`${state.value} ${attributes?.["state"]} in ${attributes?.["queue"]}`]
        : []
    )
    assert.deepStrictEqual(depths.toSorted(), ["1 bounce in mails", "1 incoming in idle"])
  })
)

test(
  "is seen once for a process, at the interval that is set, and only while something runs",
  Effect.gen(function* () {
    const runs = yield* begin
    yield* TestClock.adjust("1 minute")
    const [before, beforeQueues] = [yield* callsOf("latestVersion"), yield* callsOf("overview")]
    yield* TestClock.adjust("10 minutes")
    assert.deepStrictEqual(
      [(yield* callsOf("latestVersion")) - before, (yield* callsOf("overview")) - beforeQueues],
      [10, 10]
    )
    yield* Effect.forEach(runs, (run) => Fiber.interrupt(run), { discard: true })
    const after = yield* callsOf("latestVersion")
    yield* TestClock.adjust("10 minutes")
    assert.strictEqual(yield* callsOf("latestVersion"), after)
  }).pipe(Effect.provideService(Health.GaugeInterval, "1 minute"))
)

test(
  "is not looked for where the interval is infinite",
  Effect.gen(function* () {
    yield* begin
    yield* TestClock.adjust("10 minutes")
    assert.strictEqual(yield* callsOf("overview"), 0)
  }).pipe(Effect.provideService(Health.GaugeInterval, Duration.infinity))
)

test(
  "shows what a worker has claimed, and nothing once that is over",
  Effect.gen(function* () {
    const end = yield* Latch.make()
    const slow = Spool.make({ name: "slow", payload: Schema.String })
    yield* slow.enqueue("takes long")
    yield* Effect.forkScoped(slow.run(() => end.await))
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(yield* valuesOf("strata_spool_leases", "queue"), { slow: 1 })
    yield* end.open
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(yield* valuesOf("strata_spool_leases", "queue"), { slow: 0 })
  })
)

/** The problems by their names, with the parts that say where. */
const told = ({ problems }: Health.Report) => problems.map(({ _tag, message }) => `${_tag}: ${message}`).toSorted()

test(
  "is told by Health.check, with a remedy for each problem",
  Effect.gen(function* () {
    assert.isTrue((yield* Health.check()).isHealthy)
    yield* begin
    yield* TestClock.adjust("17 minutes")
    const report = yield* Health.check()
    assert.deepStrictEqual(told(report), [
      'AggregatesParked: projection "parks" has parked 2 aggregates',
      'MessagesBounced: 1 message of queue "mails" could not be delivered',
      'MessagesWaiting: a message of queue "idle" has waited for 17m',
      'ProjectionBehind: projection "hung" is 17m and 2 versions behind, in shard 0',
      'ProjectionBehind: projection "stops" is 17m and 2 versions behind, in shard 0',
      'ProjectionFailing: projection "stops" fails at version 1, in shard 0'
    ])
    assert.isTrue(report.problems.every(({ remedy }) => remedy !== ""))
    const remedyOf = (tag: string, name: string) =>
      report.problems.find(({ _tag, message }) => _tag === tag && message.includes(name))?.remedy
    assert.include(remedyOf("ProjectionBehind", "hung"), "its handler hangs")
    assert.include(remedyOf("MessagesBounced", "mails"), "strata spool list bounce --queue mails")
    const failing = report.problems.find((problem) => problem instanceof Health.ProjectionFailing)
    assert.include(failing?.error, "the disk is full")

    // What anybody may see has no errors of handlers in it.
    const json = JSON.stringify(report)
    assert.notInclude(json, "disk")
    assert.deepInclude(JSON.parse(json), { healthy: false })
    assert.deepInclude(JSON.parse(json).problems, {
      problem: "MessagesWaiting",
      message: 'a message of queue "idle" has waited for 17m',
      remedy: "start a worker, or more of them; a worker whose handlers hang needs a `timeout`"
    })
  })
)

test(
  "is judged by the limits that are given",
  Effect.gen(function* () {
    yield* begin
    yield* TestClock.adjust("17 minutes")
    const tagsOf = (limits: Health.Limits) =>
      Effect.map(Health.check(limits), ({ problems }) => [...new Set(problems.map(({ _tag }) => _tag))].toSorted())
    const lenient = { maxBehind: "1 hour", maxParked: 2, maxBounced: 1, maxWaiting: "1 hour" } as const
    assert.deepStrictEqual(yield* tagsOf(lenient), ["ProjectionFailing"])
    assert.deepStrictEqual(yield* tagsOf({ ...lenient, maxLag: 1 }), ["ProjectionBehind", "ProjectionFailing"])
    assert.deepStrictEqual(yield* tagsOf({ ...lenient, maxSkipped: 1 }), ["EventsSkipped", "ProjectionFailing"])
    assert.deepStrictEqual(yield* tagsOf({ ...lenient, maxBehind: "16 minutes" }), [
      "ProjectionBehind",
      "ProjectionFailing"
    ])
  })
)

test(
  "is told of a projection that is paused, and of one that no process runs, by what each needs",
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const run = (name: string) => Projection.run(Projection.make({ name, ...rare, handler: () => Effect.void }))
    const [paused, stopped] = [yield* Effect.forkScoped(run("paused")), yield* Effect.forkScoped(run("stopped"))]
    yield* TestClock.adjust("1 second")
    yield* Projection.pause("paused")
    yield* Fiber.interrupt(stopped)
    yield* TestClock.adjust("1 second")
    yield* events.append(event("a"))
    yield* TestClock.adjust("17 minutes")
    const { problems } = yield* Health.check()
    assert.deepStrictEqual(problems.map(({ remedy }) => remedy).toSorted(), [
      "it is paused; run: strata projections resume paused",
      "no process runs it: start one"
    ])
    yield* Fiber.interrupt(paused)
  })
)

test(
  "is told of work that has ended in this process, though the process lives",
  Effect.gen(function* () {
    const supervisor = yield* Supervisor.make
    yield* supervisor.run("the import", Effect.fail("no such file"), { onEnd: "report" })
    yield* TestClock.adjust("1 second")
    const report = yield* Effect.provideService(Health.check(), Supervisor.Supervisor, supervisor)
    assert.deepStrictEqual(told(report), ["WorkEnded: the import has ended in this process"])
  })
)

test(
  "is told of a database that is gone, that has no tables, and that refuses",
  Effect.gen(function* () {
    const { failNext } = yield* Memory.MemoryDatabase.MemoryDatabase
    const reasons: ReadonlyArray<readonly [StoreError.Reason, expected: Array<string>]> = [
      [new StoreError.Unavailable({ message: "connection refused" }), ["DatabaseUnreachable: connection refused"]],
      [new StoreError.SchemaMissing({ message: "no such table" }), ["SchemaMissing: no such table"]],
      [new StoreError.Unexpected({ message: "out of order" }), ["LookFailed: out of order"]]
    ]
    for (const [reason, expected] of reasons) {
      yield* failNext(reason)
      assert.deepStrictEqual(told(yield* Health.check()), expected)
    }
    assert.isTrue((yield* Health.check()).isHealthy)
  })
)
