/** The figures of the `EventStore`, each beside the same INSERT on the bare driver. */
import { PgClient } from "@effect/sql-pg"
import { Effect } from "effect"
import { EventStore } from "effect-strata"
import { fibers, type Figure } from "./harness.ts"

export const event = (aggregate: number) => ({
  aggregateId: `account-${aggregate}`,
  eventType: "Deposited",
  data: { amount: 100, currency: "EUR", note: "a payment like any other" }
})

export const appends = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const sql = yield* PgClient.PgClient
    return {
      strata: fibers(count, (fiber) => events.append(event(fiber))),
      other: fibers(count, (fiber) => {
        const { aggregateId, data, eventType } = event(fiber)
        return sql`
          INSERT INTO events (id, aggregate_id, event_type, data, metadata)
          VALUES (${crypto.randomUUID()}, ${aggregateId}, ${eventType}, ${JSON.stringify(data)}, 'null')
          RETURNING version, created_at`
      })
    }
  })

const batches = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const sql = yield* PgClient.PgClient
  const batch = Array.from({ length: 1_000 }, (_, index) => event(index % 100))
  return {
    strata: (operations: number) => Effect.repeat(events.append(batch), { times: operations / 1_000 - 1 }),
    other: (operations: number) =>
      Effect.suspend(
        () => sql`
          INSERT INTO events (id, aggregate_id, event_type, data, metadata)
          SELECT id, aggregate_id, event_type, data, 'null' FROM unnest(
            ${batch.map(() => crypto.randomUUID())}::text[],
            ${batch.map(({ aggregateId }) => aggregateId)}::text[],
            ${batch.map(({ eventType }) => eventType)}::text[],
            ${batch.map(({ data }) => JSON.stringify(data))}::jsonb[]
          ) AS new (id, aggregate_id, event_type, data)
          RETURNING version, created_at`
      ).pipe(Effect.repeat({ times: operations / 1_000 - 1 }))
  }
})

const otherName = "bare driver"

export const figures: ReadonlyArray<Figure> = [
  {
    name: "append/1",
    operations: 6_000,
    quick: 300,
    otherName,
    unit: "events/s",
    conditions: "1 fiber",
    sides: appends(1)
  },
  { name: "append/256", operations: 5_120, otherName, unit: "events/s", conditions: "256 fibers", sides: appends(256) },
  {
    name: "append/batch-1000",
    operations: 10_000,
    quick: 4_000,
    otherName,
    unit: "events/s",
    conditions: "1 fiber, 1,000 events at a time",
    sides: batches
  }
]
