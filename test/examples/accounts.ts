/**
 * A read model that cannot disagree with the log it is made of: the balances of some accounts, from events of payments.
 *
 * Runs on a Postgres inside this process, or on the server of DATABASE_URL if that is set. Only the last lines know which.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Schema, Stream } from "effect"
import { EventStore, OffsetStore, Transactor } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { SqlClient } from "effect/sql"

const Paid = Schema.Struct({ amount: Schema.Int })

const pay = (account: string, amount: number) => ({ aggregateId: account, eventType: "Paid", data: { amount } })

const shard = { projectionName: "balances", shardNumber: 0 }

class PowerCut extends Schema.TaggedError<PowerCut>()("PowerCut", {}) {}

/** Reads the log to its end. The balances are the application's own table, the offset is the store's. */
const project = Effect.fn("project")(function* (options?: { readonly powerCutIn: string }) {
  const sql = yield* SqlClient.SqlClient
  const events = yield* EventStore.EventStore
  const offsets = yield* OffsetStore.OffsetStore
  const { withTransaction } = yield* Transactor.Transactor

  const apply = Effect.fn("apply")(function* ({ aggregateId, data, id, version }: EventStore.StoredEvent) {
    const { amount } = yield* Schema.decodeUnknownEffect(Paid)(data)
    const seen = yield* offsets.getCurrentOffset(shard)
    yield* Console.log(`  event ${version}: ${aggregateId} ${amount}`)
    yield* sql`
      INSERT INTO strata_example.balances AS b VALUES (${aggregateId}, ${amount})
      ON CONFLICT (account) DO UPDATE SET balance = b.balance + excluded.balance`
    if (id === options?.powerCutIn) return yield* new PowerCut()
    yield* offsets.advanceOffset(shard, { from: Option.map(seen, (offset) => offset.value), to: version })
  })

  const seen = yield* offsets.getCurrentOffset(shard)
  const after = Option.match(seen, { onNone: () => 0n, onSome: (offset) => offset.value })
  yield* Stream.runForEach(events.read({ after, eventTypes: ["Paid"] }), (event) => withTransaction(apply(event)))
})

const program = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const events = yield* EventStore.EventStore
  const offsets = yield* OffsetStore.OffsetStore
  yield* sql`CREATE TABLE IF NOT EXISTS strata_example.balances (account TEXT PRIMARY KEY, balance INTEGER NOT NULL)`

  yield* Console.log("Anna and Bert pay in, and Anna pays 30, if nobody else has touched her account meanwhile:")
  const [anna] = yield* events.append([pay("anna", 100), pay("bert", 50)])
  const [spent] = yield* events.append(pay("anna", -30), { expected: anna?.version ?? "none" })
  const tooLate = yield* Effect.flip(events.append(pay("anna", -90), { expected: anna?.version ?? "none" }))
  yield* Console.log(`  somebody who has not seen that is too late: ${tooLate.message}`)
  yield* events.append(pay("bert", 25))

  yield* Console.log("A projection reads the log. The power fails in the third event, after its balance was written:")
  yield* Effect.catchTag(project({ powerCutIn: spent?.id ?? "" }), "PowerCut", () => Console.log("  power cut!"))
  const offset = Option.getOrThrow(yield* offsets.getCurrentOffset(shard))
  yield* Console.log(`The balance and its offset went together: it is at ${offset.value}. It starts again from there:`)
  yield* project()

  yield* Console.log("Every event counts exactly once:")
  const balances = yield* sql`SELECT account, balance FROM strata_example.balances ORDER BY account`
  yield* Console.log(balances.map(({ account, balance }) => `  ${account} has ${balance}`).join("\n"))

  yield* Console.log("To read it all again, the projection is reset:")
  yield* offsets.resetOffset(shard.projectionName, 0n)
  const reset = yield* Stream.runCollect(offsets.listOffsets())
  yield* Console.log(reset.map((row) => `  ${row.projectionName}, shard ${row.shardNumber}: ${row.value}`).join("\n"))
}).pipe(Effect.ensuring(Effect.ignore(SqlClient.SqlClient.use((sql) => sql`DROP SCHEMA strata_example CASCADE`))))

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
