/** Logs of many events, which are made by the server itself: a million take some ten seconds. */
import { execute } from "./connection.ts"

/** How many events one statement inserts: others see how far it is, and the server's memory stays small. */
const eventsPerStatement = 1_000_000

/**
 * The statements that add events to a table of this name, the n-th with the version n if it is new: a thousand aggregates take
 * turns, each hundredth event is of another type, and each has come a millisecond after the one before.
 */
export const fillStatements = (table: string, count: number): ReadonlyArray<string> =>
  Array.from({ length: Math.ceil(count / eventsPerStatement) }, (_, part) => {
    const first = part * eventsPerStatement + 1
    const last = Math.min(count, first + eventsPerStatement - 1)
    return `INSERT INTO ${table} (id, aggregate_id, event_type, data, metadata, created_at)
      SELECT '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'account-' || n % 1000,
        CASE WHEN n % 100 = 0 THEN 'Closed' ELSE 'Deposited' END,
        jsonb_build_object('amount', n, 'currency', 'EUR', 'note', 'a payment like any other'), 'null',
        now() - (${count} - n) * interval '1 ms'
      FROM generate_series(${first}, ${last}) AS n`
  })

/** go-sync-kit's table, with the indexes that cost little to make, and this many events. */
export const goSyncKitOf = (url: string, count: number) =>
  execute(url, [
    `CREATE TABLE events (
      version BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL, event_type TEXT NOT NULL,
      data JSONB, metadata JSONB, created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
      stream_name TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED)`,
    ...fillStatements("events", count),
    "CREATE INDEX idx_events_type ON events (event_type)",
    "CREATE INDEX idx_events_created_at ON events (created_at)"
  ])
