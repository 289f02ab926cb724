/**
 * A whole program, with much that can go wrong in it, and every metric, span and attribute that it emits: each is described in
 * `src/internal/Telemetry.ts`, and each that is described there is emitted.
 */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Logger, Metric, Schedule, Schema, Stream, Tracer } from "effect"
import {
  DurableStateStore,
  EventStore,
  Health,
  OffsetStore,
  Projection,
  Spool,
  SpoolStore,
  StoreError,
  Supervisor
} from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import * as Telemetry from "../../src/internal/Telemetry.ts"
import { layerSchema } from "../support/database.ts"

class Placed extends Schema.TaggedClass<Placed>()("Placed", { total: Schema.Int }) {}
const Orders = EventStore.typed({ events: [Placed] })
const Mails = Spool.make({ name: "mails", payload: Schema.String, policies: { default: Schedule.forever } })

/** Waits until a series of this metric is there, with a value that is right if it is a gauge. */
const hasMetric = (name: string, isRight: (value: number, attributes: Telemetry.Attributes) => boolean = () => true) =>
  Effect.flatMap(Metric.snapshot, (all) =>
    all.some(
      (metric) =>
        metric.id === name &&
        isRight(metric.type === "Gauge" ? Number(metric.state.value) : 0, { ...metric.attributes })
    )
      ? Effect.void
      : Effect.fail("not yet")
  ).pipe(Effect.retry(Schedule.spaced("20 millis")))

/** A projection handles an order, after its handler has failed, and has lost against another transaction. */
const projecting = Effect.gen(function* () {
  const orders = yield* Orders
  const [placed] = yield* orders.append("order-1", new Placed({ total: 1 }))
  const deadlock = new StoreError.StoreError({
    store: "Sales",
    operation: "add",
    reason: new StoreError.Contention({ message: "a deadlock" })
  })
  const errors = [deadlock, new Error("the disk is full")]
  const sales = Projection.make({
    name: "sales",
    events: Orders,
    on: {
      Placed: () =>
        Effect.suspend(() => {
          const error = errors.pop()
          return error === undefined ? Effect.void : Effect.fail(error)
        })
    }
  })
  const isThere = Projection.awaitVersion("sales", placed?.version ?? 0n, "4 minutes")
  yield* Effect.raceFirst(Projection.run(sales), Effect.andThen(isThere, hasMetric("strata_projection_failed")))
})

/** A message is delivered, one fails, one bounces, and one is taken away from its worker. */
const sending = Effect.gen(function* () {
  const spool = yield* SpoolStore.SpoolStore
  yield* Mails.enqueueAll([
    { payload: "delivered" },
    { payload: "failed" },
    { payload: "bounced", maxAttempts: 1 },
    { id: "lost", payload: "lost" }
  ])
  const isHandled = yield* Deferred.make<void>()
  const worker = Mails.run(
    (mail) => {
      if (mail === "delivered") return Effect.void
      const stays = Effect.andThen(Deferred.succeed(isHandled, undefined), Effect.never)
      return mail === "lost" ? stays : Effect.fail("refused")
    },
    { lease: "1 second" }
  )
  const taken = Effect.andThen(
    Deferred.await(isHandled),
    spool.moveToState({ queue: "mails", id: "lost" }, ["active"], "hold")
  )
  const seen = [
    ...["delivered", "failed", "bounced"].map((outcome) =>
      hasMetric("strata_spool_attempts", (_, attributes) => attributes["outcome"] === outcome)
    ),
    hasMetric("strata_spool_leases_lost"),
    hasMetric("strata_spool_leases")
  ]
  yield* Effect.raceFirst(worker, Effect.all([taken, ...seen], { concurrency: "unbounded" }))
})

/** A transaction of another program holds up a subscriber. */
const holding = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const orders = yield* Orders
  const sql = yield* PgClient.PgClient
  const after = yield* events.latestVersion
  const seen = yield* Effect.forkScoped(Stream.runDrain(Stream.take(events.subscribe({ after }), 2)))
  const isOpen = yield* Deferred.make<void>()
  const end = yield* Deferred.make<void>()
  const other = Effect.gen(function* () {
    yield* sql`INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('other', 'order-2', 'Placed', '{"total":2}')`
    yield* Deferred.succeed(isOpen, undefined)
    yield* Deferred.await(end)
  })
  yield* Effect.forkScoped(sql.withTransaction(other))
  yield* Deferred.await(isOpen)
  yield* orders.append("order-3", new Placed({ total: 3 }))
  yield* hasMetric("strata_events_held_seconds", (seconds) => seconds > 0)
  yield* Deferred.succeed(end, undefined)
  yield* Fiber.join(seen)
}).pipe(Effect.scoped)

/** A state, offsets, and work that is watched over. */
const working = Effect.gen(function* () {
  const offsets = yield* OffsetStore.OffsetStore
  const states = yield* DurableStateStore.DurableStateStore
  yield* offsets.writeOffset({ projectionName: "own", shardNumber: 0, value: 1n })
  yield* states.ping
  const supervisor = yield* Supervisor.make
  yield* supervisor.run("a job", Effect.never)
  yield* hasMetric("strata_work_running")
}).pipe(Effect.scoped)

const namesOf = (attributes: Iterable<string>) => [...attributes].toSorted()

/** The description of a span by its name: that of an operation names a method of the service. */
const described = (name: string): Telemetry.SpanReference | undefined => {
  const own = Object.entries<Telemetry.SpanReference>(Telemetry.spans).find(([known]) => known === name)
  const isOperation = /^(?:EventStore|OffsetStore|DurableStateStore|SpoolStore|Postgres)\.[a-z]\w+$/.test(name)
  return own?.[1] ?? (isOperation ? Telemetry.spans["Store.operation"] : undefined)
}

it.live("each metric, span and attribute is described as it is emitted, and each that is described is emitted", () =>
  Effect.gen(function* () {
    const spans: Array<Tracer.NativeSpan> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    const program = Effect.andThen(
      Effect.all([Effect.withSpan(projecting, "test"), sending, working]),
      Effect.andThen(holding, Metric.snapshot)
    )
    const emitted = yield* program.pipe(
      Effect.provide(Layer.provideMerge(Postgres.layer(), layerSchema())),
      Effect.provideService(Health.GaugeInterval, "50 millis"),
      Effect.provide(Logger.layer([])),
      Effect.withTracer(tracer),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )

    const metrics = new Map(
      emitted.map(({ attributes, description, id, type }) => [
        id,
        { type, description, attributes: namesOf(Object.keys(attributes ?? {})) }
      ])
    )
    const types = { counter: "Counter", gauge: "Gauge", timer: "Histogram" } as const
    const expected = Object.entries<Telemetry.MetricReference>(Telemetry.metrics).map(
      ([name, { attributes, description, kind }]) =>
        [name, { type: types[kind], description, attributes: namesOf(Object.keys(attributes)) }] as const
    )
    assert.deepStrictEqual(Object.fromEntries(metrics), Object.fromEntries(expected))

    // The spans of the test and of the driver are not ours.
    const own = spans.filter(({ attributes, name }) => name !== "test" && !attributes.has("db.system.name"))
    for (const { attributes, name } of own) {
      assert.deepStrictEqual(namesOf(attributes.keys()), namesOf(Object.keys(described(name)?.attributes ?? {})), name)
    }
    const names = new Set(own.map(({ name }) => name))
    for (const name of Object.keys(Telemetry.spans)) {
      const isThere = name === "Store.operation" ? names.has("EventStore.append") : names.has(name)
      assert.isTrue(isThere, name)
    }
  })
)
