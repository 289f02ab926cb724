/** The rates of appends and reads against the size of the log, each beside the same statement on the bare driver. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Stream } from "effect"
import { EventStore } from "effect-strata"
import { SecureRandom } from "effect/crypto"
import { event } from "./events.ts"
import { fibers, type Figure, seeded } from "./harness.ts"
import { fill } from "./reads.ts"

const pageSize = 1_000

const random = SecureRandom.make((size) => crypto.getRandomValues(new Uint8Array(size)))

/** Appends are undone before each round, so that the log is as large in the last one as in the first. */
const appends = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const sql = yield* PgClient.PgClient
    yield* fill(count)
    return {
      prepare: () => Effect.andThen(sql`DELETE FROM events WHERE version > ${count}`, sql`VACUUM events`),
      strata: fibers(16, (fiber) => events.append(event(fiber))),
      other: fibers(16, (fiber) => {
        const { aggregateId, data, eventType } = event(fiber)
        // Ids in the order of time, as the store makes them: in a large index random ones cost more.
        return Effect.flatMap(
          random.uuidV7(),
          (id) => sql`
            INSERT INTO events (id, aggregate_id, event_type, data, metadata)
            VALUES (${id}, ${aggregateId}, ${eventType}, ${JSON.stringify(data)}, 'null')
            RETURNING version, created_at`
        )
      })
    }
  })

/** Reads pages from all over the log: both sides read the same ones. */
const reads = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const sql = yield* PgClient.PgClient
    if ((yield* events.latestVersion) < count) yield* fill(count)
    const pages = (read: (after: bigint) => Effect.Effect<number, unknown>) => {
      const next = seeded(1)
      return (operations: number) =>
        Effect.gen(function* () {
          for (let page = 0; page < operations / pageSize; page++) {
            const length = yield* read(BigInt(Math.floor(next() * (count - pageSize))))
            if (length !== pageSize) yield* Effect.fail(new Error(`a page had ${length} events`))
          }
        })
    }
    return {
      strata: pages((after) => Stream.runCount(events.read({ after, limit: pageSize }))),
      other: pages((after) =>
        Effect.map(
          sql`
            SELECT version, id, aggregate_id, event_type, data, metadata, created_at, stream_name FROM events
            WHERE version > ${after} ORDER BY version LIMIT ${pageSize}`,
          (rows) => rows.length
        )
      )
    }
  })

const names = new Map([
  [10_000, "10k"],
  [100_000, "100k"],
  [1_000_000, "1m"],
  [5_000_000, "5m"]
])

const shared = { otherName: "bare driver", unit: "events/s" }

/** Each size is filled once: its reads come right after its appends. */
export const figures = (quick: boolean): ReadonlyArray<Figure> =>
  [...names]
    .filter(([count]) => !quick || count <= 100_000)
    .flatMap(([count, name]) => [
      {
        ...shared,
        name: `append/size-${name}`,
        operations: 4_000,
        conditions: `16 fibers, beside ${count.toLocaleString("en")} events`,
        sides: appends(count)
      },
      {
        ...shared,
        name: `read/size-${name}`,
        operations: 40_000,
        quick: 10_000,
        conditions: `pages of 1,000 from all over ${count.toLocaleString("en")} events`,
        sides: reads(count)
      }
    ])
