/**
 * Waits for a server go by real time, whatever the test's clock does. `it.effect` gives the clock, also to the layers: each
 * test moves it by hours at once, and never by the time that it waits for.
 */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import {
  Clock,
  Context,
  Deferred,
  type Duration,
  Effect,
  Fiber,
  Layer,
  Queue,
  Redacted,
  Schedule,
  Schema,
  type Scope,
  Stream
} from "effect"
import { EventStore, OffsetStore, Spool, StoreError, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { TestClock } from "effect/testing"
import { withConnection } from "../support/connection.ts"
import { backends, layerSchema, postgresUrl, TestSchema } from "../support/database.ts"
import { uniqueName } from "../support/databases.ts"
import * as Proxy from "../support/Proxy.ts"

const event = (aggregateId: string) => ({ aggregateId, eventType: "Happened", data: 1 })

const append = (aggregateId: string) => EventStore.EventStore.use((events) => events.append(event(aggregateId)))

/** A test on a schema of its own, whose layers are built on the test's clock. */
const test = <A, E>(
  name: string,
  options: Postgres.Options & { readonly maxConnections?: number; readonly applicationName?: string },
  body: Effect.Effect<A, E, Postgres.Stores | TestSchema | Scope.Scope>
) => {
  const { applicationName, maxConnections = 5, ...own } = options
  const client = { maxConnections, ...(applicationName === undefined ? {} : { applicationName }) }
  it.effect(name, () =>
    Effect.provide(Effect.scoped(body), Layer.provideMerge(Postgres.layer(own), layerSchema(client)))
  )
}

/** Moves the test's clock by hours, again and again, while the effect runs. */
const whileHoursPass = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(
    effect,
    Effect.forever(
      Effect.andThen(
        TestClock.adjust("1 hour"),
        Effect.promise(() => new Promise(setImmediate))
      )
    )
  )

test(
  "the wait for a connection does not end because the test's clock moves",
  { maxConnections: 1 },
  Effect.gen(function* () {
    const { withTransaction } = yield* Transactor.Transactor
    const [taken, end] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
    const holder = yield* Effect.forkScoped(
      withTransaction(Effect.andThen(Deferred.succeed(taken, undefined), Deferred.await(end)))
    )
    yield* Deferred.await(taken)
    const waiting = [
      yield* Effect.forkScoped(append("a"), { startImmediately: true }),
      yield* Effect.forkScoped(withTransaction(append("b")), { startImmediately: true })
    ]
    for (let hours = 0; hours < 20; hours++) yield* TestClock.adjust("1 hour")
    assert.deepStrictEqual(
      waiting.map((fiber) => fiber.pollUnsafe()),
      [undefined, undefined]
    )
    yield* Deferred.succeed(end, undefined)
    yield* Fiber.join(holder)
    yield* Effect.forEach(waiting, (fiber) => Fiber.join(fiber))
  })
)

test(
  "the wait for a connection ends in time though the test's clock stands still",
  { maxConnections: 1, acquireTimeout: "200 millis" },
  Effect.gen(function* () {
    const { withTransaction } = yield* Transactor.Transactor
    const taken = yield* Deferred.make<void>()
    yield* Effect.forkScoped(withTransaction(Effect.andThen(Deferred.succeed(taken, undefined), Effect.never)))
    yield* Deferred.await(taken)
    for (const waiting of [append("a"), withTransaction(append("b"))]) {
      const error = yield* Effect.flip(waiting)
      assert.isTrue(error instanceof StoreError.StoreError && error.reason._tag === "Unavailable", String(error))
    }
  })
)

test(
  "a read waits for a transaction by real time: neither longer nor shorter",
  { settleTimeout: "300 millis" },
  Effect.gen(function* () {
    const { withTransaction } = yield* Transactor.Transactor
    const events = yield* EventStore.EventStore
    const [drawn, end] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
    const slow = yield* Effect.forkScoped(
      withTransaction(
        append("slow").pipe(Effect.tap(Deferred.succeed(drawn, undefined)), Effect.tap(Deferred.await(end)))
      )
    )
    yield* Deferred.await(drawn)
    yield* append("after")
    // The clock of the test stands still.
    assert.deepStrictEqual(yield* events.load(), [])
    yield* Deferred.succeed(end, undefined)
    yield* Fiber.join(slow)
    assert.strictEqual((yield* events.load()).length, 2)
  })
)

test(
  "a read does not give up because the test's clock moves",
  { settleTimeout: "10 minutes" },
  Effect.gen(function* () {
    const { withTransaction } = yield* Transactor.Transactor
    const events = yield* EventStore.EventStore
    const [drawn, end] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
    const slow = yield* Effect.forkScoped(
      withTransaction(
        append("slow").pipe(Effect.tap(Deferred.succeed(drawn, undefined)), Effect.tap(Deferred.await(end)))
      )
    )
    yield* Deferred.await(drawn)
    yield* append("after")
    const load = yield* Effect.forkScoped(events.load(), { startImmediately: true })
    for (let hours = 0; hours < 20; hours++) yield* TestClock.adjust("1 hour")
    yield* Deferred.succeed(end, undefined)
    assert.strictEqual((yield* Fiber.join(load)).length, 2)
    yield* Fiber.join(slow)
  })
)

const name = `clock ${crypto.randomUUID().slice(0, 8)}`

test(
  "a subscriber hears of events, and connects again after its connection was killed, while the test's clock stands still",
  { applicationName: name },
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const { name: schema } = yield* TestSchema
    const heard = yield* Deferred.make<void>()
    const versions = yield* events.subscribe({ after: "start" }).pipe(
      Stream.tap(() => Deferred.succeed(heard, undefined)),
      Stream.take(2),
      Stream.runCollect,
      Effect.forkScoped
    )
    yield* append("a")
    yield* Deferred.await(heard)
    const all = yield* backends(name)
    yield* withConnection(postgresUrl, (sql) =>
      Effect.forEach(all, ({ pid }) => sql`SELECT pg_terminate_backend(${pid})`, { discard: true })
    )
    // Another process appends.
    yield* withConnection(
      postgresUrl,
      (sql) => sql`INSERT INTO ${sql(schema)}.events (id, aggregate_id, event_type, data) VALUES ('b', 'b', 'T', '1')`
    )
    assert.strictEqual((yield* Fiber.join(versions)).length, 2)
  })
)

