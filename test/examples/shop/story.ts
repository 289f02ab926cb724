/**
 * A day of the shop, told: `npm start`.
 *
 * It runs on a Postgres inside this process, or on the server of DATABASE_URL if that is set. Only the last lines know which.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Config, Console, Deferred, Effect, Latch, Layer, Option, References, Stream } from "effect"
import { EventStore, Projection, Supervisor } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { HttpApiClient } from "effect/http-api"
import { SqlClient } from "effect/sql"
import { Api, limit, Mailer, MailError, OrderEvents, Sales, sales, Server, Worker } from "./shop.ts"

const say = (line: string) => Console.log(line)

/** A mail server that answers once the story has come to it, and is down at first. */
const makeMailServer = Effect.gen(function* () {
  const open = yield* Latch.make()
  const delivered = yield* Deferred.make<void>()
  let attempts = 0
  const send: Mailer["Service"]["send"] = Effect.fn(function* ({ customer, order, total }) {
    yield* open.await
    attempts++
    if (attempts === 1) {
      yield* say("  attempt 1: the mail server is down. It is tried again in a second")
      return yield* new MailError({ message: "421 down" })
    }
    yield* say(`  attempt ${attempts}: sent to ${customer}, "thank you for ${total} for order ${order}"`)
    yield* Deferred.succeed(delivered, undefined)
  })
  return { send, delivery: Effect.andThen(open.open, Deferred.await(delivered)) }
})

const story = (delivery: Effect.Effect<void>) =>
  Effect.gen(function* () {
    const shop = yield* HttpApiClient.make(Api)
    const orders = yield* OrderEvents
    const { latestVersion } = yield* EventStore.EventStore
    const sayLog = Stream.runForEach(orders.read(), ({ aggregateId, event, version }) =>
      say(`  event ${version}: ${event._tag} ${aggregateId}`)
    )
    const order = (id: string, key: string) => ({ params: { id }, headers: { "idempotency-key": key } })
    const ofAda = (total: number) => ({ payload: { customer: "ada", total } })

    yield* say("Ada orders a lamp for 400. No answer comes, and her browser sends the request four times:")
    const lamp = shop.place({ ...order("lamp", "click 1"), ...ofAda(400) })
    const answers = yield* Effect.all([lamp, lamp, lamp, lamp], { concurrency: "unbounded" })
    yield* say(`  ${answers.length} answers: she owes ${answers[0].total}. The log has it once:`)
    yield* sayLog

    yield* say(`She also wants a sofa for 900, but nobody may owe more than ${limit}:`)
    const refused = yield* Effect.flip(shop.place({ ...order("sofa", "click 2"), ...ofAda(900) }))
    yield* say(`  ${refused._tag}, and nothing has happened`)

    yield* say("She pays the lamp in two windows at the same time:")
    const pay = (key: string) =>
      Effect.match(shop.pay(order("lamp", key)), {
        onSuccess: () => "paid",
        onFailure: ({ _tag }) => `refused: ${_tag}`
      })
    const results = yield* Effect.all([pay("click 3"), pay("click 4")], { concurrency: "unbounded" })
    for (const result of results.toSorted()) yield* say(`  ${result}`)
    yield* say("Payment, debt and receipt were one transaction. The receipt goes out by mail:")
    yield* delivery

    yield* say("Now she can have the sofa. The report has it as soon as you ask:")
    yield* shop.place({ ...order("sofa", "click 5"), ...ofAda(900) })
    const show = Effect.gen(function* () {
      yield* Projection.awaitVersion(sales.name, yield* latestVersion, "1 minute")
      const { orders, paid, placed } = yield* shop.report({ params: { id: "ada" } })
      yield* say(`  ada: ${orders} orders for ${placed}, of which she has paid ${paid}`)
    })
    yield* show

    yield* say("A report that is lost or wrong is made again, from the events:")
    yield* sayLog
    const sql = yield* SqlClient.SqlClient
    const rebuilding = Projection.rebuild(sales, { mode: "in place", clear: () => sql`DELETE FROM sales` })
    yield* Stream.runForEach(rebuilding, ({ done, total }) => say(`  ${done} of ${total}`))
    yield* show
  })

// On which database

const schema = "strata_example"

const Database = Layer.unwrap(
  Effect.gen(function* () {
    const url = yield* Config.option(Config.Redacted("DATABASE_URL"))
    if (Option.isSome(url)) {
      const pool = yield* Postgres.PostgresConfig.pool
      return Layer.orDie(
        PgClient.layer({ ...pool, startupParameters: { ...pool.startupParameters, search_path: schema } })
      )
    }
    yield* say("Starting a Postgres inside this process (set DATABASE_URL to use a server) ..")
    return Layer.orDie(Pglite.layer())
  })
)

/** Leaves nothing on the server. */
const Schema = Layer.effectDiscard(
  Effect.acquireRelease(SqlClient.SqlClient, (sql) => Effect.ignore(sql`DROP SCHEMA ${sql(schema)} CASCADE`))
)

const main = Effect.gen(function* () {
  const { delivery, send } = yield* makeMailServer
  const Shop = Layer.merge(Server, Layer.provide(Worker, [Layer.succeed(Mailer, { send }), Supervisor.layer])).pipe(
    Layer.provideMerge(NodeHttpServer.layerTest),
    Layer.provideMerge(Sales.layer),
    Layer.provideMerge(Postgres.layer({ schema })),
    Layer.provideMerge(Schema),
    Layer.provideMerge(Database)
  )
  yield* Effect.provide(story(delivery), Shop)
})

NodeRuntime.runMain(Effect.provideService(main, References.MinimumLogLevel, "Error"))
