/** The figure of projections, beside a loop on the bare driver that does the same reads and upserts. */
import { PgClient } from "@effect/sql-pg"
import { Effect } from "effect"
import { EventStore, Projection } from "effect-strata"
import type { Figure, Services } from "./harness.ts"
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

export const figures: ReadonlyArray<Figure> = [
  {
    name: "projection/batch-500",
    operations: 100_000,
    otherName: "bare driver",
    unit: "events/s",
    conditions: "100,000 events of 1,000 accounts, into one row each, in batches of 500",
    sides: sides(100_000)
  }
]
