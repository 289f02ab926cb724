/** What entities infer, checked by the compiler (`npm run check`); there is nothing to run. */
import { Context, Effect, Schema } from "effect"
import {
  type DurableStateStore,
  Entity,
  EventStore,
  type InvalidInput,
  type StoreError,
  Transactor
} from "effect-strata"
import { expectTypeOf } from "vitest"

class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", { amount: Schema.Int }) {}
class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { sum: Schema.Int }) {}
class Shipped extends Schema.TaggedClass<Shipped>()("Shipped", { to: Schema.String }) {}
class Overdrawn extends Schema.TaggedError<Overdrawn>()("Overdrawn", {}) {}
class Rates extends Context.Service<Rates, number>()("test/Rates") {}

const Events = EventStore.typed({ events: [Deposited, Withdrawn] })
const settings = { name: "account", events: Events, initial: () => 0 }

const Accounts = Entity.make({
  ...settings,
  apply: {
    Deposited: (balance, { event, version }) => {
      expectTypeOf(balance).toEqualTypeOf<number>()
      expectTypeOf(event).toEqualTypeOf<Deposited>()
      expectTypeOf(version).toEqualTypeOf<bigint>()
      return balance + event.amount
    },
    Withdrawn: (balance, { event }) => balance - event.sum
  }
})
expectTypeOf<Effect.Services<typeof Accounts>>().toEqualTypeOf<
  EventStore.EventStore | DurableStateStore.DurableStateStore | Transactor.Transactor
>()
expectTypeOf<Effect.Error<typeof Accounts>>().toEqualTypeOf<InvalidInput.InvalidInput>()

expectTypeOf(
  Entity.make({
    ...settings,
    apply: (balance, { event }) => {
      expectTypeOf(event).toEqualTypeOf<Deposited | Withdrawn>()
      return balance
    }
  })
).toEqualTypeOf<typeof Accounts>()

// A view with `unknown: "raw"` has one more class.
Entity.make({
  name: "account",
  events: EventStore.typed({ events: [Deposited], unknown: "raw" }),
  initial: (id) => id,
  apply: { Deposited: (state) => state, UnknownEvent: (_, { event }) => event.eventType }
})

export const commands = Effect.gen(function* () {
  const { execute, load } = yield* Accounts
  type Failure = InvalidInput.InvalidInput | StoreError.StoreError
  type Lost = EventStore.VersionConflict | EventStore.DuplicateEvent
  type Done = Entity.Executed<number, Deposited | Withdrawn>

  expectTypeOf(load("anna")).toEqualTypeOf<Effect.Effect<Entity.Loaded<number>, Failure>>()

  // One event, several, or an effect of these: with its own errors and services.
  expectTypeOf(execute("anna", () => new Deposited({ amount: 1 }))).toEqualTypeOf<Effect.Effect<Done, Lost | Failure>>()
  execute("anna", () => [new Deposited({ amount: 1 }), new Withdrawn({ sum: 1 })], { key: "a", metadata: { by: "me" } })
  expectTypeOf(
    execute("anna", (balance) => (balance < 1 ? Effect.fail(new Overdrawn()) : new Withdrawn({ sum: 1 })))
  ).toEqualTypeOf<Effect.Effect<Done, Overdrawn | Lost | Failure>>()
  const decided = execute(
    "anna",
    Effect.fn(function* (balance) {
      expectTypeOf(balance).toEqualTypeOf<number>()
      if (balance > (yield* Rates)) return yield* new Overdrawn()
      return [new Deposited({ amount: 1 })]
    })
  )
  expectTypeOf(decided).toEqualTypeOf<Effect.Effect<Done, Overdrawn | Lost | Failure, Rates>>()
  expectTypeOf(Transactor.withTransaction(decided)).toEqualTypeOf<
    Effect.Effect<Done, Overdrawn | Lost | Failure, Rates | Transactor.Transactor>
  >()

  // @ts-expect-error: not an event of these aggregates
  execute("anna", () => [new Shipped({ to: "anna" })])
  // @ts-expect-error: nor alone, nor in an effect
  execute("anna", () => Effect.succeed(new Shipped({ to: "anna" })))
  // @ts-expect-error: there is no such option
  execute("anna", () => [], { kye: "a" })
})

// @ts-expect-error: Property 'Withdrawn' is missing
Entity.make({ ...settings, apply: { Deposited: (balance) => balance } })
// @ts-expect-error: 'Shipped' does not exist
Entity.make({ ...settings, apply: { Deposited: () => 0, Withdrawn: () => 0, Shipped: () => 0 } })
// @ts-expect-error: Property 'apply' is missing
Entity.make(settings)
// @ts-expect-error: Property 'initial' is missing
Entity.make({ name: "account", events: Events, apply: { Deposited: () => 0, Withdrawn: () => 0 } })
// @ts-expect-error: Type 'string' is not assignable to type 'number'
Entity.make({ ...settings, apply: { Deposited: () => "0", Withdrawn: () => 0 } })
// @ts-expect-error: Property 'sum' does not exist on type 'Deposited'
Entity.make({ ...settings, apply: { Deposited: (balance, { event }) => balance + event.sum, Withdrawn: () => 0 } })
