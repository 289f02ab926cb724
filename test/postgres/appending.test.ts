/** Appends that are coalesced: what each of them gets, what it waits for, and what ends it. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Redacted, References, Scope } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { Append } from "../../src/Event.ts"
import * as Appending from "../../src/postgres/events/Appending.ts"
import * as EventTable from "../../src/postgres/events/EventTable.ts"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { event, plainInsert, type ServedEvents, serveEvents, session } from "./events.harness.ts"
import { execute, failsWith, open, query, unique } from "./harness.ts"

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

/** The ids of an aggregate's events, in order. */
const idsOf = ({ events }: Pick<ServedEvents, "events">, aggregateId: string) =>
  Effect.map(events.loadByAggregate(aggregateId), (all) => all.map(({ id }) => id))

/** Waits until so many statements wait for a lock: on the table, or on a row. */
const waitUntilBlocked = (table: string, count: number) =>
  query(
    `SELECT count(*)::int FROM pg_stat_activity
     WHERE wait_event_type = 'Lock' AND query LIKE '%${table.split(".")[0]}%' AND pid <> pg_backend_pid()`
  ).pipe(
    Effect.delay(20),
    Effect.repeat({ until: (rows) => rows[0]?.[0] === count, times: 200 }),
    Effect.tap((rows) => Effect.sync(() => assert.strictEqual(rows[0]?.[0], count)))
  )

/** Keeps all other sessions from writing to the table. Returns what lets them go on. */
const stopWriters = Effect.fnUntraced(function* (table: string) {
  const foreign = yield* session()
  yield* foreign("BEGIN")
  yield* foreign(`LOCK TABLE ${table} IN SHARE MODE`)
  return foreign("COMMIT")
})

describe("appends that arrive at once", () => {
  it.live("share a few commits", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      yield* Effect.forEach(numbers(500), (n) => events.append(event(`aggregate ${n}`)), { concurrency: "unbounded" })
      const [row] = yield* query(`SELECT count(DISTINCT xmin::text)::int, count(*)::int FROM ${table}`)
      assert.strictEqual(row?.[1], 500)
      assert.isAtMost(Number(row?.[0]), 10)
    })
  )

  it.live("while another append is under way are not divided, if they are few", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      yield* events.append(event("before"))
      const goOn = yield* stopWriters(table)
      const first = yield* Effect.forkChild(events.append(event("first")))
      yield* waitUntilBlocked(table, 1)
      const others = yield* Effect.forEach(numbers(16), (n) => Effect.forkChild(events.append(event(`other ${n}`))))
      yield* waitUntilBlocked(table, 2)
      yield* goOn
      yield* Effect.forEach([first, ...others], (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(yield* query(`SELECT count(DISTINCT xmin::text)::int, count(*)::int FROM ${table}`), [
        [3, 18]
      ])
    })
  )

  it.live("do not fail because the server refuses one of them", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* serveEvents()
      yield* execute([
        `CREATE FUNCTION ${schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN IF NEW.aggregate_id LIKE 'bad%' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END$$`,
        `CREATE TRIGGER refuse BEFORE INSERT ON ${table} FOR EACH ROW EXECUTE FUNCTION ${schema}.refuse()`
      ])
      for (const expected of ["any", "none"] as const) {
        const exits = yield* Effect.forEach(
          numbers(60),
          (n) => Effect.exit(events.append(event(`${n % 20 === 7 ? "bad" : "good"} ${expected} ${n}`), { expected })),
          { concurrency: "unbounded" }
        )
        for (const [n, exit] of exits.entries()) {
          if (n % 20 === 7) yield* failsWith(exit, "EventStore.append", "Unexpected", /not this one/)
          else assert.isTrue(Exit.isSuccess(exit))
        }
      }
      assert.strictEqual((yield* events.load()).length, 2 * 57)
    })
  )

  it.live("go in several statements, in their order, if they are too large for one", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const text = "x".repeat(400_000)
      yield* Effect.forEach(numbers(20), (n) => served.events.append({ ...event("a", String(n)), data: { text } }), {
        concurrency: "unbounded"
      })
      yield* Effect.forEach(numbers(300), (n) => served.events.append([event("b", `b${n}`), event(`other ${n}`)]), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(yield* idsOf(served, "a"), numbers(20).map(String))
      assert.deepStrictEqual(
        yield* idsOf(served, "b"),
        numbers(300).map((n) => `b${n}`)
      )
    })
  )
})

