/**
 * Waits for advisory locks, but not for ever: Postgres has no grants for them, and any role that may connect can take one and
 * keep it.
 *
 * **Details**
 *
 * Each wait is cut into turns. After a turn in vain the holder is looked for, and a warning names it. Appends have a limit of
 * their own, in `resources/postgres/0036_events_append.sql`.
 */
import { Duration, Effect, Schema } from "effect"
import type { Statement } from "effect/sql"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { Contention, type Reason } from "../../StoreError.ts"
import { decodeRows } from "./DecodeRows.ts"
import type { PostgresDatabase } from "./PostgresDatabase.ts"
import { isLockTimeout, reasonOf } from "./Reasons.ts"

/** How long to wait before the holder is looked for, and again before each next look. */
const turnMillis = 5000

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

const Limit = Schema.Struct({ millis: Schema.Int })
const Holder = Schema.Struct({ text: Schema.String })

/**
 * Takes the locks, to the end of the transaction that the caller is in. Fails with a `Contention` that names the holders once
 * `lock_timeout` is over, or the limit that is given where that is not set.
 */
export const take = Effect.fnUntraced(function* (
  { query, sql }: PostgresDatabase["Service"],
  { atMost, keys, of, shared = false }: Wanted
): Effect.fn.Return<void, Reason> {
  const setLimit = (millis: number) =>
    query(sql`SELECT pg_catalog.set_config('lock_timeout', ${String(millis)}::text, true)`)

  const lock = sql.literal(`pg_catalog.pg_advisory_xact_lock${shared ? "_shared" : ""}`)
  const attempt = sql
    .withTransaction(query(sql`SELECT ${lock}(key) FROM (${keys} OFFSET 0) AS locks`))
    .pipe(Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error))))

  const holders = Effect.map(
    Effect.flatMap(
      query(sql`
        SELECT DISTINCT
          pg_catalog.format('pid %s, role %s, application %L', held.pid, activity.usename, activity.application_name) AS text
        FROM (${keys}) AS wanted
        JOIN pg_catalog.pg_locks AS held ON held.classid = (wanted.key >> 32 & 4294967295)::pg_catalog.oid
          AND held.objid = (wanted.key & 4294967295)::pg_catalog.oid
        LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
        WHERE held.locktype = 'advisory'::text AND held.granted AND held.objsubid = 1::int2
          AND held.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
          AND held.database = (
            SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`),
      decodeRows(Holder, "pg_locks", [])
    ),
    (found) => found.map(({ text }) => text).join("; ")
  )

  const [limit] = yield* Effect.flatMap(
    query(sql`SELECT setting::pg_catalog.int4 AS millis FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'::text`),
    decodeRows(Limit, "pg_settings", [])
  )
  const before = limit?.millis ?? 0
  const endMillis = (yield* monotonicMillis) + (before === 0 ? Duration.toMillis(atMost) : before)
  let warned = ""
  while (true) {
    const leftMillis = Math.ceil(endMillis - (yield* monotonicMillis))
    yield* setLimit(Math.max(1, Math.min(turnMillis, leftMillis)))
    const failure = yield* Effect.match(attempt, { onFailure: (reason) => reason, onSuccess: () => undefined })
    if (failure === undefined) break
    if (!isLockTimeout(failure)) return yield* failure
    const found = yield* holders
    const waitingFor = `waiting for ${found === "" ? "a transaction that has just ended" : found}`
    if ((yield* monotonicMillis) >= endMillis) {
      return yield* new Contention({
        message: `the lock of ${of} could not be had: ${waitingFor}; end it, or try again`,
        cause: failure.cause
      })
    }
    if (found !== warned) yield* Effect.logWarning(`the lock of ${of} is held by another session: ${waitingFor}`)
    warned = found
  }
  yield* setLimit(before)
})
