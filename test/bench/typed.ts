/** The figures of the typed view, each beside the same call of the store itself: what encoding and decoding add. */
import { Effect, Schema, Stream } from "effect"
import { EventStore } from "effect-strata"
import { type Figure } from "./harness.ts"

class Deposited extends Schema.TaggedClass<Deposited>()("Deposited", {
  amount: Schema.Int,
  currency: Schema.String,
  note: Schema.String,
  at: Schema.Date
}) {}
class Withdrawn extends Schema.TaggedClass<Withdrawn>()("Withdrawn", { amount: Schema.Int }) {}

const Accounts = EventStore.typed({ events: [Deposited, Withdrawn] })

const batch = Array.from({ length: 1_000 }, () => {
  return new Deposited({ amount: 100, currency: "EUR", note: "a payment like any other", at: new Date() })
})

const plain = batch.map(({ _tag, at, ...data }) => ({
  aggregateId: "plain",
  eventType: _tag,
  data: Object.assign(data, { at: at.toISOString() })
}))

/** Reads pages of 1,000 events: both sides read the same ones. */
const reads = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const accounts = yield* Accounts
  const aggregateId = `typed-${crypto.randomUUID()}`
  yield* accounts.append(aggregateId, batch)
  const query = { aggregateIds: [aggregateId] }
  const times = (operations: number) => ({ times: operations / 1_000 - 1 })
  return {
    strata: (operations: number) => Effect.repeat(Stream.runDrain(accounts.read(query)), times(operations)),
    other: (operations: number) => Effect.repeat(Stream.runDrain(events.read(query)), times(operations))
  }
})

const appends = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const accounts = yield* Accounts
  const times = (operations: number) => ({ times: operations / 1_000 - 1 })
  return {
    strata: (operations: number) => Effect.repeat(accounts.append("typed", batch), times(operations)),
    other: (operations: number) => Effect.repeat(events.append(plain), times(operations))
  }
})

const otherName = "store without classes"
const conditions = "1 fiber, 1,000 events at a time"

export const figures: ReadonlyArray<Figure> = [
  { name: "typed/read", operations: 20_000, quick: 5_000, otherName, unit: "events/s", conditions, sides: reads },
  { name: "typed/append", operations: 10_000, quick: 4_000, otherName, unit: "events/s", conditions, sides: appends }
]
