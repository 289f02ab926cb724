/**
 * How far the log is certain.
 *
 * A version is drawn from a sequence before the commit that makes its event visible. So a number that is missing among
 * those that can be seen is either in flight, and must not be passed, or dead: rolled back, and must not be waited for.
 *
 * **Details**
 *
 * INSERT takes the table's ROW EXCLUSIVE lock before it draws a version and keeps it until its transaction has ended, and
 * a commit is visible before its locks are released. So, in this order: read the highest version; then read who holds that
 * lock; when none of those holds it any more, every event up to that version that will ever be is visible. The opposite
 * order loses the event of whoever committed in between. Transactions that have not touched the table stall nobody.
 */
import { Clock, Duration, Effect, Option, Schema, Stream } from "effect"
import { Denied, type Reason, Unexpected } from "../StoreError.ts"
import { qualify } from "./Identifier.ts"
import { decodeRows, PostgresDatabase } from "./PostgresDatabase.ts"

const Highest = Schema.Struct({ version: Schema.NullOr(Schema.BigInt) })

const Look = Schema.Struct({
  standby: Schema.Boolean,
  isolation: Schema.String,
  /** The virtual ids of the transactions that hold the lock. */
  holders: Schema.Array(Schema.String)
})

const Description = Schema.Struct({ description: Schema.NullOr(Schema.String) })

/** The waits between two looks, in milliseconds: most transactions are over after the first. */
const shortestWait = 5
const longestWait = 50

/** How long to wait before asking for the events before the first hole, which reads the log from the cursor on. */
const patience = 20

// After a crash, a transaction that was prepared before has another virtual id, one without a backend.
const isRecovered = (holder: string): boolean => holder.startsWith("-1/")

interface Waiting {
  /** All events up to here are final and have been told of. */
  readonly settled: bigint
  readonly highest: bigint
  readonly holders: ReadonlySet<string>
  readonly wait: number
  readonly since: number
}

type Step = readonly [marks: Array<bigint>, next: Option.Option<Waiting | undefined>]

export const make = Effect.gen(function* () {
  const { inTransaction, names, query, schema, settleTimeout, sql, tables } = yield* PostgresDatabase
  const events = tables.events
  const name = qualify(schema, names.events)
  const decodeHighest = decodeRows(Highest, names.events, [])
  const decodeLook = decodeRows(Look, "pg_locks", [])
  const decodeDescription = decodeRows(Description, "pg_locks", [])

  const highestVersion = Effect.map(
    Effect.flatMap(query(sql`SELECT max(version) AS version FROM ${events}`), decodeHighest),
    ([row]) => row?.version ?? 0n
  )

  /** The end of the row of versions without a hole that begins after `after`. */
  const prefix = (after: bigint, highest: bigint) =>
    Effect.map(
      Effect.flatMap(
        query(sql`
          SELECT previous AS version FROM (
            SELECT version, lag(version, 1, ${after}::bigint) OVER (ORDER BY version) AS previous
            FROM ${events} WHERE version > ${after} AND version <= ${highest}
          ) AS events WHERE version <> previous + 1 ORDER BY version LIMIT 1`),
        decodeHighest
      ),
      ([row]) => row?.version ?? highest
    )

  // A prepared transaction has no process: never by way of pg_stat_activity.
  const holding = sql`
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (relation = ${name}::regclass OR relation IN (SELECT relid FROM pg_partition_tree(${name}::regclass)))
      AND pid IS DISTINCT FROM pg_backend_pid()`

  const look = Effect.gen(function* () {
    const [row] = yield* Effect.flatMap(
      query(sql`
        SELECT pg_is_in_recovery() AS standby, current_setting('transaction_isolation') AS isolation,
          ARRAY(${holding})::text[] AS holders`),
      decodeLook
    )
    if (row === undefined) return []
    if (row.standby) {
      const message =
        "the server is a standby, where nobody can see which events are still on their way; " +
        "read the log on the primary, or read one aggregate"
      return yield* new Denied({ message })
    }
    if (!row.isolation.startsWith("read ") && (yield* inTransaction)) {
      const message =
        `in a transaction with isolation level ${row.isolation} nobody can see which events are still on their way; ` +
        "read the log in one with READ COMMITTED, or outside of it"
      return yield* new Unexpected({ message })
    }
    return row.holders
  })

  /** Only to describe: who holds the lock, and for how long. */
  const describe = (holders: ReadonlySet<string>) =>
    Effect.map(
      Effect.flatMap(
        query(sql`
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

  const done = (settled: bigint, highest: bigint): Step => [highest > settled ? [highest] : [], Option.none()]

  const begin = Effect.fnUntraced(function* (after: bigint): Effect.fn.Return<Step, Reason> {
    const highest = yield* highestVersion
    // Never before the highest version has been read.
    const holders = new Set(yield* look)
    if (highest <= after || holders.size === 0) return done(after, highest)
    const since = yield* Clock.currentTimeMillis
    return [[], Option.some({ settled: after, highest, holders, wait: shortestWait, since })]
  })

  const proceed = Effect.fnUntraced(function* (waiting: Waiting): Effect.fn.Return<Step, Reason> {
    const { highest, settled, since } = waiting
    yield* Effect.sleep(Math.min(waiting.wait, Duration.toMillis(settleTimeout)))
    const current = yield* look
    const holders = new Set(current.filter((holder) => waiting.holders.has(holder) || isRecovered(holder)))
    if (holders.size === 0) return done(settled, highest)
    const waited = (yield* Clock.currentTimeMillis) - since
    const next = { ...waiting, holders, wait: Math.min(waiting.wait * 2, longestWait) }
    if (waited < Math.min(patience, Duration.toMillis(settleTimeout))) return [[], Option.some(next)]
    // Whoever is left may have drawn higher versions only. What is before the first hole does not wait for them.
    const certain = yield* prefix(settled, highest)
    if (certain === highest) return done(settled, highest)
    const marks = certain > settled ? [certain] : []
    if (waited < Duration.toMillis(settleTimeout)) return [marks, Option.some({ ...next, settled: certain })]
    yield* Effect.logWarning(
      `${name} is held up at version ${certain + 1n} by ${yield* describe(holders)}: readers end before it`
    )
    return [marks, Option.none()]
  })

  return {
    highestVersion,

    /**
     * Versions up to which the log is final, each higher than the one before: several where a transaction is waited for
     * and there are events before the place where it may still append. The last one is the highest version that was
     * committed when it began, or, after `settleTimeout`, the end of what is certain. None where there is nothing new.
     */
    marks: (after: bigint): Stream.Stream<bigint, Reason> =>
      Stream.paginate(undefined, (waiting: Waiting | undefined) =>
        waiting === undefined ? begin(after) : proceed(waiting)
      )
  }
})
