/** The figure of projections, beside a loop on the bare driver that does the same reads and upserts. */
import { PgClient } from "@effect/sql-pg"
import { Effect } from "effect"
import { EventStore, Projection } from "effect-strata"
import { type Figure, type Latency, now, type Services, steadily } from "./harness.ts"
import { fill } from "./reads.ts"

const batchSize = 500

/** Adds the amounts of some events to their accounts. */
const upsert = (
  sql: PgClient.PgClient,
  table: string,
  accounts: ReadonlyArray<string>,
  amounts: ReadonlyArray<number>
) =>
  sql`
    INSERT INTO ${sql(table)} AS b
    SELECT account, sum(amount) FROM unnest(${accounts}::text[], ${amounts}::int[]) AS new (account, amount)
    GROUP BY account ORDER BY account
    ON CONFLICT (account) DO UPDATE SET balance = b.balance + excluded.balance`

const amountOf = (data: unknown): number =>
  typeof data === "object" && data !== null && "amount" in data ? Number(data.amount) : 0

interface Row {
  readonly version: bigint
  readonly aggregate_id: string
  readonly data: unknown
}

const sides = (count: number) =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    const { latestVersion } = yield* EventStore.EventStore
    const context = yield* Effect.context<Services>()
    yield* fill(count)
    for (const table of ["strata_balances", "bare_balances"]) {
      yield* sql`CREATE TABLE ${sql(table)} (account text PRIMARY KEY, balance bigint NOT NULL)`
    }
    const head = yield* latestVersion
    let round = 0

    const strata = Effect.suspend(() => {
      const name = `balances ${round++}`
      const projection = Projection.make({
        name,
        batchSize,
        batchHandler: (events) =>
          upsert(
            sql,
            "strata_balances",
            events.map(({ aggregateId }) => aggregateId),
            events.map(({ data }) => amountOf(data))
          )
      })
      return Effect.raceFirst(Projection.run(projection), Projection.awaitVersion(name, head, "1 minute"))
    })

    const other = Effect.gen(function* () {
      const name = `bare ${round}`
      yield* sql`INSERT INTO offsets_store VALUES (${name}, 0, 0, 0) ON CONFLICT DO NOTHING`
      let after = 0n
      while (true) {
        const rows = yield* sql<Row>`
          SELECT version, id, aggregate_id, event_type, data, metadata, created_at, stream_name FROM events
          WHERE version > ${after} ORDER BY version LIMIT ${batchSize}`
        const last = rows.at(-1)
        if (last === undefined) break
        yield* upsert(
          sql,
          "bare_balances",
          rows.map((row) => row.aggregate_id),
          rows.map(({ data }) => amountOf(data))
        ).pipe(
          Effect.andThen(sql`
            UPDATE offsets_store SET current_offset = ${last.version}, timestamp = 0
            WHERE projection_name = ${name} AND shard_number = 0 AND current_offset = ${after}`),
          sql.withTransaction
        )
        after = last.version
      }
    })

    return {
      strata: () => Effect.provide(strata, context),
      other: () => other
    }
  })

let lagged = 0

/** The time from an append, at a steady rate, until the handler has written what comes of the event, in its transaction. */
const lag = (count: number): Latency => ({
  name: "projection/lag",
  otherName: "append itself",
  conditions: "from the call of append, 1,000 events/s of 16 fibers, one shard that writes a row for each account",
  round: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const sql = yield* PgClient.PgClient
    const context = yield* Effect.context<Services>()
    const called = new Map<string, number>()
    const strata: Array<number> = []
    const other: Array<number> = []
    const name = `lag ${lagged++}`
    yield* sql`CREATE TABLE IF NOT EXISTS lag_balances (account text PRIMARY KEY, balance bigint NOT NULL)`
    const projection = Projection.make({
      name,
      batchSize,
      eventTypes: [name],
      batchHandler: Effect.fnUntraced(function* (batch: ReadonlyArray<EventStore.StoredEvent>) {
        yield* upsert(
          sql,
          "lag_balances",
          batch.map(({ aggregateId }) => aggregateId),
          batch.map(({ data }) => amountOf(data))
        )
        const time = yield* now
        for (const { id } of batch) strata.push(time - (called.get(id) ?? Number.NaN))
      })
    })
    yield* Effect.forkScoped(Effect.provide(Projection.run(projection), context))
    const append = Effect.fnUntraced(function* (index: number) {
      const id = crypto.randomUUID()
      const before = yield* now
      called.set(id, before)
      yield* events.append({ id, aggregateId: `account-${index % 100}`, eventType: name, data: { amount: 1 } })
      other.push((yield* now) - before)
    })
    // The projection runs before the first event that counts is appended.
    yield* append(0)
    yield* Projection.awaitVersion(name, yield* events.latestVersion, "1 minute")
    strata.length = 0
    other.length = 0
    yield* steadily({ count, rate: 1_000, writers: 16 }, append)
    yield* Projection.awaitVersion(name, yield* events.latestVersion, "1 minute")
    return { strata, other }
  })
})

export const latencies = (quick: boolean): ReadonlyArray<Latency> => [lag(quick ? 300 : 5_000)]

export const figures = (quick: boolean): ReadonlyArray<Figure> => {
  const operations = quick ? 10_000 : 100_000
  return [
    {
      name: "projection/batch-500",
      operations,
      quick: operations,
      otherName: "bare driver",
      unit: "events/s",
      conditions: `${operations.toLocaleString("en")} events of 1,000 accounts, into one row each, in batches of 500`,
      sides: sides(operations)
    }
  ]
}
