/**
 * Waits for advisory locks, but not for ever: Postgres has no grants for them, and any role that may connect can take one and
 * keep it. Appends have a limit of their own, in `resources/postgres/0066_events_append.sql`.
 */
import type { Duration, Effect } from "effect"
import type { Statement } from "effect/sql"
import type { Reason } from "../../StoreError.ts"
import * as LockTurns from "./LockTurns.ts"
import type { PostgresDatabase } from "./PostgresDatabase.ts"

export interface Wanted {
  /** For people: what they keep out. */
  readonly of: string
  /** The keys, in the column `key`. The locks are taken in this order. */
  readonly keys: Statement.Fragment
  /** Whether others may have them at the same time: not unless given. */
  readonly shared?: boolean
  /** How long all this may take where the session has no `lock_timeout`. */
  readonly atMost: Duration.Duration
}

/** The locks of some keys, in the column `key`. They are taken in this order. */
export const locksOf = (
  { sql }: PostgresDatabase["Service"],
  keys: Statement.Fragment,
  shared = false
): LockTurns.Locks => ({
  taking: sql`
    SELECT ${sql.literal(`pg_catalog.pg_advisory_xact_lock${shared ? "_shared" : ""}`)}(key) FROM (${keys} OFFSET 0) AS locks`,
  holders: sql`
    SELECT DISTINCT
      pg_catalog.format('pid %s, role %s, application %L', held.pid, activity.usename, activity.application_name) AS text
    FROM (${keys}) AS wanted
    JOIN pg_catalog.pg_locks AS held ON held.classid = (wanted.key >> 32 & 4294967295)::pg_catalog.oid
      AND held.objid = (wanted.key & 4294967295)::pg_catalog.oid
    LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.locktype = 'advisory'::text AND held.granted AND held.objsubid = 1::int2
      AND held.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
      AND held.database = (
        SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`
})

/** Takes the locks as `LockTurns` does, to the end of the transaction that the caller is in. */
export const take = (
  database: PostgresDatabase["Service"],
  { atMost, keys, of, shared }: Wanted
): Effect.Effect<void, Reason> =>
  LockTurns.take(database, { ...locksOf(database, keys, shared), of: `the lock of ${of}`, atMost })
