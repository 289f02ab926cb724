/** The shop's report where there is no SQL: states of the memory backend, which commit with the projection's offset, too. */
import { Effect, Layer, Schema, Stream } from "effect"
import { DurableStateStore, StateCodec } from "effect-strata"
import { Report, Sales } from "../examples/shop/shop.ts"

const Sale = Schema.Struct({ customer: Schema.String, total: Schema.Int, isPaid: Schema.Boolean })

const codec = StateCodec.json(Sale, { manifest: "Sale" })

export const layer = Layer.effect(
  Sales,
  Effect.gen(function* () {
    const states = yield* DurableStateStore.DurableStateStore
    const sales = yield* DurableStateStore.typed({
      codec,
      initial: () => ({ customer: "", total: 0, isPaid: false })
    })
    return {
      placed: (id, { customer, total }) =>
        Effect.orDie(sales.modify(`sale/${id}`, () => ({ customer, total, isPaid: false }))),
      paid: (id) => Effect.orDie(sales.modify(`sale/${id}`, (sale) => ({ ...sale, isPaid: true }))),
      report: (customer) =>
        states.listStates({ manifest: "Sale" }).pipe(
          Stream.mapEffect(codec.decode),
          Stream.filter((sale) => sale.customer === customer),
          Stream.runFold(
            () => new Report({ orders: 0, placed: 0, paid: 0 }),
            ({ orders, paid, placed }, { isPaid, total }) =>
              new Report({ orders: orders + 1, placed: placed + total, paid: paid + (isPaid ? total : 0) })
          ),
          Effect.orDie
        )
    }
  })
)
