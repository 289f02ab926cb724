/** What the network, the server and the pool can do to a store: a typed error each time, and then the store goes on. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Schedule, Stream } from "effect"
import { backends, postgresUrl, waitForBackends } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import {
  assertStoreError,
  assertWhole,
  execute,
  failsWith,
  freshSchema,
  open,
  query,
  type Served,
  serve,
  type Settings,
  shard,
  storeError
} from "./harness.ts"

/** Stores in a schema of their own. */
const served = Effect.fnUntraced(function* (settings: Settings = {}) {
  const schema = yield* freshSchema()
  const stores = yield* serve({ ...settings, options: { schema, ...settings.options } })
  return { ...stores, schema }
})

/** The same, behind a proxy. */
const proxied = Effect.fnUntraced(function* (settings: Settings = {}) {
  const { hostname, port } = new URL(postgresUrl)
  const proxy = yield* Proxy.make({ host: hostname, port: Number(port || 5432) })
  return { ...(yield* served({ ...settings, url: proxy.url(postgresUrl) })), proxy }
})

/** Ends the connection of the transaction in which this runs, and returns when the server has let go of it. */
const terminate = ({ sql }: Served) =>
  Effect.gen(function* () {
    const [row] = yield* sql`SELECT pg_backend_pid()`.values
    yield* query(`SELECT pg_terminate_backend(${Number(row?.[0])}, 10000)`)
  })

const isWaiting = (statement: string) => (all: ReadonlyArray<{ readonly state: string; readonly query: string }>) =>
  all.some(({ query, state }) => state === "active" && query.includes(statement))

describe("a server that goes away between two calls", () => {
  it.live("is Unavailable while it is down, and the same store works when it is back", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const stores = yield* serve({ url: server.url })
      const { id, read, write } = shard(stores, "accounts")
      for (const [n, outage] of [server.stop("fast"), server.stop("immediate"), server.kill].entries()) {
        yield* write(BigInt(n))
        yield* outage
        for (const [operation, call] of [
          ["OffsetStore.writeOffset", write(99n)],
          ["OffsetStore.getCurrentOffset", read],
          ["OffsetStore.ping", stores.offsets.ping],
          ["OffsetStore.listOffsets", Stream.runDrain(stores.offsets.listOffsets())],
          ["OffsetStore.deleteOffsets", stores.offsets.deleteOffsets(id.projectionName)],
          ["Transactor.withTransaction", stores.transactor.withTransaction(Effect.void)]
        ] as const) {
          yield* failsWith(
            call,
            operation,
            "Unavailable",
            /no connection to the server: .*ECONNREFUSED.*; check that it runs/
          )
        }
        yield* server.start
        assert.strictEqual(yield* read, BigInt(n))
        yield* assertWhole(stores, server.url)
      }
    })
  )

  it.live("is Unavailable while its other end is refused, without waiting for the pool", () =>
    Effect.gen(function* () {
      const { proxy, ...stores } = yield* proxied()
      yield* proxy.refuse(true)
      yield* proxy.cut
      // The first may still be sent on a connection whose end has not been noticed.
      yield* failsWith(stores.offsets.ping, "OffsetStore.ping", "Unavailable", /no connection to the server/)
      yield* failsWith(stores.offsets.ping, "OffsetStore.ping", "Unavailable", /ECONNREFUSED/)
      yield* proxy.refuse(false)
      yield* assertWhole(stores)
    })
  )
})