/** Stores by way of a proxy, whose listeners connect again as the schedule says. It tells of each attempt that has failed. */
const proxied = Effect.fnUntraced(function* (delay: Duration.Input) {
  const { hostname, port } = new URL(postgresUrl)
  const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
  const applicationName = yield* uniqueName
  const attempts = yield* Queue.unbounded<void>()
  const reconnect = Schedule.tap(Schedule.spaced(delay), () => Queue.offer(attempts, undefined))
  const client = layerSchema({ url: Redacted.make(proxy.url(postgresUrl)), applicationName, server: postgresUrl })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.layer({ reconnect }), client))
  /** What another process does, by a way of its own. */
  const elsewhere = <A, E>(effect: Effect.Effect<A, E, Postgres.Stores>) =>
    Effect.gen(function* () {
      const { name: schema } = Context.get(context, TestSchema)
      const pool = Postgres.layerClient({ url: Redacted.make(postgresUrl) })
      return yield* Effect.provide(effect, Layer.fresh(Layer.provide(Postgres.layer({ schema }), pool)))
    })
  /** Nobody can connect any more, and the connection that listens is killed, as all others are. */
  const outage = Effect.gen(function* () {
    yield* proxy.refuse(true)
    const all = yield* backends(applicationName)
    yield* withConnection(postgresUrl, (sql) =>
      Effect.forEach(all, ({ pid }) => sql`SELECT pg_terminate_backend(${pid})`, { discard: true })
    )
  })
  return { attempts, elsewhere, outage, proxy, context }
})

it.effect("the schedule by which a listener connects again goes on while the test's clock stands still", () =>
  Effect.gen(function* () {
    const { attempts, context, elsewhere, outage, proxy } = yield* proxied("20 millis")
    const { changes } = Context.get(context, OffsetStore.OffsetStore)
    const { subscribe } = Context.get(context, EventStore.EventStore)
    const told = yield* Queue.unbounded<string>()
    yield* Effect.forkScoped(Stream.runForEach(changes, () => Queue.offer(told, "an offset")))
    assert.strictEqual(yield* Queue.take(told), "an offset")
    yield* outage
    for (let failed = 0; failed < 5; failed++) yield* Queue.take(attempts)
    yield* proxy.refuse(false)
    // It listens again, and what others notify arrives.
    assert.strictEqual(yield* Queue.take(told), "an offset")
    yield* elsewhere(
      OffsetStore.OffsetStore.use(({ writeOffset }) => writeOffset({ projectionName: "p", shardNumber: 0, value: 1n }))
    )
    assert.strictEqual(yield* Queue.take(told), "an offset")
    yield* Effect.forkScoped(
      Stream.runForEach(subscribe({ after: "start" }), ({ aggregateId }) => Queue.offer(told, aggregateId))
    )
    yield* elsewhere(append("a"))
    assert.strictEqual(yield* Queue.take(told), "a")
    assert.strictEqual(yield* Clock.currentTimeMillis, 0)
  }).pipe(Effect.scoped)
)

it.effect("the schedule by which a listener connects again does not run ahead because the test's clock moves", () =>
  Effect.gen(function* () {
    const { attempts, context, outage } = yield* proxied("10 minutes")
    const { changes } = Context.get(context, OffsetStore.OffsetStore)
    const listening = yield* Deferred.make<void>()
    yield* Effect.forkScoped(Stream.runForEach(changes, () => Deferred.succeed(listening, undefined)))
    yield* Deferred.await(listening)
    yield* outage
    yield* Queue.take(attempts)
    for (let hours = 0; hours < 20; hours++) yield* TestClock.adjust("1 hour")
    assert.strictEqual(yield* Queue.size(attempts), 0)
  }).pipe(Effect.scoped)
)

it.effect("a connection opens though hours of the test's clock pass meanwhile", () =>
  Effect.gen(function* () {
    assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    const schema = yield* uniqueName
    const url = Redacted.make(postgresUrl)
    const layer = Layer.provideMerge(Postgres.layer({ schema }), Postgres.layerClient({ url, minConnections: 0 }))
    yield* whileHoursPass(
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        yield* Effect.forEach(
          Array.from({ length: 10 }, (_, index) => `a${index}`),
          append,
          { concurrency: "unbounded" }
        )
        yield* sql`DROP SCHEMA ${sql(schema)} CASCADE`
      }).pipe(Effect.provide(layer))
    )
  })
)

test(
  "the due time of a message follows the server's clock",
  {},
  Effect.gen(function* () {
    const spool = Spool.make({ name: "mails", payload: Schema.String })
    const handled = yield* Deferred.make<string>()
    yield* spool.enqueue("later", { delay: "1 hour" })
    yield* spool.enqueue("soon", { delay: "1 second" })
    yield* Effect.forkScoped(spool.run((payload) => Deferred.succeed(handled, payload)))
    yield* TestClock.adjust("30 minutes")
    assert.strictEqual(yield* whileHoursPass(Deferred.await(handled)), "soon")
    assert.strictEqual((yield* spool.stats).counts.deferred, 1)
  })
)
