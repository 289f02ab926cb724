/** The figures of reading events, each beside the same pages on the bare driver. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Stream } from "effect"
import { EventStore } from "effect-strata"
import type { Figure } from "./harness.ts"

const pageSize = 1_000

/** How many bytes the process may grow by while it reads, however much that is. */
const room = 100e6

const expect = (count: number) => (counted: number) =>
  counted === count ? Effect.void : Effect.fail(new Error(`${counted} events were read, not ${count}`))

/** A log of its own, in which each event has another time, and ids are in their order, as if each had been appended alone. */
export const fill = Effect.fnUntraced(function* (count: number) {
  const sql = yield* PgClient.PgClient
  yield* sql`TRUNCATE events RESTART IDENTITY`
  yield* sql`
    INSERT INTO events (id, aggregate_id, event_type, data, metadata, created_at)
    SELECT '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'account-' || n % 1000, 'Deposited',
      jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other'), 'null',
      now() - (${count} - n) * interval '1 ms'
    FROM generate_series(1, ${count}::int) AS n`
  yield* sql`VACUUM ANALYZE events`
})

/** Reads the whole log, from the first event to the last. */
const catchUp = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const sql = yield* PgClient.PgClient
    yield* fill(count)

    const strata = Effect.gen(function* () {
      const before = process.memoryUsage.rss()
      let most = before
      const read = events.read().pipe(
        Stream.chunks,
        Stream.map((page) => {
          most = Math.max(most, process.memoryUsage.rss())
          return page.length
        }),
        Stream.runSum
      )
      yield* Effect.flatMap(read, expect(count))
      if (most - before > room) yield* Effect.fail(new Error(`reading took ${most - before} bytes of memory`))
    })

    const other = Effect.gen(function* () {
      let read = 0
      let after = 0n
      while (true) {
        const rows = yield* sql<{ readonly version: bigint }>`
          SELECT version, id, aggregate_id, event_type, data, metadata, created_at, stream_name FROM events
          WHERE version > ${after} ORDER BY version LIMIT ${pageSize}`
        const last = rows.at(-1)
        if (last === undefined) break
        read += rows.length
        after = last.version
      }
      yield* expect(count)(read)
    })
    return { strata: () => strata, other: () => other }
  })

const figure = (name: string, operations: number): Figure => ({
  name: `read/${name}`,
  operations,
  quick: operations,
  otherName: "bare driver",
  unit: "events/s",
  conditions: `${operations.toLocaleString("en")} events in pages of ${pageSize.toLocaleString("en")}`,
  sides: catchUp(operations)
})

export const figures = (quick: boolean): ReadonlyArray<Figure> => [
  figure("catch-up-100k", quick ? 10_000 : 100_000),
  figure("catch-up-1m", quick ? 30_000 : 1_000_000)
]