describe("an append that has to wait", () => {
  it.live("for a transaction that holds its aggregate does not keep the others waiting, and none overtakes it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, withTransaction } = served
      const held = numbers(8).map((n) => `held ${n}`)
      const holder = yield* open(
        withTransaction,
        events.append(
          held.map((aggregateId) => event(aggregateId, `${aggregateId} 0`)),
          { expected: "none" }
        )
      )
      const waiting = yield* Effect.forEach(held, (aggregateId) =>
        Effect.forEach([1, 2, 3], (n) =>
          Effect.forkChild(
            events.append(event(aggregateId, `${aggregateId} ${n}`), n === 2 ? { expected: "some" } : {}),
            { startImmediately: true }
          )
        )
      )
      yield* Effect.forEach(numbers(200), (n) => events.append(event(`free ${n}`)), { concurrency: "unbounded" })
      yield* events.append(event("free"), { expected: "none" })
      assert.deepStrictEqual(
        waiting.flat().filter((fiber) => fiber.pollUnsafe() !== undefined),
        []
      )
      yield* holder.commit
      yield* Fiber.joinAll(waiting.flat())
      for (const aggregateId of held) {
        assert.deepStrictEqual(
          yield* idsOf(served, aggregateId),
          [0, 1, 2, 3].map((n) => `${aggregateId} ${n}`)
        )
      }
    })
  )

  it.live("for a transaction comes before the appends that were submitted after it and expect nothing", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, table, withTransaction } = served
      const holder = yield* open(withTransaction, events.append(event("a", "first"), { expected: "none" }))
      const ids = ["busy", ...numbers(30).map(String)]
      const fibers = yield* Effect.forEach(ids, (id) =>
        Effect.forkChild(events.append(event(id === "busy" ? "b" : "a", id)), { startImmediately: true })
      )
      yield* waitUntilBlocked(table, 1)
      yield* holder.commit
      yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(yield* idsOf(served, "a"), ["first", ...numbers(30).map(String)])
    })
  )

  it.live.each(["any", "checked"])("does not hold what others wait for (%s)", (kind) =>
    Effect.gen(function* () {
      const { events, withTransaction } = yield* serveEvents()
      const holder = yield* open(withTransaction, events.append(event("b"), { expected: "none" }))
      const all = yield* Effect.forkChild(
        Effect.forEach(
          ["busy", "a", "b", "c"],
          (id) => events.append(kind === "any" ? event(id) : event(id, `new ${id}`)),
          { concurrency: "unbounded" }
        ),
        { startImmediately: true }
      )
      // One of them waits for b. It does not hold a meanwhile, so the holder of b gets a.
      yield* events.append(event("a"), { expected: "some" })
      yield* holder.commit
      yield* Fiber.join(all)
      assert.strictEqual((yield* events.load()).length, 6)
    })
  )

  it.live("for a program that inserts the same id without a lock delays only the appends of its own statement", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      const foreign = yield* session()
      yield* foreign("BEGIN")
      for (const n of numbers(3)) yield* foreign(plainInsert(table, `same ${n}`))
      const stuck: Array<Fiber.Fiber<unknown, { readonly _tag: string }>> = []
      for (const n of numbers(3)) {
        stuck.push(yield* Effect.forkChild(events.append(event(`stuck ${n}`, `same ${n}`)), { startImmediately: true }))
        yield* waitUntilBlocked(table, n + 1)
      }
      yield* Effect.forEach(numbers(50), (n) => events.append(event(`free ${n}`, `free ${n}`)), {
        concurrency: "unbounded"
      })
      yield* foreign("COMMIT")
      for (const fiber of stuck) assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "DuplicateEvent")
    })
  )
})

