/** How much of a log of a million events is read for a filter: what an index finds, and what none does. */
import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Stream } from "effect"
import type { EventStore } from "effect-strata"
import { fillStatements } from "../support/largeLogs.ts"
import { readBy } from "../support/rowsRead.ts"
import { plainInsert, serveEvents } from "./events.harness.ts"
import { execute } from "./harness.ts"

const eventCount = 1_000_000

const rare = (table: string, id: string) => plainInsert(table, id).replace("'Plain'", "'Rare'")

/** A log of so many events, and how many rows a read of it looks at. */
const serveFilled = Effect.fnUntraced(function* (more: (table: string) => ReadonlyArray<string>, count = eventCount) {
  const { events, logged, schema, sql, table, watched } = yield* serveEvents({ client: { maxConnections: 1 } })
  yield* execute([...fillStatements(table, count), ...more(table), `VACUUM ANALYZE ${table}`])
  const reads = Effect.fnUntraced(function* (query: Parameters<(typeof events)["read"]>[0], count: number) {
    const { result, rows } = yield* readBy({ schema, sql }, watched(Stream.runCollect(events.read(query))))
    const found: ReadonlyArray<EventStore.StoredEvent> = result
    assert.lengthOf(found, count)
    const versions = found.map(({ version }) => version)
    const ascending = versions.toSorted((a, b) => (a < b ? -1 : 1))
    assert.deepStrictEqual(versions, query?.direction === "backward" ? ascending.toReversed() : ascending)
    return rows
  })
  return { logged, reads, sql, table }
})

/** Each statement of a read looks some rows up besides: the mark, and the event at the cursor. */
const few = 100

