/**
 * The shop of `test/examples/shop` as three servers and two workers, each of which is killed several times while clients place
 * orders and pay them. Every sum is exact, no order is paid twice, and each receipt is stored once and sent.
 */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Layer, Logger, Redacted, Schedule, Schema, type Scope } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { FetchHttpClient } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:http"
import { text } from "node:stream/consumers"
import { fileURLToPath } from "node:url"
import { Accounts, Api, limit, OrderEvents, Receipt, Receipts, Report, Sales, sales } from "../examples/shop/shop.ts"
import { scratchDatabase } from "../support/database.ts"
import { freePort } from "../support/ports.ts"

const main = fileURLToPath(new URL("../examples/shop/main.ts", import.meta.url))

/** A process that is started again whenever it was killed. */
interface Service {
  readonly kill: Effect.Effect<void>
}

/** Runs `main.ts` until the scope closes. It is a mistake of the service to end by itself. */
const serve = Effect.fnUntraced(function* (
  role: "server" | "worker",
  environment: Readonly<Record<string, string>>,
  broken: Deferred.Deferred<never, Error>
): Effect.fn.Return<Service, never, Scope.Scope> {
  let child: ChildProcess | undefined
  const start = () => {
    let log = ""
    const started = spawn(process.execPath, ["--conditions=@effect-strata/source", main, role], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...environment }
    })
    child = started
    for (const output of [started.stdout, started.stderr]) {
      output.on("data", (chunk: Buffer) => (log = `${log}${chunk.toString()}`.slice(-5000)))
    }
    started.once("close", (code, signal) => {
      if (signal !== "SIGKILL") {
        Deferred.doneUnsafe(broken, Effect.fail(new Error(`the ${role} has ended with ${code}:\n${log}`)))
      }
    })
  }
  const end = Effect.promise(async () => {
    const ended = child
    if (ended === undefined || ended.exitCode !== null || ended.signalCode !== null) return
    const closed = once(ended, "close")
    ended.kill("SIGKILL")
    await closed
  })
  yield* Effect.acquireRelease(Effect.sync(start), () => end)
  return { kill: Effect.andThen(end, Effect.sync(start)) }
})

/** A mail server that refuses every third receipt once. It counts how often it has taken each. */
const mailServer = Effect.gen(function* () {
  const port = yield* freePort
  const refused = new Set<string>()
  const taken = new Map<string, number>()
  const decode = Schema.decodeUnknownSync(Schema.fromJsonString(Receipt))
  const server = createServer(async (request, response) => {
    const { order } = decode(await text(request))
    const isRefused = Number(order.split("-")[1]) % 3 === 0 && !refused.has(order)
    if (isRefused) refused.add(order)
    else taken.set(order, (taken.get(order) ?? 0) + 1)
    response.writeHead(isRefused ? 503 : 204).end()
  })
  yield* Effect.acquireRelease(
    Effect.promise(() => once(server.listen(port, "127.0.0.1"), "listening")),
    () => Effect.sync(() => server.closeAllConnections())
  )
  yield* Effect.addFinalizer(() => Effect.sync(() => server.close()))
  return { url: `http://127.0.0.1:${port}/send`, refused, taken }
})

const customers = 10
const orders = Array.from({ length: 100 }, (_, number) => ({
  id: `order-${number}`,
  customer: `customer-${number % customers}`,
  total: 50 + ((number * 37) % 150)
}))

/** Answers of the shop. All else that comes of a request says nothing: the client sends it again, to another server. */
const refusals = new Set(["AlreadyPlaced", "AlreadyPaid", "OverLimit", "NoSuchOrder"])

/** What the clients were told, by order. */
interface Told {
  readonly placed: Set<string>
  /** The keys of the payments that were taken. */
  readonly paid: Map<string, Set<string>>
}

/**
 * Places each order twice with one key, and has most of them paid by three clients at a time, two of which use the same key.
 * `afterAnswer` runs after each answer.
 */
