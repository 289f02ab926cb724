/** One transaction for the application's statements and the stores', whichever of the two opens it. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Ref, Stream } from "effect"
import { DurableStateStore, SpoolStore, type StoreError } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { SqlClient, type SqlError } from "effect/sql"
import { waitForBackends } from "../support/database.ts"
import { assertWhole, freshSchema, open, serve, type Served, shard, unique } from "./harness.ts"

/** Stores, and a table of the application's own beside theirs. */
const served = Effect.fnUntraced(function* (client: PgClient.PgPoolConfig = {}) {
  const schema = yield* freshSchema()
  const stores = yield* serve({
    client: { ...client, startupParameters: { search_path: schema } },
    options: { schema, acquireTimeout: "1 minute" }
  })
  const sql = stores.sql.withoutTransforms()
  yield* sql`CREATE TABLE accounts (account_id int PRIMARY KEY, opened_by text NOT NULL)`
  const ids = Effect.map(sql<{ readonly account_id: number }>`SELECT account_id FROM accounts ORDER BY 1`, (rows) =>
    rows.map((row) => row.account_id)
  )
  const insert = (id: number) => Effect.asVoid(sql`INSERT INTO accounts VALUES (${id}, 'me')`)
  return { ...stores, schema, ids, insert }
})

type Application = Effect.Success<ReturnType<typeof served>>

/** Both ways to open a transaction. */
const openers: ReadonlyArray<
  readonly [
    string,
    (
      application: Served
    ) => <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | SqlError.SqlError | StoreError.StoreError, R>
  ]
> = [
  ["Transactor.withTransaction", ({ transactor }) => transactor.withTransaction],
  ["sql.withTransaction", ({ sql }) => sql.withTransaction]
]

const pairs = openers.flatMap((outer) =>
  openers.map((inner) => [`${inner[0]} in ${outer[0]}`, outer[1], inner[1]] as const)
)

/** Pools of every kind: all of what follows holds on each. */
const pools: ReadonlyArray<readonly [string, PgClient.PgPoolConfig]> = [
  ["a pool", {}],
  ["a multiplexed pool", { multiplex: true }],
  ["a pool of one connection", { maxConnections: 1 }],
  ["a multiplexed pool of one connection", { maxConnections: 1, multiplex: true }],
  ["a client with transforms", { transformQueryNames: snake, transformResultNames: camel }],
  ["a client that prepares nothing", { prepare: false }]
]

