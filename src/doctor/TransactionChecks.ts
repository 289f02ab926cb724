/** Transactions of others: which were left behind, are open for too long, or hold up readers of the log. */
import { Context, Duration, Effect } from "effect"
import { remaining } from "../events/Hole.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as AppendLocks from "../postgres/events/AppendLocks.ts"
import * as LockHolders from "../postgres/events/LockHolders.ts"
import { type Findings, ok, orOk, problem, texts, warning } from "./Check.ts"

/** Whether the queries of other sessions are shown. There may be secrets in them. */
export const ShowQueries = Context.Reference("effect-strata/doctor/ShowQueries", { defaultValue: () => false })

/** A transaction that is open for longer was forgotten, or at least keeps dead rows from being removed. */
const longOpenAfter = "5 minutes"

/** A writer that still holds the lock after this pause does more than append. */
const pauseBetweenLooks = Duration.seconds(1)

/** Was a prepared transaction left behind? */
export const prepared: Findings = PostgresDatabase.use(({ sql }) =>
  Effect.map(
    texts(sql`
      SELECT pg_catalog.format('%L, for %s', gid, date_trunc('second', now() - prepared)) AS text FROM pg_prepared_xacts
      WHERE database = current_database() AND prepared < now() - ${longOpenAfter}::interval`),
    (found) =>
      orOk(
        found.map((text) =>
          problem(`a prepared transaction was left behind: ${text}`, "COMMIT PREPARED it, or ROLLBACK PREPARED it")
        ),
        "no prepared transaction was left behind"
      )
  )
)

/** Is a transaction open for so long that vacuum falls behind? */
export const longOpen: Findings = PostgresDatabase.use(({ sql }) =>
  Effect.map(
    texts(sql`
      SELECT pg_catalog.format('pid %s, %s for %s, application %L', pid, state, date_trunc('second', now() - xact_start),
        application_name) AS text
      FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < now() - ${longOpenAfter}::interval
      ORDER BY xact_start`),
    (found) =>
      orOk(
        found.map((text) =>
          warning(
            `a transaction is open for long: ${text}`,
            "dead rows cannot be removed meanwhile: end it if it was forgotten"
          )
        ),
        `no transaction is open for more than ${longOpenAfter}`
      )
  )
)

/** Does a transaction hold the lock of the log for so long that readers wait for it? */
export const holders: Findings = Effect.gen(function* () {
  const { query } = yield* PostgresDatabase
  const { describe, list } = yield* LockHolders.make
  const { holders } = yield* list(query)
  if (holders.size === 0) return ok("nobody holds up readers")
  yield* Effect.sleep(pauseBetweenLooks)
  const still = remaining(holders, (yield* list(query)).holders)
  if (still.size === 0) return ok("writers come and go, nobody holds up readers")
  return [
    problem(
      `readers may have to wait for ${yield* describe(query, still, { withQuery: yield* ShowQueries })}`,
      "end that transaction: SELECT pg_terminate_backend(its pid)"
    )
  ]
})

/**
 * Who has one of the advisory locks that keep out all appends, all ids or all migrations. An append shares those of the appends
 * for a moment: of the sessions that share one, those count that have done nothing else meanwhile.
 */
const lockedBy = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { sql } = database
  // A role that only reads may not call the function, and looks at it.
  const number = sql`(
    SELECT pg_catalog.substring(prosrc, '[0-9]+'::text)::bigint FROM pg_proc
    WHERE oid = to_regprocedure(${`${AppendLocks.keyFunctionOf(database)}()`})::oid)`
  return yield* texts(sql`
    SELECT pg_catalog.format('pid %s, role %s, application %L, holds the lock of all %s', held.pid, usename, application_name,
      what || CASE mode WHEN 'ShareLock' THEN ', shared: imports and migrations wait' ELSE '' END) AS text
    FROM (
      SELECT 'migrations' AS what, hashtextextended('effect-strata', 0::bigint) AS key
      UNION ALL SELECT 'appends', hashtextextended('', 2 * ${number})
      UNION ALL SELECT 'appends that bring ids', hashtextextended('', 2 * ${number} + 1)
    ) AS locks
    JOIN pg_locks AS held ON locktype = 'advisory' AND granted AND objsubid = 1::int2
      AND classid = (key >> 32 & 4294967295)::oid AND objid = (key & 4294967295)::oid
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND held.pid IS DISTINCT FROM pg_backend_pid()
      AND (mode = 'ExclusiveLock' OR state_change < now() - '1 second'::interval)
    ORDER BY 1`)
})

/** Does somebody keep out all appends, or all migrations? Advisory locks have no grants: any role that may connect can. */
export const locks: Findings = Effect.gen(function* () {
  const before = new Set(yield* lockedBy)
  if (before.size === 0) return ok("nobody keeps out appends or migrations")
  yield* Effect.sleep(pauseBetweenLooks)
  const still = (yield* lockedBy).filter((text) => before.has(text))
  return orOk(
    still.map((text) =>
      problem(text, "end it: SELECT pg_terminate_backend(its pid); see which roles may connect: REVOKE CONNECT")
    ),
    "imports or migrations come and go, nobody keeps out others"
  )
})