describe("a connection that is lost", () => {
  const losses: ReadonlyArray<
    readonly [string, (stores: Effect.Success<ReturnType<typeof proxied>>) => Effect.Effect<void, unknown>]
  > = [
    ["terminated by the server", terminate],
    ["cut", ({ proxy }) => proxy.cut]
  ]

  it.live.each(losses)("(%s) in the middle of a transaction is Unavailable, and nothing is half-written", ([, lose]) =>
    Effect.gen(function* () {
      const stores = yield* proxied()
      const { withTransaction } = stores.transactor
      const [a, b] = [shard(stores, "a"), shard(stores, "b")]
      const error = yield* a
        .write(1n)
        .pipe(Effect.andThen(lose(stores)), Effect.andThen(b.write(1n)), withTransaction, storeError)
      assertStoreError(error, { at: "OffsetStore.writeOffset", reason: "Unavailable", says: /connection/ })
      assert.deepStrictEqual([yield* a.read, yield* b.read], [-1n, -1n])
      yield* assertWhole(stores)
    })
  )

  it.live.each(losses)("(%s) before the commit is Unavailable, and nothing is written", ([, lose]) =>
    Effect.gen(function* () {
      const stores = yield* proxied()
      const a = shard(stores, "a")
      const after: Array<string> = []
      const error = yield* a
        .write(1n)
        .pipe(
          Effect.andThen(stores.transactor.afterCommit(Effect.sync(() => void after.push("committed")))),
          Effect.andThen(lose(stores)),
          stores.transactor.withTransaction,
          storeError
        )
      assertStoreError(error, { at: "Transactor.withTransaction", reason: "Unavailable", says: /connection/ })
      assert.strictEqual(yield* a.read, -1n)
      assert.deepStrictEqual(after, [])
      yield* assertWhole(stores)
    })
  )

  it.live.each(losses)("(%s) ends nested transactions too, one by one", ([, lose]) =>
    Effect.gen(function* () {
      const stores = yield* proxied()
      const { withTransaction } = stores.transactor
      const [a, b] = [shard(stores, "a"), shard(stores, "b")]
      const error = yield* a.write(1n).pipe(
        Effect.andThen(
          Effect.gen(function* () {
            const inner = yield* b
              .write(1n)
              .pipe(Effect.andThen(lose(stores)), Effect.andThen(b.read), withTransaction, storeError)
            assertStoreError(inner, { at: "OffsetStore.getCurrentOffset", reason: "Unavailable", says: /connection/ })
            // There is no savepoint to go back to: what follows fails as well.
            yield* failsWith(a.read, "OffsetStore.getCurrentOffset", "Unavailable", /connection/)
            yield* failsWith(withTransaction(a.read), "Transactor.withTransaction", "Unavailable", /connection/)
          })
        ),
        withTransaction,
        storeError
      )
      assertStoreError(error, { at: "Transactor.withTransaction", reason: "Unavailable", says: /connection/ })
      assert.deepStrictEqual([yield* a.read, yield* b.read], [-1n, -1n])
      yield* assertWhole(stores)
    })
  )

  it.live.each(losses)("(%s) leaves a program its own failure, which rolls back", ([, lose]) =>
    Effect.gen(function* () {
      const stores = yield* proxied()
      const { withTransaction } = stores.transactor
      const a = shard(stores, "a")
      const losing = Effect.andThen(a.write(1n), lose(stores))
      assert.deepStrictEqual(
        yield* Effect.exit(withTransaction(Effect.andThen(losing, Effect.fail("mine")))),
        Exit.fail("mine")
      )
      assert.deepStrictEqual(
        yield* Effect.exit(withTransaction(withTransaction(Effect.andThen(losing, Effect.fail("nested"))))),
        Exit.fail("nested")
      )
      assert.strictEqual(yield* a.read, -1n)
      yield* assertWhole(stores)
    })
  )

  it.live.each(losses)("(%s) leaves an interruption what it is, and no defect", ([, lose]) =>
    Effect.gen(function* () {
      const stores = yield* proxied()
      const a = shard(stores, "a")
      const waiting = yield* Deferred.make<void>()
      const fiber = yield* a
        .write(1n)
        .pipe(
          Effect.andThen(lose(stores)),
          Effect.andThen(Deferred.succeed(waiting, undefined)),
          Effect.andThen(Effect.never),
          stores.transactor.withTransaction,
          Effect.forkChild
        )
      yield* Deferred.await(waiting)
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.strictEqual(yield* a.read, -1n)
      yield* assertWhole(stores)
    })
  )

  it.live("before the COMMIT reaches the server is Unavailable, and nothing is written", () =>
    Effect.gen(function* () {
      const { proxy, ...stores } = yield* proxied()
      const a = shard(stores, "a")
      const committing = yield* Deferred.make<void>()
      const fiber = yield* a
        .write(1n)
        .pipe(
          Effect.andThen(proxy.stall(true)),
          Effect.andThen(Deferred.succeed(committing, undefined)),
          stores.transactor.withTransaction,
          storeError,
          Effect.forkChild
        )
      yield* Deferred.await(committing)
      yield* proxy.cut
      yield* proxy.stall(false)
      const error = yield* Fiber.join(fiber)
      assertStoreError(error, { at: "Transactor.withTransaction", reason: "Unavailable", says: /connection/ })
      assert.strictEqual(yield* a.read, -1n)
      yield* assertWhole(stores)
    })
  )

  it.live("after the server has committed is Unavailable all the same, and everything is written", () =>
    Effect.gen(function* () {
      const { applicationName, proxy, schema, ...stores } = yield* proxied()
      const [a, b] = [shard(stores, "a"), shard(stores, "b")]
      // Its COMMIT waits for the session that holds this lock.
      yield* execute([
        `CREATE FUNCTION ${schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN PERFORM pg_advisory_xact_lock_shared(hashtext('${schema}')); RETURN NULL; END $$`,
        `CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON ${schema}.offsets_store
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ${schema}.wait()`
      ])
      const other = yield* serve({ options: { schema } })
      const lock = yield* open(
        other.transactor.withTransaction,
        other.sql`SELECT pg_advisory_xact_lock(hashtext(${schema}))`
      )
      const after: Array<string> = []
      const fiber = yield* Effect.all([a.write(1n), b.write(1n)]).pipe(
        Effect.andThen(stores.transactor.afterCommit(Effect.sync(() => void after.push("committed")))),
        stores.transactor.withTransaction,
        storeError,
        Effect.forkChild
      )
      yield* waitForBackends(applicationName, isWaiting("COMMIT"))
      yield* proxy.stall(true)
      yield* lock.commit
      yield* waitForBackends(applicationName, (all) => !isWaiting("COMMIT")(all))
      yield* proxy.cut
      yield* proxy.stall(false)
      const error = yield* Fiber.join(fiber)
      assertStoreError(error, { at: "Transactor.withTransaction", reason: "Unavailable", says: /connection/ })
      assert.deepStrictEqual([yield* a.read, yield* b.read], [1n, 1n])
      assert.deepStrictEqual(after, [])
      yield* assertWhole({ ...stores, applicationName })
    })
  )

  it.live("again and again never leaves half of a transaction", () =>
    Effect.gen(function* () {
      const { proxy, ...stores } = yield* proxied()
      const ends: Array<string> = []
      const pairs = Array.from(
        { length: 8 },
        (_, n) => [shard(stores, `left ${n}`), shard(stores, `right ${n}`)] as const
      )
      const writes = Effect.fnUntraced(function* ([left, right]: (typeof pairs)[number]) {
        for (let value = 1n; value <= 25n; value++) {
          const exit = yield* left
            .write(value)
            .pipe(
              Effect.andThen(right.write(value)),
              stores.transactor.withTransaction,
              Effect.asVoid,
              storeErrorOrNothing
            )
          ends.push(exit)
          if (ends.length % 10 === 5) yield* proxy.cut
        }
      })
      yield* Effect.forEach(pairs, writes, { concurrency: "unbounded", discard: true })
      assert.deepStrictEqual([...new Set(ends)].toSorted(), ["Unavailable", "committed"])
      yield* assertWhole(stores)
      for (const [left, right] of pairs) assert.strictEqual(yield* left.read, yield* right.read)
    })
  )

  it.live("in silence does not hold a caller with a time limit, nor its connection", () =>
    Effect.gen(function* () {
      const { applicationName, proxy, ...stores } = yield* proxied()
      const { write } = shard(stores, "a")
      yield* write(1n)
      yield* proxy.stall(true)
      const exit = yield* Effect.exit(Effect.timeout(write(2n), "100 millis"))
      assert.isTrue(Exit.isFailure(exit) && Cause.isTimeoutError(Cause.squash(exit.cause)))
      yield* proxy.stall(false)
      yield* assertWhole({ ...stores, applicationName })
    })
  )
})

