/** Subscribers that wait at the end of the log: what passes them by, and what they ask the server meanwhile. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Option, Queue, Redacted, Stream } from "effect"
import { EventStore } from "effect-strata"
import { StoreError } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { PostgresDatabase } from "../../src/postgres/database/PostgresDatabase.ts"
import * as Reading from "../../src/postgres/events/Reading.ts"
import * as Subscribing from "../../src/postgres/events/Subscribing.ts"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { event, follow as followStore } from "./events.harness.ts"
import { execute, freshSchema } from "./harness.ts"

/** Subscriptions of a real database, with what they ask: on connections of the pool, and on the one that listens. */
const serve = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
  const stores = Layer.provideMerge(Postgres.EventStore.layer, Postgres.PostgresDatabase.layer({ schema }))
  const context = yield* Layer.build(
    Layer.provideMerge(stores, Layer.provideMerge(Postgres.layerMigrations({ schema }), pool))
  )
  const database = Context.get(context, PostgresDatabase)
  const wakeups = Context.get(yield* Effect.provide(Layer.build(Wakeups.layer), context), Wakeups.Wakeups)
  const events = Context.get(context, EventStore.EventStore)
  const pooled: Array<string> = []
  const listening: Array<string> = []
  let failsTags = false
  const losses = yield* Queue.unbounded<void>()

  const query: typeof database.query = (statement) =>
    Effect.suspend(() => {
      pooled.push(statement.compile()[0])
      return database.query(statement)
    })
  const listen: typeof wakeups.listen = (table, reader) =>
    wakeups.listen(table, (ear) => {
      let { again } = ear
      return Effect.forever(
        Effect.suspend(() => {
          const running = reader({
            ...ear,
            again,
            query: (statement) =>
              Effect.suspend(() => {
                const [text] = statement.compile()
                listening.push(text)
                return failsTags && text.includes("_tags")
                  ? Effect.fail(new StoreError.Denied({ message: "not the tags", mayPass: false }))
                  : ear.query(statement)
              })
          })
          again = true
          return Effect.raceFirst(running, Queue.take(losses))
        })
      )
    })
  const { follow, subscribe } = yield* Effect.flatMap(Reading.make, (reading) =>
    Subscribing.make(Effect.void, reading)
  ).pipe(
    Effect.provideService(PostgresDatabase, { ...database, query }),
    Effect.provideService(Wakeups.Wakeups, { ...wakeups, listen })
  )
  return {
    events,
    table: `${schema}.events`,
    pooled,
    listening,
    lose: Queue.offer(losses, undefined),
    failTags: () => {
      failsTags = true
    },
    steps: follow,
    follow: (subscription: ConstructorParameters<typeof EventStore.Subscription>[0]) =>
      followStore(
        {
          events: {
            ...events,
            subscribe: () =>
              Stream.mapError(subscribe(new EventStore.Subscription(subscription)), (error) =>
                error instanceof EventStore.LogReplaced
                  ? error
                  : new StoreError.StoreError({ store: "EventStore", operation: "subscribe", reason: error })
              )
          }
        },
        subscription
      )
  }
})

type Served = Effect.Success<typeof serve>

/** Waits until the followers wait at the tail: the first event may come from the table, the second one does not. */
const settle = Effect.fnUntraced(function* (
  { events }: Pick<Served, "events">,
  followers: ReadonlyArray<Effect.Success<ReturnType<Served["follow"]>>>,
  append: ReadonlyArray<EventStore.NewEventInput>
) {
  for (let times = 0; times < 2; times++) {
    const stored = yield* events.append(append)
    for (const { until } of followers) yield* until(stored.at(-1)?.version ?? 0n)
  }
})

const others = Array.from({ length: 1_000 }, (_, number) => event(`other ${number}`))

it.live("10,000 events pass a subscriber by, and the next one of its own comes without a look into the table", () =>
  Effect.gen(function* () {
    const served = yield* serve
    const { events, pooled } = served
    const everything = yield* served.follow({ after: "start" })
    const own = yield* served.follow({ after: "start", aggregateIds: ["own"] })
    yield* settle(served, [everything, own], [event("own")])
    const before = pooled.length
    for (let times = 0; times < 10; times++) {
      const stored = yield* events.append(others)
      yield* everything.until(stored.at(-1)?.version ?? 0n)
    }
    const [last] = yield* events.append(event("own"))
    yield* own.until(last?.version ?? 0n)
    assert.deepStrictEqual(own.seen, [1n, 2n, 10_003n])
    assert.lengthOf(everything.seen, 10_003)
    // A subscriber that is found by nothing may have been too slow for once, and has read the table.
    assert.deepStrictEqual(
      pooled.slice(before).filter((text) => text.includes("aggregate_id =")),
      []
    )
  })
)

