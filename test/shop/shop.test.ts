/** The shop of `test/examples/shop`, over HTTP: on memory, on PGlite and on a Postgres server. */
import { NodeHttpServer } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Logger, Queue, Result, Stream } from "effect"
import {
  type DurableStateStore,
  EventStore,
  Projection,
  type SpoolStore,
  Supervisor,
  type Transactor
} from "effect-strata"
import * as Memory from "effect-strata/memory"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { HttpApiClient } from "effect/http-api"
import {
  Accounts,
  Api,
  Receipt,
  limit,
  Mailer,
  MailError,
  OrderEvents,
  Orders,
  Receipts,
  Report,
  Sales,
  sales,
  Server,
  Worker
} from "../examples/shop/shop.ts"
import { layerSchema } from "../support/database.ts"
import * as SalesInMemory from "./salesInMemory.ts"

const range = (count: number) => Array.from({ length: count }, (_, index) => index)
const headers = (key: string) => ({ "idempotency-key": key })
const shop = HttpApiClient.make(Api)
const order = (id: string) => ({ params: { id } })

/** What the report says of a customer once it has handled all events. */
const reportOf = Effect.fnUntraced(function* (customer: string) {
  const { report } = yield* shop
  const { latestVersion } = yield* EventStore.EventStore
  yield* Projection.awaitVersion(sales.name, yield* latestVersion, "4 minutes")
  return yield* report(order(customer))
})

const owedBy = (customer: string) =>
  Effect.flatMap(Accounts, (accounts) => Effect.map(accounts.read(customer), ({ value }) => value.owed))

/** A mail server that refuses each receipt once, and tells of those that it has taken. */
const mailServer = () => {
  const sent = Effect.runSync(Queue.unbounded<Receipt>())
  const refused = new Set<string>()
  const send = Effect.fn(function* (receipt: Receipt) {
    if (refused.has(receipt.order)) return yield* Queue.offer(sent, receipt)
    refused.add(receipt.order)
    return yield* new MailError({ message: "451 try again later" })
  }, Effect.asVoid)
  return { sent, layer: Layer.succeed(Mailer, { send }) }
}

type Stores =
  | EventStore.EventStore
  | Projection.Services
  | DurableStateStore.DurableStateStore
  | SpoolStore.SpoolStore
  | Transactor.Transactor

