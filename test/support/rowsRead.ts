/** What statements have read, as the server counts it. */
import { Effect } from "effect"
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