/** How a transaction ended: `committed`, or the reason. Anything but a `StoreError` fails the test. */
const storeErrorOrNothing = <E, R>(effect: Effect.Effect<void, E, R>) =>
  Effect.flatMap(Effect.exit(effect), (exit) =>
    Exit.isSuccess(exit) ? Effect.succeed("committed") : Effect.map(storeError(exit), ({ reason }) => reason._tag)
  )

describe("a pool that is exhausted", () => {
  it.live.each([1, 2])("(of %i) is Unavailable for a caller that waits too long, and says so", (maxConnections) =>
    Effect.gen(function* () {
      const stores = yield* served({ client: { maxConnections }, options: { acquireTimeout: "2 seconds" } })
      const { offsets, transactor } = stores
      const holding = yield* Effect.forEach(
        Array.from({ length: maxConnections }, (_, number) => shard(stores, "held", number)),
        ({ write }) => open(transactor.withTransaction, write(1n))
      )
      const { id, write } = shard(stores, "waiting")
      const calls = [
        ["OffsetStore.writeOffset", write(1n)],
        ["OffsetStore.getCurrentOffset", offsets.getCurrentOffset(id)],
        ["OffsetStore.ping", offsets.ping],
        ["OffsetStore.listOffsets", Stream.runDrain(offsets.listOffsets())],
        ["Transactor.withTransaction", transactor.withTransaction(write(1n))]
      ] as const
      const says = /no connection came free within 2s: the pool is exhausted; make it larger/
      yield* Effect.forEach(calls, ([operation, call]) => failsWith(call, operation, "Unavailable", says), {
        concurrency: "unbounded"
      })
      // The callers that gave up have left the queue of the pool.
      const waiting = yield* Effect.forkChild(Effect.retry(write(2n), Schedule.forever))
      yield* Effect.forEach(holding, ({ commit }) => commit)
      yield* Fiber.join(waiting)
      yield* assertWhole(stores)
    })
  )

  it.live("does not interrupt a transaction that has begun, however long it takes", () =>
    Effect.gen(function* () {
      const stores = yield* served({ client: { maxConnections: 2 }, options: { acquireTimeout: "1 second" } })
      const { read, write } = shard(stores, "long")
      const held = yield* open(stores.transactor.withTransaction, write(1n))
      // By the server's clock the transaction is open for longer than `acquireTimeout`.
      yield* stores.sql`SELECT 1 FROM pg_sleep(1.2)`
      yield* held.commit
      assert.strictEqual(yield* read, 1n)
    })
  )
})