it.live("a page of some types reads what it returns, and a filter that no index serves says so once", () =>
  Effect.gen(function* () {
    const { logged, reads, sql, table } = yield* serveFilled((table) => [
      `INSERT INTO ${table}_tags (tag, version) SELECT 'group:tenth', n FROM generate_series(10, ${eventCount}, 10) AS n`,
      `INSERT INTO ${table}_tags (tag, version) SELECT 'group:some', n FROM generate_series(1, 1000) AS n`,
      `VACUUM ANALYZE ${table}_tags`,
      rare(table, "r1"),
      rare(table, "r2")
    ])
    const types = ["Rare", "Closed"]
    for (const direction of ["forward", "backward"] as const) {
      // Often enough for a plan that knows no values.
      for (let times = 0; times < 7; times++) {
        assert.isBelow(yield* reads({ eventTypes: ["Rare"], direction }, 2), few)
        assert.isBelow(yield* reads({ eventTypes: ["Rare"], limit: 1, direction }, 1), few)
        assert.isBelow(yield* reads({ eventTypes: ["Missing"], direction }, 0), few)
        // The limit of each type, and the events themselves.
        assert.isBelow(yield* reads({ eventTypes: types, limit: 500, direction }, 500), 3 * 500 + few)
        assert.isBelow(yield* reads({ eventTypes: [...types, "Deposited"], limit: 500, direction }, 500), 4 * 500 + few)
      }
    }
    assert.deepStrictEqual(logged, [])
    // Events that were imported: one that is old beside the youngest, and one that is young in the middle of old ones.
    yield* execute([
      `UPDATE ${table} SET created_at = '2200-01-02T00:00:00Z' WHERE version IN (500000, 999999)`,
      `UPDATE ${table} SET created_at = '2200-01-01T00:00:00.0009Z' WHERE version = 500001`,
      `UPDATE ${table} SET created_at = '2000-01-01T00:00:00Z' WHERE version = 999998`,
      `VACUUM ANALYZE ${table}`
    ])
    const createdAfter = DateTime.makeUnsafe("2200-01-01T00:00:00Z")
    const [row] = yield* sql`SELECT created_at::text FROM ${sql.literal(table)} WHERE version = 998000`
    const recent = DateTime.makeUnsafe(String(row?.["created_at"]))
    // The blocks of versions that are passed, and those in which something was found: both are looked at twice.
    const passed = 4 * (eventCount / 4096) + 4 * 4096
    for (const direction of ["forward", "backward"] as const) {
      for (let times = 0; times < 7; times++) {
        assert.isBelow(yield* reads({ createdAfter, direction }, 2), passed)
        assert.isBelow(yield* reads({ createdAfter, limit: 1, direction }, 1), passed)
        assert.isBelow(yield* reads({ createdAfter: recent, limit: 500, direction }, 500), passed)
        assert.isBelow(yield* reads({ createdAfter: recent, after: 998500n, limit: 5, direction }, 5), passed)
        // The same beside types and tags: each of them passes the blocks by itself.
        const closed = { eventTypes: ["Closed"], direction }
        assert.isBelow(yield* reads({ ...closed, createdAfter: recent, limit: 5 }, 5), passed)
        assert.isBelow(yield* reads({ ...closed, createdAfter }, 1), passed)
        assert.isBelow(
          yield* reads({ createdAfter: recent, eventTypes: ["Deposited"], limit: 5, direction }, 5),
          passed
        )
        assert.isBelow(yield* reads({ createdAfter, eventTypes: ["Closed", "Deposited"], direction }, 2), 2 * passed)
        assert.isBelow(yield* reads({ createdAfter: recent, eventTypes: ["Rare"], limit: 1, direction }, 1), few)
        const tenth = { createdAfter: recent, tags: ["group:tenth"], direction }
        assert.isBelow(yield* reads({ ...tenth, limit: 5 }, 5), passed)
        assert.isBelow(yield* reads({ ...tenth, eventTypes: ["Deposited"], limit: 5 }, 5), passed)
        assert.isBelow(yield* reads({ createdAfter: recent, tags: ["group:some"], direction }, 0), few)
        const items = [{ tags: ["group:tenth"] }, { tags: ["group:some"], eventTypes: ["Closed"] }]
        assert.isBelow(yield* reads({ createdAfter: recent, items, limit: 5, direction }, 5), 2 * passed)
      }
    }
    assert.deepStrictEqual(logged, [])
    const walk = { data: { amount: -1 } }
    for (let times = 0; times < 2; times++) assert.isAbove(yield* reads(walk, 0), eventCount / 2)
    assert.isAbove(yield* reads({ ...walk, direction: "backward" }, 0), eventCount / 2)
    // What has no index is only looked at where an event is young enough.
    for (const direction of ["forward", "backward"] as const) {
      const aggregateIds = ["account-1", "account-2"]
      assert.isBelow(yield* reads({ createdAfter: recent, aggregateIds, limit: 2, direction }, 2), passed)
    }
    assert.lengthOf(logged, 1)
    assert.match(
      logged[0] ?? "",
      /^a filter by data is looked up in no index: up to 1000002 events of events are read for it; /
    )
    // Without the index a filter by time is slow, and finds the same.
    const [index] = yield* sql`
      SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = ${table}::regclass AND indexprs IS NOT NULL`
    yield* execute([`DROP INDEX ${String(index?.["name"])}`])
    yield* reads({ createdAfter }, 2)
    yield* reads({ createdAfter, direction: "backward", limit: 1 }, 1)
    yield* reads({ createdAfter, eventTypes: ["Closed", "Deposited"] }, 2)
    yield* reads({ createdAfter: recent, tags: ["group:tenth"], limit: 5 }, 5)
    yield* reads({ createdAfter: recent, aggregateIds: ["account-1", "account-2"], limit: 2 }, 2)
  })
)

