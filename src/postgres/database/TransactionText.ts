/** How a transaction that others wait for is described to people. */
import { Statement } from "effect/sql"

/**
 * An SQL expression that names who has a lock, and the tables that it needs beside `held`, the row of `pg_locks`. A prepared
 * transaction has no process: the lock of its own number leads to it.
 */
export const holderText = `CASE
    WHEN held.pid IS NULL THEN pg_catalog.format('the prepared transaction %L, role %s', prepared.gid, prepared.owner)
    ELSE pg_catalog.format('pid %s, role %s, application %L', held.pid, activity.usename, activity.application_name)
  END`

export const fromHolders = `LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
  LEFT JOIN pg_catalog.pg_locks AS own ON held.pid IS NULL AND own.virtualtransaction = held.virtualtransaction
    AND own.locktype = 'transactionid'::text AND own.mode = 'ExclusiveLock'::text
  LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid`

const queryText = `', query: '::text || left(regexp_replace(activity.query, '[[:space:]]+', ' ', 'g'), 100)`

/**
 * An SQL expression that describes a transaction: its process, its state and application, and for how long it is open. Where it has
 * just ended, that is how long its session is in this state.
 * Around it, `activity` is its row of `pg_stat_activity`, `prepared` that of `pg_prepared_xacts`: a prepared transaction has
 * no process. `otherwise` is the expression where it is in neither.
 *
 * **Details**
 *
 * The text of another session's query may have secrets in it, and goes to logs with warnings: it is only in the description
 * with `withQuery`. The id that the server gives a query, where it does, leads to the text in `pg_stat_statements`.
 */
export const transactionText = (otherwise: string, withQuery = false): Statement.Fragment =>
  Statement.fragment([
    Statement.literal(`CASE
      WHEN activity.pid IS NOT NULL THEN
        pg_catalog.format('pid %s, %s for %s s, application %s', activity.pid, coalesce(activity.state, 'active'),
          round(extract(epoch FROM clock_timestamp() - coalesce(activity.xact_start, activity.state_change))), quote_literal(activity.application_name))
          || coalesce(', query id '::text || activity.query_id::text, '')
          || ${withQuery ? queryText : "''"}
      WHEN prepared.gid IS NOT NULL THEN
        pg_catalog.format('the prepared transaction %L, for %s s: COMMIT PREPARED or ROLLBACK PREPARED it', prepared.gid,
          round(extract(epoch FROM clock_timestamp() - prepared.prepared)))
      ELSE ${otherwise}
    END`)
  ])
