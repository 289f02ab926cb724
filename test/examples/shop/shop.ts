/**
 * A shop: orders and payments over HTTP, what each customer owes, a report in SQL, and receipts by mail.
 *
 * The whole service is this file, to copy from. `main.ts` runs it as any number of processes on one database, `story.ts` in a
 * single one without a server, and the tests in memory, too. A request that is sent again, a process that is killed and a mail
 * server that is down change no sum: each command takes effect once, and each receipt is sent.
 */
import { Context, Effect, Layer, Schedule, Schema } from "effect"
import {
  DurableStateStore,
  Entity,
  EventStore,
  InvalidInput,
  Projection,
  Spool,
  SpoolStore,
  StateCodec,
  StoreError,
  Transactor
} from "effect-strata"
import { HttpRouter } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiError, HttpApiGroup } from "effect/http-api"
import { Migrator, SqlClient, type SqlError, SqlSchema } from "effect/sql"

// Orders: their state follows from their events

const terms = { customer: Schema.NonEmptyString, total: Schema.Int.check(Schema.isGreaterThan(0)) }

export class Placed extends Schema.TaggedClass<Placed>()("Placed", terms) {}
export class Paid extends Schema.TaggedClass<Paid>()("Paid", {}) {}
export class Order extends Schema.Class<Order>("shop/Order")({ ...terms, isPaid: Schema.Boolean }) {}

export const OrderEvents = EventStore.typed({ events: [Placed, Paid] })

export const Orders = Entity.make({
  name: "order",
  events: OrderEvents,
  initial: (): Order | undefined => undefined,
  apply: {
    Placed: (_, { event: { customer, total } }) => new Order({ customer, total, isPaid: false }),
    Paid: (order) => order && new Order({ ...order, isPaid: true })
  }
})

// What a customer owes: a state, of which only the latest counts

export class Account extends Schema.Class<Account>("shop/Account")({ owed: Schema.Int }) {}

export const Accounts = DurableStateStore.typed({
  codec: StateCodec.json(Account),
  initial: () => new Account({ owed: 0 })
})

/** What a customer may owe. */
export const limit = 1000

// Receipts: mails that are tried again until the mail server has taken them

export class Receipt extends Schema.Class<Receipt>("shop/Receipt")({ ...terms, order: Schema.String }) {}

export const Receipts = Spool.make({
  name: "receipts",
  payload: Receipt,
  policies: { default: Schedule.exponential("1 second") },
  onSuccess: "archive",
  retention: "30 days"
})

export class MailError extends Schema.TaggedError<MailError>()("MailError", { message: Schema.String }) {}

/** Sends mails. A mail may be sent twice, where the process ends before it could say that it has been sent. */
export class Mailer extends Context.Service<
  Mailer,
  { readonly send: (receipt: Receipt) => Effect.Effect<void, MailError> }
>()("shop/Mailer") {}

// Commands: all that a command writes commits in one transaction, once, however often it is called with its key

export class NoSuchOrder extends Schema.TaggedError<NoSuchOrder>()("NoSuchOrder", {}, { httpApiStatus: 404 }) {}
export class AlreadyPlaced extends Schema.TaggedError<AlreadyPlaced>()("AlreadyPlaced", {}, { httpApiStatus: 409 }) {}
export class AlreadyPaid extends Schema.TaggedError<AlreadyPaid>()("AlreadyPaid", {}, { httpApiStatus: 409 }) {}
export class OverLimit extends Schema.TaggedError<OverLimit>()("OverLimit", terms, { httpApiStatus: 402 }) {}

const existing = (order: Order | undefined) =>
  order === undefined ? Effect.fail(new NoSuchOrder()) : Effect.succeed(order)

const place = Effect.fn("Shop.place")(function* (id: string, placed: Placed, key: string) {
  const orders = yield* Orders
  const accounts = yield* Accounts
  const { customer, total } = placed
  const { state } = yield* orders.execute(
    id,
    Effect.fn(function* (order) {
      if (order !== undefined) return yield* new AlreadyPlaced()
      yield* accounts.modify(customer, ({ owed }) =>
        owed + total > limit ? Effect.fail(new OverLimit({ customer, total })) : new Account({ owed: owed + total })
      )
      return placed
    }),
    { key: `place ${key}` }
  )
  return yield* existing(state)
}, Transactor.withTransaction)

const pay = Effect.fn("Shop.pay")(function* (id: string, key: string) {
  const orders = yield* Orders
  const accounts = yield* Accounts
  const { state } = yield* orders.execute(
    id,
    Effect.fn(function* (state) {
      const { customer, isPaid, total } = yield* existing(state)
      if (isPaid) return yield* new AlreadyPaid()
      yield* accounts.modify(customer, ({ owed }) => new Account({ owed: owed - total }))
      yield* Receipts.enqueue(new Receipt({ customer, order: id, total }), { id })
      return new Paid()
    }),
    { key: `pay ${key}` }
  )
  return yield* existing(state)
}, Transactor.withTransaction)

