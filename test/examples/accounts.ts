/**
 * A read model that cannot disagree with how far it has read: the balances of some accounts, from a ledger of payments.
 *
 * Runs on a Postgres inside this process, or on the server of DATABASE_URL if that is set. Only the last lines know which.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Schema, Stream } from "effect"
import { OffsetStore, Transactor } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { SqlClient } from "effect/sql"

const ledger = [
  { account: "anna", amount: 100 },
  { account: "bert", amount: 50 },
  { account: "anna", amount: -30 },
  { account: "bert", amount: 25 }
]

const shard = { projectionName: "balances", shardNumber: 0 }

class PowerCut extends Schema.TaggedError<PowerCut>()("PowerCut", {}) {}

/** Reads the ledger to its end. The balances are the application's own table, the offset is the store's. */
const project = Effect.fn("project")(function* (powerCutAt?: bigint) {
  const sql = yield* SqlClient.SqlClient
  const offsets = yield* OffsetStore.OffsetStore
  const { withTransaction } = yield* Transactor.Transactor

  while (true) {
    const seen = Option.map(yield* offsets.getCurrentOffset(shard), (offset) => offset.value)
    const next = Option.getOrElse(seen, () => 0n) + 1n
    const payment = ledger[Number(next) - 1]
    if (payment === undefined) return

    yield* Console.log(`  payment ${next}: ${payment.account} ${payment.amount}`)
    yield* withTransaction(
      Effect.gen(function* () {
        yield* sql`
          INSERT INTO strata_example.balances AS b VALUES (${payment.account}, ${payment.amount})
          ON CONFLICT (account) DO UPDATE SET balance = b.balance + excluded.balance`
        if (next === powerCutAt) return yield* new PowerCut()
        yield* offsets.advanceOffset(shard, { from: seen, to: next })
      })
    )
  }
})

const program = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const offsets = yield* OffsetStore.OffsetStore
  yield* sql`CREATE TABLE IF NOT EXISTS strata_example.balances (account TEXT PRIMARY KEY, balance INTEGER NOT NULL)`
  yield* sql`TRUNCATE strata_example.balances`
  yield* offsets.deleteOffsets(shard.projectionName)

  yield* Console.log(
    "A projection reads the ledger; the power fails in the middle of payment 3, after its balance was written:"
  )
  yield* Effect.catchTag(project(3n), "PowerCut", () => Console.log("  power cut!"))
  const offset = Option.getOrThrow(yield* offsets.getCurrentOffset(shard))
  yield* Console.log(
    `The balance and its offset went together: the offset is ${offset.value}. It starts again from there:`
  )
  yield* project()

  yield* Console.log("Every payment counts exactly once:")
  const balances = yield* sql`SELECT account, balance FROM strata_example.balances ORDER BY account`
  yield* Console.log(balances.map(({ account, balance }) => `  ${account} has ${balance}`).join("\n"))

  yield* Console.log("Somebody who still believes in offset 2 is turned away:")
  const conflict = yield* Effect.flip(offsets.advanceOffset(shard, { from: Option.some(2n), to: 3n }))
  yield* Console.log(`  ${conflict.message}`)

  yield* offsets.resetOffset(shard.projectionName, 0n)
  const reset = yield* Stream.runCollect(offsets.listOffsets())
  yield* Console.log("And to read it all again, it is reset:")
  yield* Console.log(reset.map((row) => `  ${row.projectionName}, shard ${row.shardNumber}: ${row.value}`).join("\n"))
})

const schema = "strata_example"
const embedded = Layer.provideMerge(Postgres.layer({ schema }), Pglite.layer())
const server = Postgres.layerConfig({ schema })

const main = Effect.gen(function* () {
  const url = yield* Config.option(Config.Redacted("DATABASE_URL"))
  if (Option.isSome(url)) return yield* Effect.provide(program, server)
  yield* Console.log("Starting a Postgres inside this process (set DATABASE_URL to use a server) ..")
  return yield* Effect.provide(program, embedded)
})

NodeRuntime.runMain(main)
