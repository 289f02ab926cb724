/** Kysely and Drizzle in the stores' transaction: the recipes of the documentation. */
import { assert, it } from "@effect/vitest"
import { eq } from "drizzle-orm"
import { integer, pgTable, text } from "drizzle-orm/pg-core"
import { drizzle } from "drizzle-orm/pg-proxy"
import { Effect } from "effect"
import { EventStore, Projection, Transactor } from "effect-strata"
import { SqlClient } from "effect/sql"
import {
  type Compilable,
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler
} from "kysely"
import { expectTypeOf } from "vitest"
import { untilHandled } from "../../src/testing/ProjectionScene.ts"
import { event, serveEvents } from "./events.harness.ts"
import { execute } from "./harness.ts"

// Kysely: it builds the statement, and the client of the stores runs it, in the transaction of the moment.

interface Tables {
  readonly balances: { readonly account: string; readonly balance: number }
}

const kysely = new Kysely<Tables>({
  dialect: {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler()
  }
})

/** Runs a query of Kysely where the effect runs: in its transaction, if it is in one. */
const runKysely = <Row extends object>(query: Compilable<Row>) =>
  SqlClient.SqlClient.use((sql) => {
    const { parameters, sql: text } = query.compile()
    return sql.unsafe<Row>(text, parameters)
  })

// Drizzle: its proxy driver hands each statement over, and maps the rows itself.

const balances = pgTable("balances", { account: text().primaryKey(), balance: integer().notNull() })

/** Runs what `use` makes with Drizzle where the effect runs. */
const runDrizzle = <A>(use: (db: ReturnType<typeof drizzle>) => PromiseLike<A>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    // The context of this fiber has the transaction.
    const run = Effect.runPromiseWith(yield* Effect.context<never>())
    const db = drizzle(async (text, params) => ({ rows: [...(await run(sql.unsafe(text, params).values))] }))
    return yield* Effect.tryPromise(() => Promise.resolve(use(db)))
  })

const serve = Effect.gen(function* () {
  const schemaless = yield* serveEvents()
  const { schema } = schemaless
  yield* execute([`CREATE TABLE ${schema}.balances (account text PRIMARY KEY, balance int NOT NULL)`])
  const stores = yield* serveEvents({
    client: { startupParameters: { search_path: schema } },
    options: { schema }
  })
  const rows = Effect.map(stores.sql`SELECT account, balance FROM balances ORDER BY account`.values, (all) => [...all])
  return { ...stores, rows }
})

const addByKysely = (account: string, amount: number) =>
  runKysely(
    kysely
      .insertInto("balances")
      .values({ account, balance: amount })
      .onConflict((conflict) =>
        conflict.column("account").doUpdateSet((row) => ({
          balance: row("balances.balance", "+", row.ref("excluded.balance"))
        }))
      )
      .returning(["account", "balance"])
  )

it.live("Kysely writes in the stores' transaction, or not at all, and its rows have their types", () =>
  Effect.gen(function* () {
    const { context, events, rows } = yield* serve
    const transfer = (fails: boolean) =>
      Transactor.Transactor.use(({ withTransaction }) =>
        Effect.gen(function* () {
          yield* EventStore.EventStore.use((log) => log.append(event("anna")))
          const [row] = yield* addByKysely("anna", 10)
          expectTypeOf(row).toEqualTypeOf<{ account: string; balance: number } | undefined>()
          if (fails) return yield* Effect.fail("no" as const)
          return row
        }).pipe(withTransaction)
      )
    yield* Effect.gen(function* () {
      assert.strictEqual(yield* Effect.flip(transfer(true)), "no")
      assert.deepStrictEqual([yield* rows, yield* events.load()], [[], []])
      assert.deepStrictEqual(yield* transfer(false), { account: "anna", balance: 10 })
      assert.deepStrictEqual(yield* rows, [["anna", 10]])
      const found = yield* runKysely(kysely.selectFrom("balances").selectAll().where("balance", ">", 5))
      assert.deepStrictEqual([...found], [{ account: "anna", balance: 10 }])
    }).pipe(Effect.provideContext(context))
  }).pipe(Effect.scoped)
)

it.live("Drizzle writes in the stores' transaction, or not at all, and its rows have their types", () =>
  Effect.gen(function* () {
    const { context, events, rows } = yield* serve
    const transfer = (fails: boolean) =>
      Transactor.Transactor.use(({ withTransaction }) =>
        Effect.gen(function* () {
          yield* EventStore.EventStore.use((log) => log.append(event("anna")))
          const [row] = yield* runDrizzle((db) =>
            db.insert(balances).values({ account: "anna", balance: 10 }).returning()
          )
          expectTypeOf(row).toEqualTypeOf<{ account: string; balance: number } | undefined>()
          if (fails) return yield* Effect.fail("no" as const)
          return row
        }).pipe(withTransaction)
      )
    yield* Effect.gen(function* () {
      assert.strictEqual(yield* Effect.flip(transfer(true)), "no")
      assert.deepStrictEqual([yield* rows, yield* events.load()], [[], []])
      assert.deepStrictEqual(yield* transfer(false), { account: "anna", balance: 10 })
      yield* runDrizzle((db) => db.update(balances).set({ balance: 11 }).where(eq(balances.account, "anna")))
      assert.deepStrictEqual(yield* runDrizzle((db) => db.select().from(balances)), [{ account: "anna", balance: 11 }])
      assert.deepStrictEqual(yield* rows, [["anna", 11]])
    }).pipe(Effect.provideContext(context))
  }).pipe(Effect.scoped)
)

it.live("a projection's handler writes with either of them, exactly once", () =>
  Effect.gen(function* () {
    const { context, events, rows } = yield* serve
    const stored = yield* events.append([event("anna"), event("bert"), event("anna")])
    let failures = 0
    const projection = Projection.make({
      name: "balances",
      handler: ({ aggregateId }) =>
        Effect.gen(function* () {
          yield* addByKysely(aggregateId, 1)
          yield* runDrizzle((db) => db.update(balances).set({ balance: 7 }).where(eq(balances.account, "bert")))
          if (aggregateId === "bert" && failures++ === 0) return yield* Effect.fail("again")
        })
    })
    yield* Effect.raceFirst(Projection.run(projection), untilHandled("balances", stored.at(-1)?.version ?? 0n)).pipe(
      Effect.provideContext(context)
    )
    assert.strictEqual(failures, 2)
    assert.deepStrictEqual(yield* rows, [
      ["anna", 2],
      ["bert", 7]
    ])
  }).pipe(Effect.scoped)
)
