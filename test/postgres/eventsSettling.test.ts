/** Which events a reader of the whole log sees while others write: each one once, and no transaction stalls it needlessly. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { event, follow, plainInsert, serveEvents, session } from "./events.harness.ts"
import { execute, failsWith } from "./harness.ts"

/** A read that waits for a hole outlives its test, which then fails: one that ends has not waited. */
const patient = { settleTimeout: "1 hour" } as const

/** The ids of what a read gives back. */
const ids = (events: ReadonlyArray<{ readonly id: string }>) => events.map(({ id }) => id)

describe("a hole", () => {
  it.live("is not passed if a transaction with a higher xid left it, and one with a lower xid committed after it", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* serveEvents()
      yield* execute([`CREATE TABLE ${schema}.other (id INT)`])
      const live = yield* follow({ events }, { after: "start" })
      // The subscriber is at the end of the log now, where the tail reads.
      for (const id of ["1", "2"]) {
        yield* events.append(event("a", id))
        yield* live.until(BigInt(id))
      }
      const [u, t] = [yield* session(), yield* session()]
      yield* u("BEGIN")
      yield* u(`INSERT INTO ${schema}.other VALUES (1)`)
      yield* t("BEGIN")
      yield* t(`INSERT INTO ${schema}.other VALUES (2)`)
      yield* t(plainInsert(table, "t"))
      yield* u(plainInsert(table, "u"))
      yield* u("COMMIT")
      const load = yield* Effect.forkChild(events.load(2n), { startImmediately: true })
      const filtered = yield* Effect.forkChild(
        Stream.runCollect(events.read({ eventTypes: ["Plain"], batchSize: 1 })),
        {
          startImmediately: true
        }
      )
      // No wake-up was sent, as it would complete a transaction with a higher xid: the tail looks once a second.
      yield* Effect.sleep(1300)
      assert.isUndefined(load.pollUnsafe())
      assert.deepStrictEqual(live.seen, [1n, 2n])
      yield* t("COMMIT")
      yield* live.until(4n)
      assert.deepStrictEqual(live.seen, [1n, 2n, 3n, 4n])
      assert.deepStrictEqual(ids(yield* Fiber.join(load)), ["t", "u"])
      assert.deepStrictEqual(ids(yield* Fiber.join(filtered)), ["t", "u"])
    })
  )

  it.live("that the rollback of a transaction or of a savepoint leaves is passed once it is dead", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents({ options: patient })
      const t = yield* session()
      yield* t("BEGIN")
      yield* t(plainInsert(table, "1"))
      yield* t("SAVEPOINT s")
      yield* t(plainInsert(table, "2"))
      yield* t("ROLLBACK TO s")
      yield* events.append(event("a", "3"))
      const load = yield* Effect.forkChild(events.load(), { startImmediately: true })
      yield* Effect.sleep(60)
      assert.isUndefined(load.pollUnsafe())
      yield* t("COMMIT")
      assert.deepStrictEqual(ids(yield* Fiber.join(load)), ["1", "3"])
      yield* t("BEGIN")
      yield* t(plainInsert(table, "4"))
      yield* events.append(event("a", "5"))
      yield* t("ROLLBACK")
      assert.deepStrictEqual(ids(yield* events.load()), ["1", "3", "5"])
    })
  )

  it.live("of a prepared transaction is waited for, and the log describes the transaction", () =>
    Effect.gen(function* () {
      const { events, logged, table, watched } = yield* serveEvents({ options: { settleTimeout: "200 millis" } })
      const t = yield* session()
      const gid = table
      // Prepared transactions outlive their session: one that a failed test leaves would keep its schema from being dropped.
      yield* Effect.addFinalizer(() => Effect.ignore(execute([`ROLLBACK PREPARED '${gid}'`])))
      yield* events.append(event("a", "1"))
      yield* t("BEGIN")
      yield* t(plainInsert(table, "2"))
      yield* events.append(event("a", "3"))
      // The transaction is prepared while the read waits for it already.
      const load = yield* Effect.forkChild(watched(events.load()), { startImmediately: true })
      yield* Effect.sleep(50)
      yield* t(`PREPARE TRANSACTION '${gid}'`)
      assert.deepStrictEqual(ids(yield* Fiber.join(load)), ["1"])
      assert.deepStrictEqual(ids(yield* watched(events.load())), ["1"])
      assert.match(logged.at(-1) ?? "", /held up at version 2 by the prepared transaction '.*events', for \d+ s/)
      yield* t(`COMMIT PREPARED '${gid}'`)
      assert.deepStrictEqual(ids(yield* events.load()), ["1", "2", "3"])
    })
  )

  it.live("is not passed when the event above it is deleted while a subscriber waits", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      const t = yield* session()
      yield* events.append(event("a", "1"))
      yield* t("BEGIN")
      yield* t(plainInsert(table, "2"))
      yield* events.append(event("a", "3"))
      const live = yield* follow({ events }, { after: "start" })
      // It waits in the table, where it has been told that it may read up to the hole.
      yield* live.until(1n)
      yield* execute([`DELETE FROM ${table} WHERE version = 3`])
      // The pause is longer than the longest wait between two questions of the subscription.
      yield* Effect.sleep(200)
      yield* t("COMMIT")
      yield* events.append(event("a", "4"))
      yield* live.until(4n)
      assert.deepStrictEqual(live.seen, [1n, 2n, 4n])
    })
  )

  it.live(
    "that stays open ends a read before it after settleTimeout, and the log says which transaction holds it",
    () =>
      Effect.gen(function* () {
        const { events, logged, schema, table, watched } = yield* serveEvents({
          options: { settleTimeout: "300 millis" }
        })
        const waiting = yield* serveEvents({ options: { schema, ...patient } })
        yield* events.append([event("a", "1"), event("a", "2")])
        const t = yield* session()
        yield* t("BEGIN")
        yield* t(plainInsert(table, "3"))
        yield* events.append(event("a", "4"))
        const load = yield* Effect.forkScoped(waiting.events.load(), { startImmediately: true })
        assert.deepStrictEqual(ids(yield* watched(events.load())), ["1", "2"])
        assert.isUndefined(load.pollUnsafe())
        assert.match(
          logged.join("\n"),
          /held up at version 3 by pid \d+, idle in transaction for \d+ s, application '[^']*': readers wait there/
        )
        // The events before the hole do not wait: a stream delivers them at once.
        assert.deepStrictEqual(ids(yield* Stream.runCollect(waiting.events.read({ limit: 2 }))), ["1", "2"])
        // Neither do reads of one aggregate, nor reads that go backward: they give what is committed.
        assert.deepStrictEqual(ids(yield* events.loadByAggregate("a")), ["1", "2", "4"])
        assert.deepStrictEqual(ids(yield* Stream.runCollect(events.read({ direction: "backward" }))), ["4", "2", "1"])
        assert.strictEqual(yield* events.latestVersion, 4n)
      })
  )
})

