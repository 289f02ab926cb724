/** What projections infer, checked by the compiler (`npm run check`); there is nothing to run. */
import { Context, Effect, Schema } from "effect"
import { EventStore, Projection } from "effect-strata"
import { expectTypeOf } from "vitest"

class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { sum: Schema.Int }) {}
const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })
const Raw = EventStore.typed({ events: [Deposited], unknown: "raw" })

class Books extends Context.Service<Books, (amount: number) => void>()("test/Books") {}
class Mail extends Context.Service<Mail, (amount: number) => void>()("test/Mail") {}
const name = "balances"

// Stored events

expectTypeOf(
  Projection.make({
    name,
    handler: (event) => Effect.as(Books, expectTypeOf(event).toEqualTypeOf<EventStore.StoredEvent>())
  })
).toEqualTypeOf<Projection.Projection<Books>>()
expectTypeOf(
  Projection.make({
    name,
    batchHandler: Effect.fn(function* (events) {
      expectTypeOf(events).toEqualTypeOf<ReadonlyArray<EventStore.StoredEvent>>()
      yield* Mail
    })
  })
).toEqualTypeOf<Projection.Projection<Mail>>()
expectTypeOf(Projection.fold({ eventTypes: ["Deposited"] }, 0, (sum, { data }) => sum + Number(data))).toExtend<
  Effect.Effect<number, unknown, EventStore.EventStore>
>()

// Events of a view

expectTypeOf(
  Projection.make({
    name,
    events: Accounts,
    handler: ({ aggregateId, event, version }) =>
      event._tag === "Deposited" ? Effect.as(Books, [aggregateId, event.amount]) : Effect.fail([version, event.sum])
  })
).toEqualTypeOf<Projection.Projection<Books>>()
expectTypeOf(
  Projection.make({
    name,
    events: Accounts,
    handler: Effect.fn(function* ({ event }) {
      expectTypeOf(event).toEqualTypeOf<Deposited | Withdrawn>()
      yield* Mail
    })
  })
).toEqualTypeOf<Projection.Projection<Mail>>()
expectTypeOf(
  Projection.make({
    name,
    events: Accounts,
    batchHandler: (events, slot) => {
      expectTypeOf(events).toEqualTypeOf<ReadonlyArray<EventStore.TypedEvent<Deposited | Withdrawn>>>()
      expectTypeOf(slot).toEqualTypeOf<Projection.Slot>()
      return Books
    }
  })
).toEqualTypeOf<Projection.Projection<Books>>()
expectTypeOf(
  Projection.make({
    name,
    events: Accounts,
    on: {
      Deposited: ({ event }) => Effect.as(Books, event.amount),
      Withdrawn: ({ event }) => Effect.andThen(Mail, Effect.fail(event.sum))
    }
  })
).toEqualTypeOf<Projection.Projection<Books | Mail>>()
expectTypeOf(
  Projection.make({
    name,
    events: Accounts,
    on: { Withdrawn: ({ event }) => Effect.as(Mail, event.sum) },
    otherwise: "pass"
  })
).toEqualTypeOf<Projection.Projection<Mail>>()
expectTypeOf(
  Projection.make({
    name,
    events: Raw,
    on: { Deposited: () => Effect.void, UnknownEvent: ({ event }) => Effect.log(event.data) }
  })
).toEqualTypeOf<Projection.Projection>()
expectTypeOf(
  Projection.fold({ events: Accounts }, 0, (sum, { event }) => sum + (event._tag === "Deposited" ? event.amount : 0))
).toExtend<Effect.Effect<number, unknown, EventStore.EventStore>>()

// Mistakes

// @ts-expect-error: Property 'handler' is missing
Projection.make({ name })
// @ts-expect-error: Property 'handler' is missing
Projection.make({ name, events: Accounts })
// @ts-expect-error: there is no handler of Withdrawn, and it is not passed
Projection.make({ name, events: Accounts, on: { Deposited: () => Effect.void } })
// @ts-expect-error: the view has no such class
Projection.make({ name, events: Accounts, on: { Deposted: () => Effect.void }, otherwise: "pass" })
// @ts-expect-error: a projection has one kind of handler
Projection.make({ name, handler: () => Effect.void, batchHandler: () => Effect.void })
Projection.make({
  name,
  events: Accounts,
  // @ts-expect-error: the view has no event with this field
  handler: ({ event }: { event: { other: string } }) => Effect.log(event.other)
})
// @ts-expect-error: without a view there are stored events
Projection.make({ name, handler: ({ event }: EventStore.TypedEvent<Deposited>) => Effect.log(event.amount) })

// Tags

const Tagged = EventStore.typed({
  events: [Deposited, Withdrawn],
  tags: { Deposited: ({ amount }) => [`of:${amount}`, "all"], Withdrawn: () => ["all"] }
})
declare const amount: number
const pass = { name, handler: () => Effect.void }
Projection.make({ ...pass, tags: ["anything"], items: [{ eventTypes: ["Deposited"], tags: ["anything"] }] })
Projection.make({ ...pass, events: Accounts, tags: ["anything"], items: [{ events: [Withdrawn], tags: ["anything"] }] })
Projection.make({ ...pass, events: Tagged, tags: ["all"], items: [{ events: [Deposited], tags: ["of:7"] }] })
expectTypeOf(
  Projection.make({
    name,
    events: Tagged,
    items: [{ events: [Deposited], tags: [`of:${amount}`] }, {}],
    on: { Deposited: ({ event }) => Effect.as(Books, event.amount), Withdrawn: () => Mail }
  })
).toEqualTypeOf<Projection.Projection<Books | Mail>>()
// @ts-expect-error a tag that the view does not give
Projection.make({ ...pass, events: Tagged, tags: ["al"] })
// @ts-expect-error in an item, too
Projection.make({ ...pass, events: Tagged, items: [{ tags: ["of:many"] }] })
// @ts-expect-error types instead of classes
Projection.make({ ...pass, events: Tagged, items: [{ eventTypes: ["Deposited"] }] })
// @ts-expect-error a class that is not of the view
Projection.make({ ...pass, events: Raw, items: [{ events: [Withdrawn] }] })