it.live("a page after a time reads no whole table, however dear the planner takes its index to be", () =>
  Effect.gen(function* () {
    const { reads, sql, table } = yield* serveFilled(() => [], 100_000)
    const [row] = yield* sql`SELECT created_at::text FROM ${sql.literal(table)} WHERE version = 99000`
    const createdAfter = DateTime.makeUnsafe(String(row?.["created_at"]))
    // As it takes it to be beside 50 million events.
    yield* sql`SET cpu_index_tuple_cost = 1`
    for (const direction of ["forward", "backward"] as const) {
      for (let times = 0; times < 7; times++) {
        assert.isBelow(yield* reads({ createdAfter, limit: 1, direction }, 1), 20_000)
      }
    }
  })
)

it.live("a page of what events contain reads what is near, and then what the index finds", () =>
  Effect.gen(function* () {
    const { logged, reads } = yield* serveFilled((table) => [
      `UPDATE ${table} SET data = data || '{"part": "some"}' WHERE version % 1000 = 0`,
      `UPDATE ${table} SET data = data || '{"part": "many"}' WHERE version > 600000 AND version <= 640000`,
      `UPDATE ${table} SET metadata = '{"user": "one"}' WHERE version % 100000 = 0`,
      `UPDATE ${table} SET created_at = '2200-01-01T00:00:00Z' WHERE version % 200000 = 0`,
      `CREATE INDEX ON ${table} USING GIN (data jsonb_path_ops)`,
      `CREATE INDEX ON ${table} USING GIN (metadata jsonb_path_ops)`
    ])
    /** What is near for a page of so many events is passed twice. What an index finds is counted there, and once it is looked up. */
    const most = (limit: number, found: number) => 2 * (4096 + 16 * limit) + 3 * found + few
    const one = { data: { amount: 500_001 } }
    const some = { data: { part: "some" } }
    const createdAfter = DateTime.makeUnsafe("2100-01-01T00:00:00Z")
    for (const direction of ["forward", "backward"] as const) {
      // Often enough for a plan that knows no values.
      for (let times = 0; times < 7; times++) {
        assert.isBelow(yield* reads({ ...one, direction }, 1), most(1000, 1))
        assert.isBelow(yield* reads({ ...one, limit: 1, direction }, 1), most(1, 1))
        assert.isBelow(yield* reads({ ...one, after: 600_000n, direction }, 0), most(1000, 1))
        assert.isBelow(yield* reads({ data: { amount: -1 }, limit: 1, direction }, 0), most(1, 0))
        // What each event has is near, and no index is asked.
        assert.isBelow(yield* reads({ data: { currency: "EUR" }, limit: 500, direction }, 500), 2 * 500 + few)
        assert.isBelow(yield* reads({ ...some, limit: 100, direction }, 100), most(100, 1000))
        assert.isBelow(yield* reads({ ...some, after: 300_000n, limit: 100, direction }, 100), most(100, 1000))
        assert.isBelow(yield* reads({ metadata: { user: "one" }, limit: 5, direction }, 5), most(5, 10))
        assert.isBelow(yield* reads({ ...some, metadata: { user: "one" }, direction }, 10), most(1000, 1010))
        // Beside what else a filter says.
        assert.isBelow(yield* reads({ ...one, eventTypes: ["Deposited"], limit: 1, direction }, 1), most(1, 1))
        assert.isBelow(yield* reads({ ...one, eventTypes: ["Closed"], limit: 1, direction }, 0), most(1, 1))
        const aggregateIds = ["account-0", "account-1"]
        assert.isBelow(yield* reads({ ...one, aggregateIds, limit: 1, direction }, 1), most(1, 1))
        assert.isBelow(
          yield* reads({ ...some, createdAfter, limit: 4, direction }, 4),
          most(4, 1000) + eventCount / 100
        )
        // More than a page takes from the index: walked, from the cursor on.
        const after = direction === "forward" ? 599_000n : 0n
        assert.isBelow(yield* reads({ data: { part: "many" }, after, limit: 5, direction }, 5), eventCount)
      }
    }
    assert.isBelow(yield* reads({ ...some, batchSize: 400 }, 960), 3 * most(400, 1000))
    assert.deepStrictEqual(logged, [])
  })
)
