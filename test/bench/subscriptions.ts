/** The figures of subscriptions: what they cost appends, and how soon they give the events. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Fiber, Layer, Option, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { event } from "./events.ts"
import { fibers, type Figure, type Latency, now, steadily } from "./harness.ts"

const listening = (events: EventStore.EventStore["Service"]) =>
  events.listener.changes.pipe(
    Stream.filter((status) => status === "connected"),
    Stream.take(1),
    Stream.runDrain
  )

/**
 * The same appends with and without subscribers, until each subscriber has got all events. The subscribers are on tables of
 * their own: they exist for the whole figure, and have nothing to do while the other side appends.
 */
const appends = (count: number, operations: number, quick: number): Figure => ({
  name: `append/with-${count}-subscribers`,
  operations,
  quick,
  unit: "events/s",
  otherName: "same without them",
  conditions: "1 fiber, until each subscriber has got all",
  sides: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const tables = {
      events: `events_with_${count}`,
      offsets: `offsets_with_${count}`,
      spool: `spool_with_${count}`,
      messages: `messages_with_${count}`
    }
    const stores = yield* Layer.build(Layer.fresh(Postgres.layer({ tables })))
    const followed = Context.get(stores, EventStore.EventStore)
    const load = (store: typeof events) => fibers(1, (fiber) => store.append(event(fiber)))
    let missing = 0
    let done = yield* Deferred.make<void>()
    const got = Effect.suspend(() => (--missing === 0 ? Deferred.succeed(done, undefined) : Effect.void))
    yield* Effect.forEach(Array.from({ length: count }), () =>
      followed.subscribe({ after: "start" }).pipe(
        Stream.runForEach(() => got),
        Effect.forkScoped
      )
    )
    yield* listening(followed)
    return {
      strata: (operations: number) =>
        Effect.gen(function* () {
          missing = count * operations
          done = yield* Deferred.make<void>()
          yield* load(followed)(operations)
          yield* Deferred.await(done)
        }),
      other: load(events)
    }
  })
})

/**
 * Subscribers that begin now, note when they were given each event, and end at the event that `end` appends. Events come in
 * their order: an event that is missing by then never came.
 */
const followers = Effect.fnUntraced(function* (count: number, called: ReadonlyMap<string, number>) {
  const events = yield* EventStore.EventStore
  const times: Array<number> = []
  const [first, last] = [crypto.randomUUID(), crypto.randomUUID()]
  const after = yield* events.latestVersion
  const running = yield* Deferred.make<void>()
  let begun = 0
  const note = Effect.fnUntraced(function* ({ id }: EventStore.StoredEvent) {
    const before = called.get(id)
    if (before !== undefined) times.push((yield* now) - before)
    if (id === first && ++begun === count) yield* Deferred.succeed(running, undefined)
  })
  const fibers = yield* Effect.forEach(Array.from({ length: count }), () =>
    events.subscribe({ after }).pipe(
      Stream.takeUntil(({ id }) => id === last),
      Stream.runForEach(note),
      Effect.forkScoped
    )
  )
  yield* listening(events)
  yield* events.append({ ...event(0), id: first })
  yield* Deferred.await(running)
  const end = Effect.gen(function* () {
    yield* events.append({ ...event(0), id: last })
    const ended = yield* Effect.timeoutOption(Fiber.joinAll(fibers), "1 minute")
    if (Option.isNone(ended)) yield* Effect.fail(new Error("a subscriber has not come to the end"))
    return times
  })
  return { end }
})

/** Appends at a steady rate, 15% of them rolled back, beside a long transaction that writes elsewhere. */
const contended = (count: number): Latency => ({
  name: "subscribe/latency",
  otherName: "append itself",
  conditions: "from the call of append, 1,000 transactions/s of 16 fibers, 15% rolled back, a long foreign transaction",
  round: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const { withTransaction } = yield* Transactor.Transactor
    const sql = yield* PgClient.PgClient
    const called = new Map<string, number>()
    const other: Array<number> = []

    yield* sql`CREATE TABLE IF NOT EXISTS foreign_writes (n INT)`
    const release = yield* Deferred.make<void>()
    const foreign = yield* sql`INSERT INTO foreign_writes VALUES (1)`.pipe(
      Effect.andThen(Deferred.await(release)),
      sql.withTransaction,
      Effect.forkScoped
    )
    const { end } = yield* followers(1, called)
    yield* steadily(
      { count, rate: 1_000, writers: 16 },
      Effect.fnUntraced(function* (index) {
        const id = crypto.randomUUID()
        const before = yield* now
        called.set(id, before)
        const stored = events.append({ ...event(index % 100), id })
        // 3 of 20, and no two of them next to each other.
        const fails = index % 20 === 5 || index % 20 === 11 || index % 20 === 17
        yield* Effect.option(withTransaction(fails ? Effect.andThen(stored, Effect.fail("no")) : stored))
        if (!fails) other.push((yield* now) - before)
      })
    )
    const strata = yield* end
    yield* Deferred.succeed(release, undefined)
    yield* Fiber.join(foreign)
    return { strata, other }
  })
})

/** The time from an append until each of many subscribers has the event. */
const many = (copies: number, rate: number, seconds: number): Latency => ({
  name: `subscribe/${copies}`,
  otherName: "append itself",
  conditions: `from the call of append, ${rate} events/s of 16 fibers, to ${copies === 1 ? "1 subscriber" : `each of ${copies.toLocaleString("en")} subscribers`}`,
  copies,
  round: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const called = new Map<string, number>()
    const other: Array<number> = []
    const { end } = yield* followers(copies, called)
    yield* steadily(
      { count: rate * seconds, rate, writers: 16 },
      Effect.fnUntraced(function* (index) {
        const id = crypto.randomUUID()
        const before = yield* now
        called.set(id, before)
        yield* events.append({ ...event(index % 100), id })
        other.push((yield* now) - before)
      })
    )
    return { strata: yield* end, other }
  })
})

export const figures: ReadonlyArray<Figure> = [
  appends(1, 3_000, 300),
  appends(10, 3_000, 300),
  appends(100, 1_000, 50),
  appends(1_000, 100, 10)
]

export const latencies = (quick: boolean): ReadonlyArray<Latency> => {
  const seconds = quick ? 0.3 : 3
  return [
    contended(seconds * 1_000),
    many(1, 400, seconds),
    many(10, 400, seconds),
    many(100, 100, seconds),
    many(1_000, 10, seconds)
  ]
}