function snake(name: string) {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function camel(name: string) {
  return name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

/** The number of the transaction: the same for all that is in it. */
const transactionId = ({ sql }: Served) =>
  Effect.map(sql`SELECT pg_current_xact_id()::text`.values, (rows) => String(rows[0]?.[0]))

describe.each(pools)("on %s", (_, config) => {
  it.live.each(openers)("%s commits the application's statements and the store's together", ([, opener]) =>
    Effect.gen(function* () {
      const application = yield* served(config)
      const { ids, insert } = application
      const { id, read, write } = shard(application, "accounts")
      yield* opener(application)(
        Effect.gen(function* () {
          const before = yield* transactionId(application)
          yield* insert(1)
          yield* write(1n)
          // The application and the store see what the other has done, before the commit.
          assert.deepStrictEqual([yield* ids, yield* read], [[1], 1n])
          yield* insert(2)
          yield* application.offsets.advanceOffset(id, { from: Option.some(1n), to: 2n })
          assert.strictEqual(yield* transactionId(application), before)
        })
      )
      assert.deepStrictEqual([yield* ids, yield* read], [[1, 2], 2n])
      yield* assertWhole(application)
    })
  )

  it.live.each(openers)("%s rolls both back, whichever of them fails", ([, opener]) =>
    Effect.gen(function* () {
      const application = yield* served(config)
      const { ids, insert, offsets } = application
      const { id, read, write } = shard(application, "accounts")
      yield* Effect.all([insert(1), write(1n)])
      const both = Effect.all([insert(2), write(2n)])
      const failures: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        Effect.fail("the application"),
        insert(1),
        offsets.advanceOffset(id, { from: Option.none(), to: 9n }),
        offsets.writeOffset({ ...id, shardNumber: -1, value: 9n }),
        Effect.die("a defect"),
        Effect.interrupt
      ]
      for (const failure of failures) {
        assert.isTrue(Exit.isFailure(yield* Effect.exit(opener(application)(Effect.andThen(both, failure)))))
        assert.deepStrictEqual([yield* ids, yield* read], [[1], 1n])
      }
      yield* assertWhole(application)
    })
  )

  it.live.each(pairs)("%s is a savepoint: it undoes its own part of both", ([, outer, inner]) =>
    Effect.gen(function* () {
      const application = yield* served(config)
      const { ids, insert } = application
      const { read, write } = shard(application, "accounts")
      yield* outer(application)(
        Effect.gen(function* () {
          yield* Effect.all([insert(1), write(1n)])
          const undone = Effect.andThen(Effect.all([insert(2), write(2n)]), Effect.fail("inner"))
          assert.deepStrictEqual(yield* Effect.exit(inner(application)(undone)), Exit.fail("inner"))
          assert.deepStrictEqual([yield* ids, yield* read], [[1], 1n])
          // An error of the server, too, ends no more than the savepoint.
          assert.isTrue(Exit.isFailure(yield* Effect.exit(inner(application)(insert(1)))))
          yield* inner(application)(Effect.all([insert(3), write(3n)]))
        })
      )
      assert.deepStrictEqual([yield* ids, yield* read], [[1, 3], 3n])
      const all = Effect.all([insert(4), write(4n)])
      yield* Effect.exit(outer(application)(Effect.andThen(inner(application)(all), Effect.fail("outer"))))
      assert.deepStrictEqual([yield* ids, yield* read], [[1, 3], 3n])
      yield* assertWhole(application)
    })
  )

  it.live.each(pairs)(
    "%s: either afterCommit waits for the outermost commit, and can use the pool",
    ([, outer, inner]) =>
      Effect.gen(function* () {
        const application = yield* served(config)
        const { ids, insert, sql, transactor } = application
        const { read, write } = shard(application, "accounts")
        const seen = yield* Ref.make<ReadonlyArray<string>>([])
        const note = (what: string) =>
          Effect.gen(function* () {
            const [accounts, offset] = [yield* ids, yield* transactor.withTransaction(read)]
            yield* Ref.update(seen, (all) => [...all, `${what}: ${accounts.join()} ${offset}`])
          }).pipe(Effect.orDie)
        yield* outer(application)(
          Effect.gen(function* () {
            yield* sql.afterCommit(note("sql"))
            yield* transactor.afterCommit(note("transactor"))
            const undone = Effect.all([
              sql.afterCommit(note("undone")),
              transactor.afterCommit(note("undone")),
              Effect.fail("inner")
            ])
            yield* Effect.exit(inner(application)(undone))
            yield* inner(application)(
              Effect.all([sql.afterCommit(note("nested sql")), transactor.afterCommit(note("nested"))])
            )
            yield* Effect.all([insert(1), write(1n)])
            assert.deepStrictEqual(yield* Ref.get(seen), [])
          })
        )
        assert.deepStrictEqual(
          yield* Ref.get(seen),
          ["sql", "transactor", "nested sql", "nested"].map((what) => `${what}: 1 1`)
        )
        yield* assertWhole(application)
      })
  )

  it.live("many callers at once get through, with transactions and streams", () =>
    Effect.gen(function* () {
      const application = yield* served(config)
      const { insert, offsets, sql, transactor } = application
      const callers = Array.from({ length: 20 }, (_, caller) => caller)
      const call = (caller: number) => {
        const { read, write } = shard(application, "callers", caller)
        const both = Effect.all([insert(caller), write(1n), Stream.runDrain(offsets.listOffsets())])
        return Effect.all([
          caller % 2 === 0 ? transactor.withTransaction(both) : sql.withTransaction(both),
          read,
          Stream.runForEach(offsets.listOffsets(), () => Effect.asVoid(read))
        ])
      }
      yield* Effect.forEach(callers, call, { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* application.ids, callers)
      assert.lengthOf(yield* Stream.runCollect(offsets.listOffsets("callers")), callers.length)
      yield* assertWhole(application)
    })
  )
})

describe("the application's client", () => {
  it.live("keeps its transforms, and the store is not touched by them", () =>
    Effect.gen(function* () {
      const upper = (name: string) => name.toUpperCase()
      for (const [transformResultNames, row] of [
        [camel, { accountId: 1, openedBy: "me" }],
        [upper, { ACCOUNT_ID: 1, OPENED_BY: "me" }]
      ] as const) {
        const application = yield* served({ transformQueryNames: snake, transformResultNames })
        const { sql, transactor } = application
        const { read, write } = shard(application, "accounts")
        const accounts = yield* transactor.withTransaction(
          Effect.gen(function* () {
            yield* write(1n)
            yield* sql`INSERT INTO accounts ${sql.insert({ accountId: 1, openedBy: "me" })}`
            return yield* sql`SELECT * FROM accounts`
          })
        )
        assert.deepStrictEqual(accounts, [row])
        assert.strictEqual(yield* read, 1n)
        assert.lengthOf(yield* Stream.runCollect(application.offsets.listOffsets()), 1)
      }
    })
  )

  it.live.each(openers)("%s leaves the fibers that it forks to its caller", ([, opener]) =>
    Effect.gen(function* () {
      const application = yield* served()
      const { read, write } = shard(application, "accounts")
      const end = yield* Deferred.make<void>()
      const fiber = yield* opener(application)(
        Effect.andThen(write(1n), Effect.forkChild(Effect.as(Deferred.await(end), "on its own")))
      )
      assert.strictEqual(yield* read, 1n)
      yield* Deferred.succeed(end, undefined)
      assert.strictEqual(yield* Fiber.join(fiber), "on its own")
    })
  )

  it.live.each(openers)("chooses the isolation of %s with BeginTransaction", ([, opener]) =>
    Effect.gen(function* () {
      const application = yield* served()
      const { read } = shard(application, "accounts")
      const level = Effect.map(application.sql`SHOW transaction_isolation`.values, (rows) => rows[0]?.[0])
      assert.strictEqual(yield* opener(application)(level), "read committed")
      const serializable = Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE")
      assert.strictEqual(yield* serializable(opener(application)(Effect.andThen(read, level))), "serializable")
    })
  )
})

/** Runs an operation that has to wait for a transaction on the same row, ends that, and gives the operation's result. */
const behind = Effect.fnUntraced(function* <A, E, B, F>(
  { applicationName, transactor }: Application,
  held: Effect.Effect<B, F>,
  operation: Effect.Effect<A, E>
) {
  const transaction = yield* open(transactor.withTransaction, held)
  const fiber = yield* Effect.forkChild(operation)
  const isWaiting = (all: ReadonlyArray<{ readonly state: string; readonly query: string }>) =>
    all.some(({ query, state }) => state === "active" && query.includes("offsets_store"))
  assert.isTrue(isWaiting(yield* waitForBackends(applicationName, isWaiting)))
  yield* transaction.commit
  return yield* Fiber.join(fiber)
})

describe("an operation that waits for a concurrent transaction", () => {
  it.live("resets and deletes what that has committed, and counts it", () =>
    Effect.gen(function* () {
      const application = yield* served()
      const { offsets } = application
      const name = yield* unique
      const shards = [0, 1, 2].map((number) => shard(application, name, number))
      yield* Effect.forEach(shards, ({ write }) => write(1n))
      const moved = Effect.forEach(shards.toReversed(), ({ write }) => write(5n))
      assert.strictEqual(yield* behind(application, moved, offsets.resetOffset(name, 2n)), 3)
      assert.deepStrictEqual(yield* Effect.forEach(shards, ({ read }) => read), [2n, 2n, 2n])
      assert.strictEqual(yield* behind(application, moved, offsets.deleteOffsets(name)), 3)
      assert.deepStrictEqual(yield* Effect.forEach(shards, ({ read }) => read), [-1n, -1n, -1n])
    })
  )

  it.live("does not count what that has deleted", () =>
    Effect.gen(function* () {
      const application = yield* served()
      const { offsets } = application
      const name = yield* unique
      for (const operation of [offsets.resetOffset(name, 2n), offsets.deleteOffsets(name)]) {
        yield* shard(application, name).write(1n)
        assert.strictEqual(yield* behind(application, offsets.deleteOffsets(name), operation), 0)
        assert.strictEqual(yield* shard(application, name).read, -1n)
      }
    })
  )

  it.live("advances from what that has committed, also where it was deleted or written anew, as eGo does", () =>
    Effect.gen(function* () {
      const application = yield* served()
      const { offsets } = application
      const { id, read, write } = shard(application, "row")
      const advance = (from: Option.Option<bigint>) =>
        offsets.advanceOffset(id, { from, to: 100n }).pipe(
          Effect.map(({ value }): unknown => value),
          Effect.catchTag("OffsetConflict", ({ actual }) =>
            Effect.succeed(Option.map(actual, (value) => `it is ${value}`))
          )
        )
      const remove = offsets.deleteOffsets(id.projectionName)
      const rewrite = (value: bigint) => Effect.andThen(remove, write(value))

      yield* write(1n)
      assert.strictEqual(yield* behind(application, write(2n), advance(Option.some(2n))), 100n)
      assert.deepStrictEqual(yield* behind(application, write(3n), advance(Option.some(2n))), Option.some("it is 3"))
      assert.deepStrictEqual(yield* behind(application, remove, advance(Option.some(3n))), Option.none())
      yield* write(3n)
      assert.strictEqual(yield* behind(application, remove, advance(Option.none())), 100n)
      assert.deepStrictEqual(yield* behind(application, rewrite(4n), advance(Option.some(3n))), Option.some("it is 4"))
      assert.deepStrictEqual(yield* behind(application, rewrite(5n), advance(Option.none())), Option.some("it is 5"))
      assert.strictEqual(yield* behind(application, rewrite(6n), advance(Option.some(6n))), 100n)
      assert.strictEqual(yield* read, 100n)
      yield* assertWhole(application)
    })
  )
})

describe("a transaction in which a layer is built", () => {
  it.live("has no part in what the layer's stores do together later", () =>
    Effect.gen(function* () {
      const { schema, sql, transactor } = yield* served()
      const built = yield* Deferred.make<Context.Context<DurableStateStore.DurableStateStore | SpoolStore.SpoolStore>>()
      const pool = Layer.succeed(PgClient.PgClient, sql)
      const layer = Layer.fresh(Layer.provide(Postgres.layerStorage({ schema }), pool))
      const build = Effect.flatMap(Layer.build(layer), (context) => Deferred.succeed(built, context))
      yield* Effect.exit(transactor.withTransaction(Effect.andThen(build, Effect.fail("no"))))
      const context = yield* Deferred.await(built)
      const states = Context.get(context, DurableStateStore.DurableStateStore)
      const spool = Context.get(context, SpoolStore.SpoolStore)
      const ids = Array.from({ length: 10 }, (_, n) => `${n}`)
      const store = (id: string) =>
        Effect.all(
          [
            states.writeState({ persistenceId: id, versionNumber: 1n, payload: new Uint8Array(), manifest: "nothing" }),
            spool.storeMeta({ id, maxAttempts: 1 })
          ],
          { concurrency: "unbounded" }
        )
      yield* Effect.forEach(ids, store, { concurrency: "unbounded" })
      assert.lengthOf(yield* states.getStates(ids), 10)
      assert.strictEqual((yield* spool.countByState()).incoming, 10)
    })
  )
})
