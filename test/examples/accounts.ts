/**
 * A read model that cannot disagree with the log it is made of: the balances of some accounts, from events of payments.
 *
 * Runs on a Postgres inside this process, or on the server of DATABASE_URL if that is set. Only the last lines know which.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Schedule, Schema, Stream } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { SqlClient } from "effect/sql"

const Paid = Schema.Struct({ amount: Schema.Int })

const pay = (account: string, amount: number) => ({ aggregateId: account, eventType: "Paid", data: { amount } })

class PowerCut extends Schema.TaggedError<PowerCut>()("PowerCut", {}) {}

/** The balances are the application's own table, the offset is the store's: they commit together. */
const balances = (powerCutIn?: string) =>
  Projection.make({
    name: "balances",
    eventTypes: ["Paid"],
    batchSize: 2,
    // The power does not come back by waiting.
    retry: Schedule.recurs(0),
    handler: Effect.fn("balances")(function* ({ aggregateId, data, id, version }) {
      const sql = yield* SqlClient.SqlClient
      const { amount } = yield* Schema.decodeUnknownEffect(Paid)(data)
      yield* Console.log(`  event ${version}: ${aggregateId} ${amount}`)
      yield* sql`
        INSERT INTO strata_example.balances AS b VALUES (${aggregateId}, ${amount})
        ON CONFLICT (account) DO UPDATE SET balance = b.balance + excluded.balance`
      if (id === powerCutIn) return yield* new PowerCut()
    })
  })

const program = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const events = yield* EventStore.EventStore
  yield* sql`CREATE TABLE IF NOT EXISTS strata_example.balances (account TEXT PRIMARY KEY, balance INTEGER NOT NULL)`

  yield* Console.log("Anna and Bert pay in, and Anna pays 30, if nobody else has touched her account meanwhile:")
  const [anna] = yield* events.append([pay("anna", 100), pay("bert", 50)])
  const [spent] = yield* events.append(pay("anna", -30), { expected: anna?.version ?? "none" })
  const tooLate = yield* Effect.flip(events.append(pay("anna", -90), { expected: anna?.version ?? "none" }))
  yield* Console.log(`  somebody who has not seen that is too late: ${tooLate.message}`)
  yield* events.append(pay("bert", 25))

  yield* Console.log("A projection reads the log. The power fails in the third event, after its balance was written:")
  const stopped = yield* Effect.flip(Projection.run(balances(spent?.id)))
  yield* Console.log(
    `  power cut! ${stopped._tag === "ProjectionFailed" ? `before event ${stopped.version}` : stopped}`
  )
  const [status] = yield* Projection.status("balances")
  yield* Console.log(
    `The balance and its offset went together: it is at ${status?.offset}. It starts again from there:`
  )
  yield* Effect.forkScoped(Projection.run(balances()))
  const head = yield* events.latestVersion
  yield* Projection.awaitVersion("balances", head, "30 seconds")

  yield* Console.log("Every event counts exactly once:")
  const paid = sql`SELECT account, balance FROM strata_example.balances ORDER BY account`
  const show = Effect.map(paid, (rows) => rows.map(({ account, balance }) => `  ${account} has ${balance}`).join("\n"))
  yield* Console.log(yield* show)

  yield* Console.log("What is paid now is in the balances as soon as you ask for it:")
  const [last] = yield* events.append(pay("anna", 5))
  yield* Projection.awaitVersion("balances", last?.version ?? head, "30 seconds")
  yield* Console.log(yield* show)

  yield* Console.log("To read it all again, it is rebuilt:")
  const clear = () => sql`DELETE FROM strata_example.balances`
  yield* Stream.runForEach(Projection.rebuild(balances(), { mode: "in place", clear }), ({ done, total }) =>
    Console.log(`  ${done} of ${total}`)
  )
  yield* Console.log(yield* show)
}).pipe(
  Effect.scoped,
  Effect.ensuring(Effect.ignore(SqlClient.SqlClient.use((sql) => sql`DROP SCHEMA strata_example CASCADE`)))
)

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
