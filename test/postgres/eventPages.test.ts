/** Pages are bounded by what they weigh, not only by the number of events. */
import { assert, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { EventStore } from "effect-strata"
import { randomBytes } from "node:crypto"
import { event, serveEvents } from "./events.harness.ts"

/** Once what compression cannot make small, and once what it can: both are the same to a reader. */
const large = (_: unknown, index: number) => ({
  ...event("a"),
  data: { text: index % 8 === 0 ? randomBytes(900_000).toString("base64") : "x".repeat(1_200_000) }
})

const sizeOf = (page: ReadonlyArray<EventStore.StoredEvent>) =>
  page.reduce((sum, { data }) => sum + JSON.stringify(data).length, 0)

const versions = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => BigInt(from + index))

it.live("a page holds as many events as fit, and what is left comes with the next ones", () =>
  Effect.gen(function* () {
    const { events } = yield* serveEvents()
    for (const make of [() => event("a"), large, () => event("b")]) {
      yield* events.append(Array.from({ length: 8 }, make))
    }
    for (const [query, expected] of [
      [{}, versions(1, 24)],
      [{ limit: 14 }, versions(1, 14)],
      [{ batchSize: 5 }, versions(1, 24)],
      [{ aggregateIds: ["a"] }, versions(1, 16)],
      [{ direction: "backward", after: 2n }, versions(3, 24).toReversed()],
      [{ direction: "backward", limit: 12 }, versions(13, 24).toReversed()]
    ] as const) {
      const pages = yield* Stream.runCollect(Stream.chunks(events.read(query)))
      assert.deepStrictEqual(
        pages.flat().map(({ version }) => version),
        expected
      )
      for (const page of pages) assert.isAtMost(sizeOf(page), 4 * 1024 * 1024)
    }
    const followed = yield* Stream.runCollect(Stream.take(events.subscribe({ after: "start" }), 24))
    assert.deepStrictEqual(
      followed.map(({ version }) => version),
      versions(1, 24)
    )
  })
)

it.live("the events of one aggregate are found by the index, however long the log is", () =>
  Effect.gen(function* () {
    const { events, schema, sql, table } = yield* serveEvents({ client: { maxConnections: 1 } })
    const log = Array.from({ length: 20_000 }, (_, index) => event(`a${index % 100}`))
    for (let index = 0; index < log.length; index += 5_000) yield* events.append(log.slice(index, index + 5_000))
    yield* sql.unsafe(`ANALYZE ${table}`)
    const read = Effect.gen(function* () {
      yield* sql`SELECT pg_stat_force_next_flush()`
      const [row] = yield* sql`
        SELECT coalesce(sum(idx_tup_read), 0)::int AS read FROM pg_stat_user_indexes WHERE schemaname = ${schema}`
      return Number(row?.["read"])
    })
    const before = yield* read
    // Often enough for a plan that knows no values.
    for (let times = 0; times < 10; times++) {
      const found = yield* Stream.runCollect(events.read({ aggregateIds: ["a7"], batchSize: 100 }))
      assert.lengthOf(found, 200)
    }
    assert.isBelow((yield* read) - before, 10 * 1_000)
  })
)
