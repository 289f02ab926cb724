/** The figures of subscriptions: what they cost those who append, and how soon they give what was appended. */
import { Clock, Deferred, Effect, Fiber, Option, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import { PgClient } from "@effect/sql-pg"
import { fibers, type Figure, type Latency } from "./harness.ts"

const event = (aggregate: number) => ({
  aggregateId: `account-${aggregate}`,
  eventType: "Deposited",
  data: { amount: 100, currency: "EUR", note: "a payment like any other" }
})

const append = (fiber: number) => EventStore.EventStore.use((events) => events.append(event(fiber)))

/** The same appends, with and without subscribers. */
const subscribers = (count: number): Figure => ({
  name: `append/with-${count}-subscribers`,
  operations: 3_000,
  unit: "events/s",
  otherName: "same without them",
  conditions: "1 fiber",
  sides: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const load = fibers(1, (fiber) => Effect.provideService(append(fiber), EventStore.EventStore, events))
    const following = (operations: number) =>
      Effect.scoped(
        Effect.gen(function* () {
          const after = yield* events.latestVersion
          const followers = yield* Effect.forEach(Array.from({ length: count }), () =>
            events.subscribe({ after }).pipe(Stream.take(operations), Stream.runCount, Effect.forkScoped)
          )
          yield* events.listener.changes.pipe(
            Stream.filter((status) => status === "connected"),
            Stream.take(1),
            Stream.runDrain
          )
          yield* load(operations)
          return followers
        })
      )
    return { strata: following, other: load }
  })
})

/** Appends at a steady rate, 15% of them rolled back, beside a long transaction that writes elsewhere. */
const latency: Latency = {
  name: "subscribe/latency",
  otherName: "append itself",
  conditions: "from the call of append, 1,000 transactions/s of 16 fibers, 15% rolled back, a long foreign transaction",
  round: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const { withTransaction } = yield* Transactor.Transactor
    const sql = yield* PgClient.PgClient
    const [count, writers, rate] = [3_000, 16, 1_000]
    const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)
    const called = new Map<string, number>()
    const other: Array<number> = []
    const strata: Array<number> = []
    const expected = count - Math.floor(count * 0.15)

    yield* sql`CREATE TABLE IF NOT EXISTS foreign_writes (n INT)`
    const end = yield* Deferred.make<void>()
    const foreign = yield* sql`INSERT INTO foreign_writes VALUES (1)`.pipe(
      Effect.andThen(Deferred.await(end)),
      sql.withTransaction,
      Effect.forkScoped
    )
    const subscriber = yield* events.subscribe({ after: yield* events.latestVersion }).pipe(
      Stream.take(expected),
      Stream.runForEach(({ id }) =>
        Effect.map(now, (time) => {
          strata.push(time - (called.get(id) ?? Number.NaN))
        })
      ),
      Effect.forkScoped
    )
    yield* events.listener.changes.pipe(
      Stream.filter((status) => status === "connected"),
      Stream.take(1),
      Stream.runDrain
    )
    const start = yield* now
    let rolledBack = 0
    const write = Effect.fnUntraced(function* (index: number) {
      const wait = start + (index * 1000) / rate - (yield* now)
      if (wait > 1) yield* Effect.sleep(wait)
      const id = crypto.randomUUID()
      const before = yield* now
      called.set(id, before)
      // Every seventh or so, and in all exactly as many as are not expected.
      const fails = rolledBack < count - expected && index % 6 === 5
      if (fails) rolledBack++
      const stored = events.append({ ...event(index % 100), id })
      yield* Effect.option(withTransaction(fails ? Effect.andThen(stored, Effect.fail("no")) : stored))
      if (!fails) other.push((yield* now) - before)
    })
    yield* Effect.forEach(
      Array.from({ length: count }, (_, index) => index),
      write,
      { concurrency: writers }
    )
    const joined = yield* Effect.timeoutOption(Fiber.join(subscriber), "30 seconds")
    if (Option.isNone(joined)) yield* Effect.fail(new Error(`${strata.length} of ${expected} events have come`))
    yield* Deferred.succeed(end, undefined)
    yield* Fiber.join(foreign)
    return { strata, other }
  })
}

export const figures: ReadonlyArray<Figure> = [subscribers(10)]

export const latencies: ReadonlyArray<Latency> = [latency]