it.live("a hundred subscribers of a tag each cost one look for tags a page, on the connection that listens", () =>
  Effect.gen(function* () {
    const served = yield* serve
    const { events, listening, pooled } = served
    const numbers = Array.from({ length: 100 }, (_, number) => number)
    const tagged = numbers.map((number) => ({ ...event("a"), tags: [`user:${number}`] }))
    const followers = yield* Effect.forEach(numbers, (number) =>
      served.follow({ after: "start", tags: [`user:${number}`] })
    )
    for (let times = 0; times < 2; times++) {
      for (const number of numbers) {
        const [stored] = yield* events.append(tagged[number] ?? event("a"))
        yield* followers[number]?.until(stored?.version ?? 0n) ?? Effect.void
      }
    }
    const [before, beforePooled] = [listening.length, pooled.length]
    const stored = yield* events.append(tagged)
    for (const [index, { until }] of followers.entries()) yield* until(stored[index]?.version ?? 0n)
    for (const [index, { seen }] of followers.entries()) {
      assert.deepStrictEqual(
        seen,
        [1, 101, 201].map((first) => BigInt(first + index))
      )
    }
    const looks = listening.slice(before).filter((text) => text.includes("_tags"))
    const pages = listening.slice(before).filter((text) => text.includes("version >= $1"))
    assert.isAtLeast(looks.length, 1)
    assert.isAtMost(looks.length, pages.length)
    assert.deepStrictEqual(pooled.slice(beforePooled), [])
  })
)

it.live("subscribers look for tags themselves where the look for all of them fails", () =>
  Effect.gen(function* () {
    const served = yield* serve
    const { events, failTags } = served
    const anna = yield* served.follow({ after: "start", tags: ["anna"] })
    const ben = yield* served.follow({ after: "start", items: [{ tags: ["ben"] }, { eventTypes: ["Other"] }] })
    const everything = yield* served.follow({ after: "start" })
    const tagged = [
      { ...event("a"), tags: ["anna"] },
      { ...event("a"), tags: ["anna", "ben"] },
      { ...event("a"), eventType: "Other" },
      event("a")
    ]
    yield* settle(served, [everything], tagged)
    failTags()
    const [, , , last] = yield* events.append(tagged)
    yield* everything.until(last?.version ?? 0n)
    yield* anna.until(10n)
    yield* ben.until(11n)
    assert.deepStrictEqual(anna.seen, [1n, 2n, 5n, 6n, 9n, 10n])
    assert.deepStrictEqual(ben.seen, [2n, 3n, 6n, 7n, 10n, 11n])
  })
)

it.live(
  "a log that is set back ends a subscriber that has waited for long, at the version up to which it has waited",
  () =>
    Effect.gen(function* () {
      const served = yield* serve
      const { events, table } = served
      const everything = yield* served.follow({ after: "start" })
      const own = yield* served.follow({ after: "start", aggregateIds: ["own"] })
      yield* settle(served, [everything, own], [event("own")])
      const stored = yield* events.append(others)
      yield* everything.until(stored.at(-1)?.version ?? 0n)
      // The events of the subscriber are still there, and so is the log up to 500.
      yield* execute([
        `DELETE FROM ${table} WHERE version > 500`,
        `ALTER TABLE ${table} ALTER version RESTART WITH 501`
      ])
      for (const { fiber } of [everything, own]) {
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.instanceOf(error, EventStore.LogReplaced)
        assert.deepStrictEqual([error.version, error.latest], [1_002n, 500n])
        // Of what was seen long ago not every event is remembered.
        const agreed = Option.getOrThrow(error.lastAgreed)
        assert.isTrue(agreed > 400n && agreed <= 500n, String(agreed))
      }
      assert.deepStrictEqual(own.seen, [1n, 2n])
    })
)

it.live("a subscriber that waits outlives its connection, and misses nothing and gets nothing twice", () =>
  Effect.gen(function* () {
    const served = yield* serve
    const { events, lose } = served
    const everything = yield* served.follow({ after: "start" })
    const own = yield* served.follow({ after: "start", aggregateIds: ["own"] })
    const both = yield* served.follow({ after: "start", aggregateIds: ["own", "other 7"] })
    yield* settle(served, [everything, own, both], [event("own")])
    const expected = [1n, 2n]
    for (let times = 0; times < 20; times++) {
      const losing = yield* Effect.forkChild(lose)
      const stored = yield* events.append([...others.slice(0, 10), event("own")])
      yield* Fiber.join(losing)
      const last = stored.at(-1)?.version ?? 0n
      expected.push(last - 3n, last)
      for (const { until } of [everything, own, both]) yield* until(last)
    }
    assert.deepStrictEqual(both.seen, expected)
    assert.deepStrictEqual(
      own.seen,
      expected.filter((_, index) => index < 2 || index % 2 === 1)
    )
    assert.deepStrictEqual(
      everything.seen,
      Array.from({ length: 222 }, (_, index) => BigInt(index + 1))
    )
  })
)

it.live("a reader of steps is told how far the log was passed, also where nothing is for it", () =>
  Effect.gen(function* () {
    const { events, steps } = yield* serve
    const [first] = yield* events.append(event("own"))
    let last = 0n
    const passed = yield* steps(new EventStore.Subscription({ after: "start", aggregateIds: ["own"] })).pipe(
      Stream.tap(({ upTo }) =>
        Effect.gen(function* () {
          if (upTo.version < 1n || last > 0n) return
          const [other] = yield* events.append(event("other"))
          last = other?.version ?? 0n
        })
      ),
      Stream.takeUntil(({ upTo }) => last > 0n && upTo.version >= last),
      Stream.runCollect
    )
    assert.deepStrictEqual(
      passed.flatMap((step) => step.events.map(({ version }) => version)),
      [first?.version]
    )
    assert.strictEqual(passed.at(-1)?.upTo.version, last)
  })
)
