/**
 * Who may still append below a version that can be seen.
 *
 * **Details**
 *
 * INSERT takes the table's ROW EXCLUSIVE lock before it draws a version and keeps it until its transaction has ended, and
 * a commit is visible before its locks are released. So, in this order: read events; then look who holds that lock; when
 * none of those holds it any more, every event up to the last one read that will ever be is visible. The opposite order
 * loses the event of whoever committed in between. Transactions that have not touched the table hold up nobody.
 */
import { Effect, Schema } from "effect"
import { Denied, type Reason, Unexpected } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase, type Query } from "../database/PostgresDatabase.ts"

const Seen = Schema.Struct({
  standby: Schema.Boolean,
  isolation: Schema.String,
  server: Schema.String,
  holders: Schema.Array(Schema.String)
})

const Description = Schema.Struct({ description: Schema.NullOr(Schema.String) })

export interface Look {
  /** The virtual ids of the transactions that hold the lock. */
  readonly holders: ReadonlySet<string>
  /** Which run of which server has answered: another one knows nothing of this one's transactions. */
  readonly server: string
}

// After a crash, a transaction that was prepared before has another virtual id, one without a backend.
const isRecovered = (holder: string): boolean => holder.startsWith("-1/")

/** Those of the holders before who hold the lock still. */
export const remaining = (before: ReadonlySet<string>, now: ReadonlySet<string>): ReadonlySet<string> =>
  new Set([...now].filter((holder) => before.has(holder) || isRecovered(holder)))

export const make = Effect.gen(function* () {
  const { inTransaction, names, query, schema, sql } = yield* PostgresDatabase
  const table = qualify(schema, names.events)
  const decodeSeen = decodeRows(Seen, "pg_locks", [])
  const decodeDescription = decodeRows(Description, "pg_locks", [])

  // A prepared transaction has no process: never by way of pg_stat_activity.
  const holding = sql`
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (relation = ${table}::regclass OR relation IN (SELECT relid FROM pg_partition_tree(${table}::regclass)))
      AND pid IS DISTINCT FROM pg_backend_pid()`

  /** Who holds the lock now, seen from the connection on which `run` runs statements. */
  const look = Effect.fnUntraced(function* (run: Query): Effect.fn.Return<Look, Reason> {
    const rows = yield* run(sql`
      SELECT pg_is_in_recovery() AS standby, current_setting('transaction_isolation') AS isolation,
        pg_postmaster_start_time()::text AS server, ARRAY(${holding})::text[] AS holders`)
    const [seen] = yield* decodeSeen(rows)
    if (seen === undefined) return { holders: new Set(), server: "" }
    if (seen.standby) {
      const message =
        "the server is a standby, where nobody can see which events are still on their way; " +
        "read the log on the primary, or read one aggregate"
      return yield* new Denied({ message })
    }
    if (run === query && !seen.isolation.startsWith("read ") && (yield* inTransaction)) {
      const message =
        `in a transaction with isolation level ${seen.isolation} nobody can see which events are still on their way; ` +
        "read the log in one with READ COMMITTED, or outside of it"
      return yield* new Unexpected({ message })
    }
    return { holders: new Set(seen.holders), server: seen.server }
  })

  /** Only to describe: who they are, and for how long they hold the lock. */
  const describe = (run: Query, holders: ReadonlySet<string>) =>
    Effect.map(
      Effect.flatMap(
        run(sql`
          SELECT string_agg(CASE
            WHEN activity.pid IS NOT NULL THEN
              format('pid %s, %s for %s s, application %s, query: %s', activity.pid, coalesce(activity.state, 'active'),
                round(extract(epoch FROM clock_timestamp() - activity.xact_start)),
                quote_literal(activity.application_name), left(regexp_replace(activity.query, '\\s+', ' ', 'g'), 100))
            WHEN prepared.gid IS NOT NULL THEN
              format('the prepared transaction %L, for %s s: COMMIT PREPARED or ROLLBACK PREPARED it', prepared.gid,
                round(extract(epoch FROM clock_timestamp() - prepared.prepared)))
            ELSE 'the transaction ' || held.virtualtransaction
          END, '; ') AS description
          FROM (
            SELECT virtualtransaction, max(pid) AS pid,
              max(transactionid::text) FILTER (WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock') AS xid
            FROM pg_locks WHERE virtualtransaction = ANY(${[...holders]}::text[]) GROUP BY virtualtransaction
          ) AS held
          LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
          LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction::text = held.xid`),
        decodeDescription
      ),
      ([row]) => row?.description ?? "a transaction that has just ended"
    )

  /** Says in the log who holds up readers, and where. */
  const report = (run: Query, holders: ReadonlySet<string>, version: bigint) =>
    Effect.flatMap(describe(run, holders), (description) =>
      Effect.logWarning(`${table} is held up at version ${version} by ${description}: readers wait there`)
    )

  return { look, describe, report }
})