describe("a reader does not wait", () => {
  it.live("for a transaction that writes other tables, or has drawn higher versions only, or is the reader's own", () =>
    Effect.gen(function* () {
      const { events, schema, table, withTransaction } = yield* serveEvents({ options: patient })
      yield* execute([`CREATE TABLE ${schema}.other (id INT)`])
      const [other, dead, idle] = [yield* session(), yield* session(), yield* session()]
      yield* other("BEGIN")
      yield* other(`INSERT INTO ${schema}.other VALUES (1)`)
      yield* dead("BEGIN")
      yield* dead(plainInsert(table, "dead"))
      yield* dead("ROLLBACK")
      yield* events.append(event("a", "2"))
      assert.deepStrictEqual(ids(yield* events.load()), ["2"])
      yield* withTransaction(
        Effect.gen(function* () {
          yield* events.append(event("a", "3"))
          assert.deepStrictEqual(ids(yield* events.load()), ["2", "3"])
        })
      )
      yield* idle("BEGIN")
      yield* idle(plainInsert(table, "4"))
      assert.deepStrictEqual(ids(yield* events.load(1n)), ["2", "3"])
    })
  )
})

describe("a transaction that does not see what others commit", () => {
  it.live("cannot read the log across aggregates", () =>
    Effect.gen(function* () {
      const { events, sql } = yield* serveEvents()
      yield* events.append(event("a"))
      const read = sql.withTransaction(
        Effect.andThen(sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`, events.load())
      )
      yield* failsWith(read, "EventStore.load", "Unexpected", /READ COMMITTED/)
    })
  )
})
