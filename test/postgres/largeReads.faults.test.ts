/** How much of a log of a million events is read for a filter: what an index finds, and what none does. */
import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Stream } from "effect"
import type { EventStore } from "effect-strata"
import { fillStatements } from "../support/largeLogs.ts"
import { plainInsert, serveEvents } from "./events.harness.ts"
import { execute } from "./harness.ts"

const eventCount = 1_000_000

const rare = (table: string, id: string) => plainInsert(table, id).replace("'Plain'", "'Rare'")

it.live("a page of some types reads what it returns, and a filter that no index serves says so once", () =>
  Effect.gen(function* () {
    const { events, logged, schema, sql, table, watched } = yield* serveEvents({ client: { maxConnections: 1 } })
    yield* execute([
      ...fillStatements(table, eventCount),
      `INSERT INTO ${table}_tags (tag, version) SELECT 'group:tenth', n FROM generate_series(10, ${eventCount}, 10) AS n`,
      `INSERT INTO ${table}_tags (tag, version) SELECT 'group:some', n FROM generate_series(1, 1000) AS n`,
      `VACUUM ANALYZE ${table}_tags`,
      rare(table, "r1"),
      rare(table, "r2"),
      `VACUUM ANALYZE ${table}`
    ])
    const rowsRead = Effect.gen(function* () {
      yield* sql`SELECT pg_stat_force_next_flush()`
      const [row] = yield* sql`
        SELECT (
          SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE schemaname = ${schema}
        )::float8 + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE schemaname = ${schema})::float8 AS read`
      return Number(row?.["read"])
    })
    const reads = Effect.fnUntraced(function* (query: Parameters<(typeof events)["read"]>[0], count: number) {
      const before = yield* rowsRead
      const found: ReadonlyArray<EventStore.StoredEvent> = yield* watched(Stream.runCollect(events.read(query)))
      assert.lengthOf(found, count)
      const versions = found.map(({ version }) => version)
      const ascending = versions.toSorted((a, b) => (a < b ? -1 : 1))
      assert.deepStrictEqual(versions, query?.direction === "backward" ? ascending.toReversed() : ascending)
      return (yield* rowsRead) - before
    })
    // Each statement of a read looks some rows up besides: the mark, and the event at the cursor.
    const few = 100
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
