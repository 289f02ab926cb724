/** How much of a compact log is read for a filter: its indexes have blocks of versions, and minutes. */
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Stream } from "effect"
import type { EventStore } from "effect-strata"
import type * as Postgres from "effect-strata/postgres"
import { readBy } from "../support/rowsRead.ts"
import { serveEvents } from "./events.harness.ts"
import { execute } from "./harness.ts"

const eventCount = 200_000

/**
 * Every second event is of one aggregate, the others of a thousand. Each hundredth is of another type than most, and two are
 * rare. An event comes each 10 milliseconds.
 */
const fill = (table: string, first: number, last: number) => `
  INSERT INTO ${table} (id, aggregate_id, event_type, data, created_at)
  SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'hot' ELSE 'account-' || n % 1000 END,
    CASE WHEN n % ${eventCount / 2} = 51 THEN 'Rare' WHEN n % 100 = 0 THEN 'Closed' ELSE 'Deposited' END,
    jsonb_build_object('amount', n), timestamptz '2026-01-01 00:00:00Z' + n * interval '10 ms'
  FROM generate_series(${first}, ${last}) AS n`

const timeOf = (version: number) => DateTime.makeUnsafe(Date.UTC(2026, 0, 1) + version * 10)

type Read = NonNullable<Parameters<EventStore.EventStore["Service"]["read"]>[0]>

const serveFilled = Effect.fnUntraced(function* (extras: Postgres.Options, isAnalyzed = true) {
  const served = yield* serveEvents({ options: { layout: "compact", ...extras }, client: { maxConnections: 1 } })
  const { events, table } = served
  const part = 50_000
  for (let first = 1; first <= eventCount; first += part) yield* execute([fill(table, first, first + part - 1)])
  // Rows that have moved to the end of the table come last among the equal entries of a block.
  if (isAnalyzed) yield* execute([`UPDATE ${table} SET data = '{}' WHERE version % 61 = 1`, `VACUUM ANALYZE ${table}`])
  /** What an effect gives, and how many rows it reads. */
  const reading = <A, E, R>(effect: Effect.Effect<A, E, R>) => readBy(served, effect)
  /** Reads the events of these versions, and says how many rows that took. */
  const reads = Effect.fnUntraced(function* (query: Read, versions: ReadonlyArray<number>) {
    const { result, rows } = yield* reading(Stream.runCollect(events.read(query)))
    assert.deepStrictEqual(
      result.map(({ version }) => Number(version)),
      versions
    )
    return rows
  })
  return { ...served, reading, reads }
})

/** The versions that are meant, in the order in which they are read. */
const versionsOf = (
  matches: (version: number) => boolean,
  { after = 0, direction, limit }: { readonly after?: number; readonly direction: string; readonly limit: number }
) => {
  const all: Array<number> = []
  const isForward = direction === "forward"
  for (let n = isForward ? after + 1 : eventCount; n > after && n <= eventCount; n += isForward ? 1 : -1) {
    if (matches(n) && all.push(n) === limit) break
  }
  return all
}

const isRare = (n: number) => n % (eventCount / 2) === 51
const isClosed = (n: number) => !isRare(n) && n % 100 === 0
const isDeposited = (n: number) => !isRare(n) && !isClosed(n)

/** Each statement of a read looks some rows up besides: the mark, the event at the cursor, and an end of each partition. */
const few = 100

/** What a page reads of the block that it begins in. */
const typeBlock = 256
const aggregateBlock = 64

/** Cursors at the begin, in the middle and at the end of blocks. */
const cursors = [0, 255, 256, 100_000, 100_100, 131_071, 131_072, 199_990]

/** How often a statement runs until its plan knows no values. */
const untilGeneric = 7

const kinds: ReadonlyArray<readonly [name: string, options: Postgres.Options]> = [
  ["without partitions", {}],
  ["with partitions", { partitions: { size: 60_000n } }]
]