const suite = <E>(backend: string, stores: Layer.Layer<Stores | Sales, E>) => {
  const mails = mailServer()
  const app = Layer.merge(Server, Layer.provide(Worker, [mails.layer, Supervisor.layer])).pipe(
    Layer.provideMerge(NodeHttpServer.layerTest),
    Layer.provideMerge(stores),
    Layer.provideMerge(Logger.layer([]))
  )
  it.layer(app, { excludeTestServices: true })(`shop (${backend})`, (it) => {
    it.effect("takes an order once, however often it is sent, within the customer's limit", () =>
      Effect.gen(function* () {
        const { place, show } = yield* shop
        const placing = (id: string, total: number, key: string) =>
          place({ ...order(id), headers: headers(key), payload: { customer: "ada", total } })
        const answers = yield* Effect.all(
          range(5).map(() => placing("ada-1", 700, "a")),
          { concurrency: "unbounded" }
        )
        for (const answer of answers) assert.deepInclude(answer, { customer: "ada", total: 700, isPaid: false })
        assert.deepStrictEqual(yield* show(order("ada-1")), answers[0])
        assert.strictEqual((yield* Effect.flip(placing("ada-1", 700, "b")))._tag, "AlreadyPlaced")
        assert.strictEqual((yield* Effect.flip(placing("ada-2", limit, "c")))._tag, "OverLimit")
        assert.strictEqual((yield* Effect.flip(show(order("ada-2"))))._tag, "NoSuchOrder")
        yield* placing("ada-2", 300, "c")
        assert.strictEqual(yield* owedBy("ada"), 1000)
        assert.deepStrictEqual(yield* reportOf("ada"), new Report({ orders: 2, placed: 1000, paid: 0 }))
      })
    )

    it.effect("takes one payment of many that race, and sends its receipt in spite of the mail server", () =>
      Effect.gen(function* () {
        const { pay, place } = yield* shop
        const orders = yield* OrderEvents
        // A payment is another command, even with the key of the order.
        yield* place({ ...order("bob-1"), headers: headers("key 0"), payload: { customer: "bob", total: 10 } })
        const paying = (key: string) => pay({ ...order("bob-1"), headers: headers(key) })
        const racing = yield* Effect.forEach(range(12), (index) => Effect.result(paying(`key ${index % 3}`)), {
          concurrency: "unbounded"
        })
        const refusals = racing.filter(Result.isFailure).map(({ failure }) => failure._tag)
        assert.deepStrictEqual(new Set(refusals), new Set(["AlreadyPaid"]))
        assert.strictEqual(refusals.length, 8)
        const history = yield* orders.loadByAggregate("bob-1")
        assert.deepStrictEqual(
          history.map(({ event }) => event._tag),
          ["Placed", "Paid"]
        )
        assert.strictEqual(yield* owedBy("bob"), 0)
        assert.deepStrictEqual(yield* reportOf("bob"), new Report({ orders: 1, placed: 10, paid: 10 }))
        assert.deepInclude(yield* Queue.take(mails.sent), { order: "bob-1", customer: "bob", total: 10 })
        assert.strictEqual((yield* Effect.flip(pay({ ...order("nobody"), headers: headers("x") })))._tag, "NoSuchOrder")
      })
    )

    it.effect("does nothing by halves", () =>
      Effect.gen(function* () {
        const { pay, place } = yield* shop
        const orders = yield* Orders
        yield* place({ ...order("cyd-1"), headers: headers("a"), payload: { customer: "cyd", total: 5 } })
        // A receipt of another sum has the id that the payment's receipt would have: the last thing that a payment writes fails.
        yield* Receipts.enqueue(new Receipt({ customer: "cyd", order: "cyd-1", total: 6 }), {
          id: "cyd-1",
          delay: "1 day"
        })
        const refusal = yield* Effect.flip(pay({ ...order("cyd-1"), headers: headers("b") }))
        assert.strictEqual(refusal._tag, "ServiceUnavailable")
        assert.strictEqual(yield* owedBy("cyd"), 5)
        assert.strictEqual((yield* orders.load("cyd-1")).state?.isPaid, false)
        assert.deepStrictEqual(yield* reportOf("cyd"), new Report({ orders: 1, placed: 5, paid: 0 }))
      })
    )

    it.effect("keeps all sums in a crowd", () =>
      Effect.gen(function* () {
        const { pay, place } = yield* shop
        const customers = ["dan", "eve", "fay"]
        // Each order is placed and paid by three impatient clients, in whatever order.
        yield* Effect.forEach(
          range(90),
          (index) => {
            const number = index % 30
            const customer = customers[number % 3] ?? ""
            const id = `${customer}-${number}`
            const placing = place({ ...order(id), headers: headers("p"), payload: { customer, total: 1 + number } })
            return Effect.andThen(placing, number < 20 ? pay({ ...order(id), headers: headers("q") }) : Effect.void)
          },
          { concurrency: 20, discard: true }
        )
        for (const [remainder, customer] of customers.entries()) {
          const numbers = range(30).filter((number) => number % 3 === remainder)
          const sum = (of: ReadonlyArray<number>) => of.reduce((total, number) => total + 1 + number, 0)
          const placed = sum(numbers)
          const paid = sum(numbers.filter((number) => number < 20))
          assert.deepStrictEqual(yield* reportOf(customer), new Report({ orders: 10, placed, paid }))
          assert.strictEqual(yield* owedBy(customer), placed - paid)
        }
        const receipts = yield* Stream.runCollect(Stream.take(Stream.fromQueue(mails.sent), 20))
        assert.strictEqual(new Set(receipts.map(({ order }) => order)).size, 20)
      })
    )
  })
}

suite("memory", Layer.provideMerge(SalesInMemory.layer, Memory.layer))
suite("pglite", Layer.provideMerge(Sales.layer, Layer.provideMerge(Postgres.layer(), Pglite.layer())))
suite("postgres", Layer.provideMerge(Sales.layer, Layer.provideMerge(Postgres.layer(), layerSchema())))
