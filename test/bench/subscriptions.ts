/** The figures of subscriptions: what they cost appends, and how soon they give the events. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Fiber, Layer, Option, PubSub, Stream } from "effect"
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
 * Appends to the aggregates of subscribers that have one each, as where each user of a site has a connection, until each
 * event has come to its subscriber.
 */
const ownAggregates = (count: number, operations: number, quick: number): Figure => ({
  name: `append/with-${count}-own-aggregates`,
  operations,
  quick,
  unit: "events/s",
  otherName: "same without subscribers",
  conditions: "1 fiber, each event is of an aggregate that one of the subscribers waits for",
  sides: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const tables = {
      events: `events_own_${count}`,
      offsets: `offsets_own_${count}`,
      spool: `spool_own_${count}`,
      messages: `messages_own_${count}`
    }
    const stores = yield* Layer.build(Layer.fresh(Postgres.layer({ tables })))
    const followed = Context.get(stores, EventStore.EventStore)
    let next = 0
    const load = (store: typeof events) =>
      fibers(1, () => store.append({ ...event(0), aggregateId: `own-${(next += 7919) % count}` }))
    let missing = 0
    let done = yield* Deferred.make<void>()
    const got = Effect.suspend(() => (--missing === 0 ? Deferred.succeed(done, undefined) : Effect.void))
    // They come in groups, as users do, and wait once they have got an event.
    const group = Math.min(count, 100)
    for (let first = 0; first < count; first += group) {
      const own = Array.from({ length: group }, (_, index) => ({
        ...event(0),
        aggregateId: `own-${first + index}`
      }))
      missing = group
      done = yield* Deferred.make<void>()
      yield* Effect.forEach(own, ({ aggregateId }) =>
        followed.subscribe({ after: "start", aggregateIds: [aggregateId] }).pipe(
          Stream.runForEach(() => got),
          Effect.forkScoped
        )
      )
      yield* followed.append(own)
      yield* Deferred.await(done)
    }
    return {
      strata: (operations: number) =>
        Effect.gen(function* () {
          missing = operations
          done = yield* Deferred.make<void>()
          yield* load(followed)(operations)
          yield* Deferred.await(done)
        }),
      other: load(events)
    }
  })
})

/** Appends that 1,000 readers get, by subscriptions on the one side, and by one `PubSub` of this process on the other. */
const besidePubSub = (count: number, operations: number, quick: number): Figure => ({
  name: `append/to-${count}-beside-pubsub`,
  operations,
  quick,
  unit: "events/s",
  otherName: "same, published by a PubSub of this process",
  conditions: `1 fiber, until each of ${count.toLocaleString("en")} readers has got all`,
  sides: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const tables = {
      events: `events_beside_${count}`,
      offsets: `offsets_beside_${count}`,
      spool: `spool_beside_${count}`,
      messages: `messages_beside_${count}`
    }
    const stores = yield* Layer.build(Layer.fresh(Postgres.layer({ tables })))
    const followed = Context.get(stores, EventStore.EventStore)
    const hub = yield* PubSub.unbounded<EventStore.StoredEvent>()
    let missing = 0
    let done = yield* Deferred.make<void>()
    const got = Effect.suspend(() => (--missing === 0 ? Deferred.succeed(done, undefined) : Effect.void))
    yield* Effect.forEach(Array.from({ length: count }), () =>
      Effect.all([
        Effect.forkScoped(Stream.runForEach(followed.subscribe({ after: "start" }), () => got)),
        Effect.forkScoped(Stream.runForEach(Stream.fromPubSub(hub), () => got))
      ])
    )
    yield* listening(followed)
    const until = (append: Effect.Effect<unknown, unknown>) => (operations: number) =>
      Effect.gen(function* () {
        missing = count * operations
        done = yield* Deferred.make<void>()
        yield* fibers(1, () => append)(operations)
        yield* Deferred.await(done)
      })
    return {
      strata: until(followed.append(event(0))),
      other: until(Effect.flatMap(events.append(event(0)), (stored) => PubSub.publishAll(hub, stored)))
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

/** The time until an event that comes by itself is with a subscriber of another layer, which hears of it by a notification. */
const idle = (count: number): Latency => ({
  name: "subscribe/idle",
  otherName: "append itself",
  conditions: "from the call of append in another layer, 4 events/s, to 1 subscriber",
  round: Effect.gen(function* () {
    const stores = yield* Layer.build(Layer.fresh(Postgres.layer()))
    const appending = Context.get(stores, EventStore.EventStore)
    const called = new Map<string, number>()
    const other: Array<number> = []
    const { end } = yield* followers(1, called)
    yield* steadily(
      { count, rate: 4, writers: 1 },
      Effect.fnUntraced(function* (index) {
        const id = crypto.randomUUID()
        const before = yield* now
        called.set(id, before)
        yield* appending.append({ ...event(index % 100), id })
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
  appends(1_000, 100, 10),
  besidePubSub(1_000, 100, 10),
  ownAggregates(1_000, 2_000, 200),
  ownAggregates(10_000, 2_000, 200)
]

export const latencies = (quick: boolean): ReadonlyArray<Latency> => {
  const seconds = quick ? 0.3 : 3
  return [
    contended(seconds * 1_000),
    many(1, 400, seconds),
    many(10, 400, seconds),
    many(100, 100, seconds),
    many(1_000, 10, seconds),
    idle(quick ? 4 : 40)
  ]
}