describe.each(kinds)("a compact log %s", (_, extras) => {
  it.live("gives a page of some types, or of one aggregate, for little more rows than the page has", () =>
    Effect.gen(function* () {
      const { events, reading, reads } = yield* serveFilled(extras)
      for (const direction of ["forward", "backward"] as const) {
        for (let times = 0; times < untilGeneric; times++) {
          const page = { direction, limit: 500 } as const
          assert.isBelow(yield* reads({ eventTypes: ["Rare"], direction }, versionsOf(isRare, page)), few)
          const one = { direction, limit: 1 } as const
          assert.isBelow(yield* reads({ eventTypes: ["Rare"], ...one }, versionsOf(isRare, one)), few)
          assert.isBelow(yield* reads({ eventTypes: ["Missing"], direction }, []), few)
          assert.isBelow(
            yield* reads({ eventTypes: ["Closed"], ...page }, versionsOf(isClosed, page)),
            page.limit + typeBlock + few
          )
          assert.isBelow(
            yield* reads(
              { eventTypes: ["Closed", "Deposited"], ...page },
              versionsOf((n) => !isRare(n), page)
            ),
            3 * page.limit + 2 * typeBlock + few
          )
          assert.isBelow(
            yield* reads(
              { aggregateIds: ["account-1"], ...page },
              versionsOf((n) => n % 1000 === 1, page)
            ),
            page.limit + few
          )
        }
        for (const after of cursors) {
          for (const limit of [1, 100]) {
            const page = { after, direction, limit }
            const read = { after: BigInt(after), direction, limit }
            assert.isBelow(
              yield* reads({ eventTypes: ["Deposited"], ...read }, versionsOf(isDeposited, page)),
              limit + 2 * typeBlock + few
            )
            assert.isBelow(
              yield* reads(
                { aggregateIds: ["hot"], ...read },
                versionsOf((n) => n % 2 === 0, page)
              ),
              limit + 2 * aggregateBlock + few
            )
          }
        }
      }
      for (const [since, count] of [
        [0n, 200],
        [199_000n, 1]
      ] as const) {
        for (let times = 0; times < untilGeneric; times++) {
          const { result, rows } = yield* reading(events.loadByAggregate("account-1", since))
          assert.lengthOf(result, count)
          assert.isBelow(rows, count + few)
        }
      }
    })
  )

  it.live("gives what came after a time for the rows of a minute, and of its blocks", () =>
    Effect.gen(function* () {
      const { reads } = yield* serveFilled(extras)
      // A look or two for each block that is passed, the events of two blocks, and those of a minute.
      const most = 4 * (eventCount / 4096) + 4 * 4096 + 6000 + few
      for (const direction of ["forward", "backward"] as const) {
        for (let times = 0; times < untilGeneric; times++) {
          for (const last of [60_000, 61_234, 199_000]) {
            for (const limit of [1, 500]) {
              const page = { direction, limit } as const
              const createdAfter = timeOf(last)
              const isYoung = (n: number) => n > last
              assert.isBelow(yield* reads({ createdAfter, ...page }, versionsOf(isYoung, page)), most)
              const closed = versionsOf((n) => isYoung(n) && isClosed(n), page)
              assert.isBelow(yield* reads({ createdAfter, eventTypes: ["Closed"], ...page }, closed), most)
            }
          }
          assert.isBelow(yield* reads({ createdAfter: timeOf(eventCount), direction, limit: 1 }, []), most)
        }
      }
    })
  )

  it.live("tells an append that expects something for the rows of a block", () =>
    Effect.gen(function* () {
      const { events, reading } = yield* serveFilled(extras)
      let last = BigInt(eventCount)
      for (let times = 0; times < untilGeneric; times++) {
        const append = events.append({ aggregateId: "hot", eventType: "Deposited", data: {} }, { expected: last })
        const { result, rows } = yield* reading(append)
        assert.isBelow(rows, 2 * aggregateBlock + few)
        last = result[0]?.version ?? 0n
        const wrong = yield* reading(Effect.flip(append))
        assert.strictEqual(wrong.result._tag, "VersionConflict")
        assert.isBelow(wrong.rows, 2 * aggregateBlock + few)
      }
    })
  )

  it.live("does so before the server has looked at its rows", () =>
    Effect.gen(function* () {
      const { events, reading, reads } = yield* serveFilled(extras, false)
      const one = { direction: "forward", limit: 1 } as const
      for (let times = 0; times < untilGeneric; times++) {
        assert.isBelow(yield* reads({ eventTypes: ["Rare"], ...one }, versionsOf(isRare, one)), few)
        const after = 100_000
        const page = { ...one, after: BigInt(after) }
        const deposited = versionsOf(isDeposited, { ...one, after })
        assert.isBelow(yield* reads({ eventTypes: ["Deposited"], ...page }, deposited), 2 * typeBlock + few)
        assert.isBelow(yield* reads({ aggregateIds: ["hot"], ...page }, [after + 2]), 2 * aggregateBlock + few)
        const append = events.append({ aggregateId: "hot", eventType: "Other", data: {} }, { expected: "some" })
        assert.isBelow((yield* reading(append)).rows, 2 * aggregateBlock + few)
      }
    })
  )
})