describe("interruption", () => {
  it.live("takes back an append in the queue, and no other append", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, table } = served
      yield* events.append(event("a", "0"))
      const goOn = yield* stopWriters(table)
      const fibers = yield* Effect.forEach(numbers(6), (n) =>
        Effect.forkChild(events.append(event("a", String(n + 1)), { expected: "some" }), { startImmediately: true })
      )
      yield* waitUntilBlocked(table, 1)
      yield* Fiber.interruptAll(fibers.filter((_, index) => index % 2 === 1))
      yield* goOn
      yield* Fiber.joinAll(fibers.filter((_, index) => index % 2 === 0))
      assert.deepStrictEqual(yield* idsOf(served, "a"), ["0", "1", "3", "5"])
    })
  )

  it.live("of an append whose statement is under way does not concern the others of that statement", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      yield* events.append(event("a"))
      const goOn = yield* stopWriters(table)
      const fibers = yield* Effect.forEach(numbers(80), (n) =>
        Effect.forkChild(events.append(event(`aggregate ${n}`)), { startImmediately: true })
      )
      // The first goes alone. The others are too many for one statement, and go in two.
      yield* waitUntilBlocked(table, 3)
      yield* Fiber.interruptAll([0, 1, 79].flatMap((n) => fibers[n] ?? []))
      yield* goOn
      const stored = yield* Fiber.joinAll(fibers.slice(2, 79))
      assert.strictEqual(stored.flat().length, 77)
    })
  )

  it.live("of an append that waits for a transaction takes it back", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, table, withTransaction } = served
      const holder = yield* open(withTransaction, events.append(event("a", "0"), { expected: "none" }))
      // The first goes alone. The appends that come meanwhile go together.
      const busy = yield* Effect.forkChild(events.append(event("b")), { startImmediately: true })
      const fibers = yield* Effect.forEach(["1", "2"], (id) =>
        Effect.forkChild(events.append(event("a", id)), { startImmediately: true })
      )
      yield* Fiber.join(busy)
      yield* waitUntilBlocked(table, 1)
      yield* Fiber.interruptAll(fibers)
      const last = yield* Effect.forkChild(events.append(event("a", "3")), { startImmediately: true })
      yield* waitUntilBlocked(table, 1)
      yield* holder.commit
      yield* Fiber.join(last)
      assert.deepStrictEqual(yield* idsOf(served, "a"), ["0", "3"])
    })
  )

  it.live("of an append in the queue lets the next one with the same aggregate go on", () =>
    Effect.gen(function* () {
      const { events, table, withTransaction } = yield* serveEvents()
      const holder = yield* open(withTransaction, events.append(event("a"), { expected: "none" }))
      const waiting = yield* Effect.forkChild(events.append(event("a")), { startImmediately: true })
      yield* waitUntilBlocked(table, 1)
      const between = yield* Effect.forkChild(events.append([event("a"), event("b")]), { startImmediately: true })
      const last = yield* Effect.forkChild(events.append(event("b")), { startImmediately: true })
      yield* Effect.sleep(50)
      assert.isUndefined(last.pollUnsafe())
      yield* Fiber.interrupt(between)
      yield* Effect.timeout(Fiber.join(last), "4 minutes")
      assert.isUndefined(waiting.pollUnsafe())
      yield* holder.commit
      yield* Fiber.join(waiting)
    })
  )
})

/** Another `EventStore` on the same pool, in a scope of its own. */
const scoped = Effect.fnUntraced(function* ({ schema, sql }: ServedEvents) {
  const scope = yield* Scope.make()
  const layer = Layer.provide(Postgres.layerStorage({ schema }), Layer.succeed(PgClient.PgClient, sql))
  const context = yield* Layer.build(Layer.fresh(layer)).pipe(Scope.provide(scope))
  return { events: Context.get(context, EventStore.EventStore), close: Scope.close(scope, Exit.void) }
})

describe("the end of the layer", () => {
  it.live("fails what is queued, and does not write it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { close, events } = yield* scoped(served)
      yield* events.append(event("a", "0"))
      const goOn = yield* stopWriters(served.table)
      const fibers = yield* Effect.forEach(numbers(3), (n) =>
        Effect.forkChild(events.append(event("a", String(n + 1))), { startImmediately: true })
      )
      yield* waitUntilBlocked(served.table, 1)
      yield* close
      const [, ...queued] = fibers
      for (const fiber of queued) {
        yield* failsWith(Fiber.join(fiber), "EventStore.append", "Closed", /before the append/)
      }
      yield* goOn
      yield* Effect.forEach(fibers, Fiber.await)
      assert.deepStrictEqual(yield* idsOf(served, "a"), ["0", "1"])
    })
  )
})