const show = Effect.fn("Shop.show")(function* (id: string) {
  const orders = yield* Orders
  const { state } = yield* orders.load(id)
  return yield* existing(state)
})

// The report: a read model in SQL, which commits together with how far it has read the log

export class Report extends Schema.Class<Report>("shop/Report")({
  orders: Schema.Int,
  placed: Schema.Int,
  paid: Schema.Int
}) {}

export class Sales extends Context.Service<
  Sales,
  {
    readonly placed: (order: string, placed: Placed) => Effect.Effect<unknown, SqlError.SqlError>
    readonly paid: (order: string) => Effect.Effect<unknown, SqlError.SqlError>
    readonly report: (customer: string) => Effect.Effect<Report, SqlError.SqlError>
  }
>()("shop/Sales") {
  static readonly layer = Layer.effect(
    Sales,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrator.make({})({
        table: "shop_migrations",
        loader: Migrator.fromRecord({
          "0001_sales": sql`CREATE TABLE sales (
            id TEXT PRIMARY KEY, customer TEXT NOT NULL, total INT NOT NULL, is_paid BOOLEAN NOT NULL DEFAULT false
          )`
        })
      })
      const report = SqlSchema.findOne({
        Request: Schema.String,
        Result: Report,
        execute: (customer) => sql`
          SELECT count(*)::INT AS orders, coalesce(sum(total), 0)::INT AS placed,
            coalesce(sum(total) FILTER (WHERE is_paid), 0)::INT AS paid
          FROM sales WHERE customer = ${customer}`
      })
      return {
        placed: (id, { customer, total }) => sql`INSERT INTO sales ${sql.insert({ id, customer, total })}`,
        paid: (id) => sql`UPDATE sales SET is_paid = true WHERE id = ${id}`,
        report: (customer) => Effect.catchTag(report(customer), ["SchemaError", "NoSuchElementError"], Effect.die)
      }
    })
  )
}

export const sales = Projection.make({
  name: "sales",
  events: OrderEvents,
  shards: 4,
  on: {
    Placed: ({ aggregateId, event }) => Sales.use((sales) => sales.placed(aggregateId, event)),
    Paid: ({ aggregateId }) => Sales.use((sales) => sales.paid(aggregateId))
  }
})

// HTTP

const params = { id: Schema.NonEmptyString.check(Schema.isMaxLength(200)) }
/** A client sends a request again with the same key, until it has an answer. */
const headers = { "idempotency-key": Schema.NonEmptyString.check(Schema.isMaxLength(200)) }
const Unavailable = HttpApiError.ServiceUnavailable

export const Api = HttpApi.make("shop").add(
  HttpApiGroup.make("shop", { topLevel: true }).add(
    HttpApiEndpoint.put("place", "/orders/:id", {
      params,
      headers,
      payload: Schema.Struct(terms),
      success: Order,
      error: [AlreadyPlaced, OverLimit, NoSuchOrder, Unavailable]
    }),
    HttpApiEndpoint.post("pay", "/orders/:id/payment", {
      params,
      headers,
      success: Order,
      error: [NoSuchOrder, AlreadyPaid, Unavailable]
    }),
    HttpApiEndpoint.get("show", "/orders/:id", { params, success: Order, error: [NoSuchOrder, Unavailable] }),
    HttpApiEndpoint.get("report", "/customers/:id", { params, success: Report, error: Unavailable })
  )
)

const Failure = Schema.Union([
  StoreError.StoreError,
  InvalidInput.InvalidInput,
  EventStore.VersionConflict,
  EventStore.DuplicateEvent,
  DurableStateStore.StaleState,
  SpoolStore.IdConflict
])
const isFailure = Schema.is(Failure)

/** What is no refusal of the shop's is logged, and the client may try again. */
const answer = <A, E, R>(command: Effect.Effect<A, E | typeof Failure.Type, R>) =>
  Effect.catch(command, (error): Effect.Effect<never, E | HttpApiError.ServiceUnavailable> =>
    isFailure(error) ? Effect.andThen(Effect.logError(error), Effect.fail(new Unavailable())) : Effect.fail(error)
  )

const Handlers = HttpApiBuilder.group(Api, "shop", (handlers) =>
  handlers.handleAll({
    place: ({ headers, params, payload }) => answer(place(params.id, new Placed(payload), headers["idempotency-key"])),
    pay: ({ headers, params }) => answer(pay(params.id, headers["idempotency-key"])),
    show: ({ params }) => answer(show(params.id)),
    report: ({ params }) => Effect.orDie(Sales.use((sales) => sales.report(params.id)))
  })
)

// What a process does: one of these, or both, in as many processes as there are

/** Answers requests. */
export const Server = HttpRouter.serve(Layer.provide(HttpApiBuilder.layer(Api), Handlers))

/** Keeps the report, and sends receipts. */
export const Worker = Layer.merge(
  Projection.layer(sales),
  Spool.layer(Receipts, (receipt) => Mailer.use((mailer) => mailer.send(receipt)))
)