const trade = Effect.fnUntraced(function* (ports: ReadonlyArray<number>, afterAnswer: Effect.Effect<void>) {
  const told: Told = { placed: new Set(), paid: new Map() }
  const clients = yield* Effect.forEach(ports, (port) =>
    HttpApiClient.make(Api, { baseUrl: `http://127.0.0.1:${port}` })
  )
  type Client = (typeof clients)[number]
  let requests = 0
  const ask = <A, E extends { readonly _tag: string }>(request: (client: Client) => Effect.Effect<A, E>) =>
    Effect.suspend(() => {
      const client = clients[requests++ % clients.length]
      return client === undefined ? Effect.interrupt : Effect.timeout(request(client), "20 seconds")
    }).pipe(
      Effect.retry({
        schedule: Schedule.spaced("100 millis"),
        while: ({ _tag }) => !refusals.has(_tag)
      }),
      Effect.option,
      Effect.tap(() => afterAnswer)
    )

  yield* Effect.forEach(
    orders,
    Effect.fnUntraced(function* ({ customer, id, total }, index) {
      const params = { id }
      const headers = (key: string) => ({ "idempotency-key": key })
      const placing = ask((client) => client.place({ params, headers: headers("p"), payload: { customer, total } }))
      for (const answer of yield* Effect.all([placing, placing], { concurrency: 2 })) {
        if (answer._tag === "Some") told.placed.add(id)
      }
      if (index % 5 === 0) return
      const keys = ["a", "a", "b"]
      const paying = (key: string) => ask((client) => client.pay({ params, headers: headers(key) }))
      const answers = yield* Effect.forEach(keys, paying, { concurrency: 3 })
      told.paid.set(id, new Set(keys.filter((_, index) => answers[index]?._tag === "Some")))
    }),
    { concurrency: 8, discard: true }
  )
  return told
})

const sumOf = (all: ReadonlyArray<{ readonly total: number }>) => all.reduce((sum, { total }) => sum + total, 0)

/** Compares what is stored with what the clients were told. */
const verify = Effect.fnUntraced(function* (told: Told) {
  const events = yield* EventStore.EventStore
  const history = yield* OrderEvents
  const accounts = yield* Accounts
  const { report } = yield* Sales
  yield* Projection.awaitVersion(sales.name, yield* events.latestVersion, "5 minutes")

  const paid = orders.filter(({ id }) => (told.paid.get(id)?.size ?? 0) > 0)
  for (const { id } of orders) {
    const tags = (yield* history.loadByAggregate(id)).map(({ event }) => event._tag)
    const isPaid = paid.some((order) => order.id === id)
    assert.deepStrictEqual(tags, isPaid ? ["Placed", "Paid"] : told.placed.has(id) ? ["Placed"] : [], id)
  }
  for (const keys of told.paid.values()) assert.isAtMost(keys.size, 1)

  for (let number = 0; number < customers; number++) {
    const customer = `customer-${number}`
    const own = orders.filter((order) => order.customer === customer && told.placed.has(order.id))
    const [placedSum, paidSum] = [sumOf(own), sumOf(own.filter((order) => paid.includes(order)))]
    assert.deepStrictEqual(
      yield* report(customer),
      new Report({ orders: own.length, placed: placedSum, paid: paidSum })
    )
    const { owed } = (yield* accounts.read(customer)).value
    assert.strictEqual(owed, placedSum - paidSum, customer)
    assert.isAtMost(owed, limit)
  }
  return paid.map(({ id }) => id)
})

it.live(
  "three servers and two workers that are killed take each command once, and send each receipt",
  () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const mails = yield* mailServer
      const ports = yield* Effect.replicateEffect(freePort, 3)
      const broken = yield* Deferred.make<never, Error>()
      const environment = { DATABASE_URL: url, MAIL_URL: mails.url, DB_POOL_SIZE: "10" }
      const services = yield* Effect.all(
        [
          ...ports.map((port) => serve("server", { ...environment, PORT: String(port) }, broken)),
          serve("worker", environment, broken),
          serve("worker", environment, broken)
        ],
        { concurrency: "unbounded" }
      )

      let answers = 0
      let kills = 0
      const killSome = Effect.suspend(() => {
        const next = ++answers % 30 === 0 ? services[kills++ % services.length] : undefined
        return next === undefined ? Effect.void : next.kill
      })
      const told = yield* trade(ports, killSome).pipe(
        Effect.provide(FetchHttpClient.layer),
        Effect.raceFirst(Deferred.await(broken))
      )
      assert.isAtLeast(kills, 2 * services.length)
      assert.isAtLeast(told.placed.size, 50)

      const Stores = Layer.provideMerge(
        Sales.layer,
        Layer.provideMerge(Postgres.layer(), PgClient.layer({ url: Redacted.make(url), maxConnections: 2 }))
      )
      const paid = yield* Effect.gen(function* () {
        const paid = yield* verify(told)
        const { counts } = yield* Receipts.stats.pipe(
          Effect.repeat({
            schedule: Schedule.spaced("500 millis"),
            until: ({ counts }) => counts.archived + counts.bounce >= paid.length
          })
        )
        assert.deepStrictEqual(counts, {
          incoming: 0,
          active: 0,
          deferred: 0,
          hold: 0,
          bounce: 0,
          archived: paid.length
        })
        return paid
      }).pipe(Effect.provide(Stores), Effect.raceFirst(Deferred.await(broken)))
      assert.deepStrictEqual([...mails.taken.keys()].toSorted(), paid.toSorted())
      assert.isNotEmpty(mails.refused)
    }).pipe(Effect.provide(Logger.layer([]))),
  { timeout: 600_000 }
)