describe("in a transaction", () => {
  it.live("an append runs there, whatever else is under way, and ends with it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, withTransaction } = served
      const [inside] = yield* Effect.all(
        [
          Effect.exit(
            withTransaction(
              Effect.andThen(
                Effect.forEach(["1", "2"], (id) => events.append(event("inside", id)), { concurrency: "unbounded" }),
                Effect.fail("no")
              )
            )
          ),
          Effect.forEach(numbers(50), (n) => events.append(event(`outside ${n}`)), { concurrency: "unbounded" })
        ],
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(Exit.findErrorOption(inside), Option.some("no"))
      assert.deepStrictEqual(yield* idsOf(served, "inside"), [])
      assert.strictEqual((yield* events.load()).length, 50)
    })
  )

  it.live("a layer can be built: what it coalesces later has no part in it", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const built = yield* Deferred.make<EventStore.EventStore["Service"]>()
      yield* Effect.exit(
        served.withTransaction(
          Effect.gen(function* () {
            const { events } = yield* scoped(served)
            yield* Deferred.succeed(built, events)
            return yield* Effect.fail("no")
          })
        )
      )
      const events = yield* Deferred.await(built)
      yield* Effect.forEach(numbers(10), (n) => events.append(event(`aggregate ${n}`)), { concurrency: "unbounded" })
      assert.strictEqual((yield* served.events.load()).length, 10)
    })
  )
})

describe("readers are told of a commit", () => {
  it.live("once, after it, and only if it has stored something", () =>
    Effect.gen(function* () {
      const { schema } = yield* serveEvents()
      const pool = PgClient.layer({ url: Redacted.make(postgresUrl), applicationName: yield* unique })
      const context = yield* Layer.build(
        Layer.mergeAll(EventTable.layer, Wakeups.layer).pipe(
          Layer.provideMerge(Postgres.PostgresDatabase.layer({ schema })),
          Layer.provideMerge(pool)
        )
      )
      const { transactor } = Context.get(context, Postgres.PostgresDatabase.PostgresDatabase)
      let told = 0
      const wakeups = { ...Context.get(context, Wakeups.Wakeups), announce: () => void told++ }
      const { append } = yield* Appending.make.pipe(
        Effect.provideService(Wakeups.Wakeups, wakeups),
        Effect.provideContext(context)
      )
      const one = (id: string, onDuplicate: "fail" | "ignore" = "fail") =>
        append(new Append({ events: [event("a", id)], onDuplicate }))
      const tells = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>, times: number) {
        const before = told
        yield* Effect.exit(effect)
        assert.strictEqual(told - before, times)
      })
      yield* tells(one("1"), 1)
      yield* tells(one("1"), 0)
      yield* tells(one("1", "ignore"), 0)
      yield* tells(append(new Append({ events: [] })), 0)
      yield* tells(append(new Append({ events: [event("a"), event("b")] })), 1)
      const inside = Effect.andThen(
        Effect.andThen(one("2"), one("1", "ignore")),
        Effect.sync(() => assert.strictEqual(told, 2))
      )
      yield* tells(transactor.withTransaction(Effect.andThen(inside, Effect.fail("no"))), 0)
      yield* tells(transactor.withTransaction(inside), 1)
      const many = Effect.forEach(numbers(100), (n) => one(`many ${n}`), { concurrency: "unbounded" })
      const before = told
      yield* many
      assert.isAtLeast(told - before, 1)
      assert.isAtMost(told - before, 101)
    })
  )
})

describe("an append that is interrupted", () => {
  it.live("wherever it is, leaves nothing behind that holds up the next ones", () =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents({ client: { maxConnections: 2 } })
      const append = events.append(event("a"))
      yield* append
      let interrupted = 0
      for (let step = 0; step < 150; step++) {
        // It lets others run after every few of its steps.
        const fiber = yield* Effect.forkChild(Effect.provideService(append, References.MaxOpsBeforeYield, 3))
        for (let turn = 0; turn < step; turn++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        if (Exit.hasInterrupts(yield* Fiber.await(fiber))) interrupted++
        yield* Effect.timeout(append, "9 seconds")
      }
      assert.isAbove(interrupted, 40)
    })
  )
})
