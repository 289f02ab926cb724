/** What statements have read, as the server counts it. */
import { Effect } from "effect"
import type { SqlClient } from "effect/sql"
import { query } from "../postgres/harness.ts"

/** How many rows of these tables, or entries of their indexes, sessions that have ended have read. */
export const rowsRead = Effect.fnUntraced(function* (url: string, ...tables: ReadonlyArray<string>) {
  const others = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'`
  yield* Effect.repeat(query(others, url), { until: ({ length }) => length === 0 })
  const named = tables.map((table) => `'${table}'::regclass`).join()
  const [row] = yield* query(
    `SELECT (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE relid IN (${named}))::float8,
       (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relid IN (${named}))::float8`,
    url
  )
  return Math.max(Number(row?.[0] ?? 0), Number(row?.[1] ?? 0))
})

/** What an effect gives, and how many rows of a schema it has read, on the only connection of a pool. */
export const readBy = Effect.fnUntraced(function* <A, E, R>(
  { schema, sql }: { readonly schema: string; readonly sql: SqlClient.SqlClient },
  effect: Effect.Effect<A, E, R>
) {
  const told = Effect.gen(function* () {
    yield* sql`SELECT pg_stat_force_next_flush()`
    const [row] = yield* sql`
      SELECT (
        SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE schemaname = ${schema}
      )::float8 + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE schemaname = ${schema})::float8 AS read`
    return Number(row?.["read"])
  })
  const before = yield* told
  const result = yield* effect
  return { result, rows: (yield* told) - before }
})