describe("interruption", () => {
  it.live(
    "of an operation that waits for a row gives back its connection, and its place in the queue for the row",
    () =>
      Effect.gen(function* () {
        const stores = yield* served({ client: { maxConnections: 2 } })
        const { applicationName, offsets, transactor } = stores
        const { id, read, write } = shard(stores, "row")
        yield* write(1n)
        for (const waits of [
          write(2n),
          transactor.withTransaction(write(2n)),
          transactor.withTransaction(
            transactor.withTransaction(Effect.asVoid(offsets.resetOffset(id.projectionName, 2n)))
          )
        ]) {
          const held = yield* open(transactor.withTransaction, write(7n))
          const fiber = yield* Effect.forkChild(waits)
          const looks = yield* waitForBackends(applicationName, isWaiting("offsets_store"))
          assert.isTrue(isWaiting("offsets_store")(looks))
          yield* Fiber.interrupt(fiber)
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
          yield* held.commit
          assert.strictEqual(yield* read, 7n)
        }
        yield* assertWhole(stores)
      })
  )

  it.live("while waiting for the pool leaves nothing behind", () =>
    Effect.gen(function* () {
      const stores = yield* served({ client: { maxConnections: 1 } })
      const { write } = shard(stores, "row")
      const held = yield* open(stores.transactor.withTransaction, write(1n))
      const waiting = yield* Effect.forEach(
        [write(2n), stores.transactor.withTransaction(write(2n)), stores.offsets.ping],
        (call) => Effect.forkChild(call, { startImmediately: true })
      )
      yield* Fiber.interruptAll(waiting)
      yield* held.commit
      yield* assertWhole(stores)
      assert.lengthOf(yield* backends(stores.applicationName), 1)
    })
  )
})
