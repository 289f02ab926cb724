/** A shop whose log, projections and queues a console shows: some of it is well, and some is not. */
import { Effect, References, Schedule, Schema } from "effect"
import { DurableStateStore, Entity, EventStore, Json, Origin, Projection, Spool } from "effect-strata"

export class Mail extends Schema.Class<Mail>("Mail")({
  to: Schema.String,
  subject: Schema.String,
  order: Schema.String
}) {}

export const Mails = Spool.make({
  name: "mails",
  payload: Mail,
  maxAttempts: 3,
  policies: { default: Spool.backoff() }
})
const Hooks = Spool.make({ name: "webhooks", payload: Schema.Struct({ url: Schema.String, order: Schema.String }) })

class OrderPlaced extends Schema.TaggedClass<OrderPlaced>()("OrderPlaced", { customer: Schema.String }) {}
class OrderPaid extends Schema.TaggedClass<OrderPaid>()("OrderPaid", { total: Schema.Int }) {}
class OrderShipped extends Schema.TaggedClass<OrderShipped>()("OrderShipped", { parcel: Schema.String }) {}

interface OrderState {
  readonly customer: string
  readonly paid: number
  readonly parcel: string
}

/** What an order has become. */
export const Order = Entity.make({
  name: "order",
  events: EventStore.typed({ events: [OrderPlaced, OrderPaid, OrderShipped] }),
  initial: (): OrderState => ({ customer: "", paid: 0, parcel: "" }),
  apply: {
    OrderPlaced: (order, { event: { customer } }) => ({ ...order, customer }),
    OrderPaid: (order, { event: { total } }) => ({ ...order, paid: total }),
    OrderShipped: (order, { event: { parcel } }) => ({ ...order, parcel })
  }
})

const customers = ["anna", "bert", "carla", "dora", "emil"] as const

/** What somebody has stored who would like to run a script in the console. */
export const hostile = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`

/** The largest integer of 64 bits, which JavaScript would round. */
export const large = 9_223_372_036_854_775_807n

class Imported extends Schema.TaggedClass<Imported>()("Imported", { atNanos: Json.Int64 }) {}
const Imports = EventStore.typed({ events: [Imported] })

/** An order with what came of it, each event caused by the one before. */
const order = Effect.fnUntraced(function* (number: number) {
  const { append } = yield* EventStore.EventStore
  const aggregateId = `order-${number}`
  const customer = customers[number % customers.length] ?? "anna"
  const tags = [`customer:${customer}`, `week:${Math.ceil(number / 10)}`]
  const lines = [
    { article: "A-1047", title: "Field notebook, dotted", quantity: 2, price: 890 },
    { article: "B-2210", title: "Pencil, HB", quantity: 1 + (number % 7), price: 240 }
  ]
  const [placed] = yield* append({ aggregateId, eventType: "OrderPlaced", tags, data: { customer, lines } })
  if (placed === undefined) return
  const [paid] = yield* append({ aggregateId, eventType: "OrderPaid", tags, data: { customer, total: 2020 } }).pipe(
    Origin.causedBy(placed)
  )
  if (paid === undefined || number % 4 === 0) return
  yield* append({
    aggregateId,
    eventType: "OrderShipped",
    tags,
    data: { customer, parcel: `P-${7000 + number}` }
  }).pipe(Origin.causedBy(paid))
})

export const orders = (from: number, to: number) =>
  Effect.forEach(
    Array.from({ length: to - from + 1 }, (_, index) => from + index),
    order,
    { discard: true }
  )

const failing = (customer: string) => new Error(`no account for ${customer}: the ledger does not know this customer`)

const ofCustomer = (name: string, bad: string, onFailure: "park" | "stop") =>
  Projection.make({
    name,
    eventTypes: ["OrderPlaced"],
    retry: Schedule.recurs(0),
    heartbeat: "500 millis",
    onFailure,
    handler: ({ data }: EventStore.StoredEvent) =>
      JSON.stringify(data).includes(`"customer":"${bad}"`) ? Effect.fail(failing(bad)) : Effect.void
  })

const balances = Projection.make({ name: "balances", shards: 4, heartbeat: "500 millis", handler: () => Effect.void })

/** Until a projection has handled all that is in the log now. */
export const caughtUp = (name: string) =>
  Effect.flatMap(EventStore.EventStore, ({ latestVersion }) =>
    Effect.flatMap(latestVersion, (version) => Projection.awaitVersion(name, version, "5 minutes"))
  )

/** Runs a projection until it has handled all that is in the log. */
export const ranOnce = <R>(projection: Projection.Projection<R>) =>
  Effect.raceFirst(Projection.run(projection), caughtUp(projection.name))

/** Mails that a server refuses: two have bounced, and one is tried again later. */
const mails = Effect.gen(function* () {
  const mail = (number: number) =>
    new Mail({ to: `customer-${number}@example.org`, subject: "Your parcel is on its way", order: `order-${number}` })
  yield* Mails.enqueue(mail(3), { id: "mail-3", maxAttempts: 1 })
  yield* Mails.enqueue(mail(7), { id: "mail-7", maxAttempts: 1 })
  yield* Mails.enqueue(mail(9), { id: "mail-9" })
  const worker = Mails.run(({ to }) => Effect.fail(new Error(`550 5.1.1 <${to}>: mailbox unavailable`)))
  const settled = Effect.flatMap(Mails.stats, ({ counts }) =>
    counts.bounce === 2 && counts.deferred === 1 ? Effect.void : Effect.fail("not yet")
  )
  yield* Effect.raceFirst(worker, Effect.retry(settled, Schedule.spaced("50 millis")))
  yield* Mails.enqueue(mail(11), { id: "mail-11" })
  yield* Mails.hold("mail-11", "the customer has called")
  yield* Hooks.enqueueAll(
    Array.from({ length: 24 }, (_, number) => ({
      id: `hook-${number}`,
      payload: { url: "https://example.org/hooks", order: `order-${number}` }
    }))
  )
})

/** Accounts of customers, as an application keeps them. */
export const accounts = Effect.gen(function* () {
  const { overwriteState } = yield* DurableStateStore.DurableStateStore
  for (const [index, customer] of customers.entries()) {
    const value = { customer, balance: 12_340 + 1000 * index, currency: "EUR", orders: [`order-${index + 1}`] }
    yield* overwriteState({
      persistenceId: `account-${index + 1}`,
      versionNumber: BigInt(index + 3),
      manifest: "Account",
      payload: new TextEncoder().encode(JSON.stringify(value))
    })
  }
})

/** The shop, whose projections run until the scope closes. What they warn of is meant. */
export const open = Effect.gen(function* () {
  const { append } = yield* EventStore.EventStore
  yield* orders(1, 60)
  yield* Effect.flatMap(Imports, (imports) => imports.append("import-1", new Imported({ atNanos: large })))
  yield* append({ aggregateId: hostile, eventType: "Noted", data: { note: hostile }, metadata: { user: hostile } })
  yield* mails
  yield* Effect.forkScoped(Projection.run(balances))
  yield* Effect.forkScoped(Projection.run(ofCustomer("mailing", "dora", "park")))
  yield* Effect.forkScoped(Effect.exit(Projection.run(ofCustomer("invoices", "emil", "stop"))))
  yield* caughtUp("balances")
  yield* caughtUp("mailing")
  yield* Effect.exit(caughtUp("invoices"))
}).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
