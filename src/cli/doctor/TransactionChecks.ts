/** Transactions of others: which were left behind, are open for too long, or hold up readers of the log. */
import { Context, Duration, Effect } from "effect"
import { remaining } from "../../events/Hole.ts"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import * as LockHolders from "../../postgres/events/LockHolders.ts"
import { type Findings, ok, orOk, problem, texts, warning } from "./Check.ts"

/** Whether the queries of other sessions are shown. There may be secrets in them. */
export const ShowQueries = Context.Reference("effect-strata/cli/ShowQueries", { defaultValue: () => false })

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
