/**
 * Tables that another session has locked. What reads such a table waits, for hours if need be, and nothing fails: the looks of
 * the command end after a moment instead, and say who it is.
 */
import { Duration, Effect, Schema } from "effect"
import { SqlError } from "effect/sql"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { qualify } from "../postgres/database/Identifier.ts"
import { beginReadCommitted } from "../postgres/database/Isolation.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { isLockTimeout, reasonOf } from "../postgres/database/Reasons.ts"
import { transactionText } from "../postgres/database/TransactionText.ts"
import { isReason, type Reason, StoreError } from "../StoreError.ts"
import { type Finding, type Findings, problem, texts } from "./Check.ts"

/** How long a look waits for a lock. */
const longestWait = Duration.seconds(3)

/** A look could not be had, as somebody has locked a table. */
export class TablesLocked extends Error {
  readonly _tag = "TablesLocked"
  readonly locks: ReadonlyArray<Finding>

  constructor(locks: ReadonlyArray<Finding>) {
    super(locks.map(({ remedy, says }) => `${says}; ${remedy}`).join("; "))
    this.locks = locks
  }
}

const Lock = Schema.Struct({
  table: Schema.String,
  holder: Schema.String,
  /** The statement that ends it. */
  end: Schema.NullOr(Schema.String),
  /** Whether it has the lock. Otherwise it waits for others, which are these. */
  isGranted: Schema.Boolean,
  others: Schema.NullOr(Schema.String),
  endOfOthers: Schema.NullOr(Schema.String)
})

const gone = "a transaction that has just ended"

const findingOf = ({ end, endOfOthers, holder, isGranted, others, table }: typeof Lock.Type): Finding => {
  const who = isGranted
    ? `is locked by ${holder}`
    : `is about to be locked by ${holder}, which waits for ${others ?? gone}`
  const statement = isGranted ? end : endOfOthers
  return problem(
    `${table} ${who}; whatever reads or writes the table waits`,
    statement === null ? "try again" : `once it is clear whose it is, end it: ${statement}`
  )
}

/** All tables of ours. Some of them may be missing. */
const ours = PostgresDatabase.useSync(({ names, schema }) =>
  [...Object.values(names), `${names.events}_log`, `${names.events}_tags`].map((name) => qualify(schema, name))
)

/** Who has a lock of our tables, or waits for it, that keeps out readers. */
const list = Effect.gen(function* () {
  const { query, sql } = yield* PostgresDatabase
  const tables = yield* ours
  const describe = transactionText(`'${gone}'::text`)
  const end = sql.literal(`CASE
    WHEN activity.pid IS NOT NULL THEN pg_catalog.format('SELECT pg_terminate_backend(%s)', activity.pid)
    WHEN prepared.gid IS NOT NULL THEN pg_catalog.format('ROLLBACK PREPARED %L', prepared.gid) END`)
  const rows = yield* query(sql`
    WITH own AS (
      SELECT pg_catalog.to_regclass(name)::oid AS oid FROM pg_catalog.unnest(${tables}::text[]) AS name
    ), parts AS (
      SELECT oid, oid AS part FROM own
      UNION SELECT oid, inhrelid FROM own JOIN pg_catalog.pg_inherits ON inhparent = oid
      UNION SELECT oid, indexrelid FROM own JOIN pg_catalog.pg_index ON indrelid = oid
    )
    SELECT DISTINCT parts.oid::regclass::text AS table, ${describe} AS holder, ${end} AS "end", held.granted AS "isGranted",
      waits.others, waits.ends AS "endOfOthers"
    FROM parts
    JOIN pg_catalog.pg_locks AS held ON held.relation = part AND held.locktype = 'relation'::text
    CROSS JOIN LATERAL (
      SELECT pg_catalog.string_agg(${describe}, '; '::text) AS others, pg_catalog.string_agg(${end}, '; '::text) AS ends
      FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(held.pid)) AS other
      JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = other
      LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON false
      WHERE NOT held.granted
    ) AS waits
    LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
    LEFT JOIN pg_catalog.pg_locks AS own_xid ON held.pid IS NULL AND own_xid.virtualtransaction = held.virtualtransaction
      AND own_xid.locktype = 'transactionid'::text AND own_xid.mode = 'ExclusiveLock'::text
    LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON prepared.transaction = own_xid.transactionid
    WHERE held.mode = 'AccessExclusiveLock'::text AND held.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
      AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    ORDER BY 1, 2 DESC`)
  const locks = yield* decodeRows(Lock, "pg_locks", [])(rows)
  return locks.length > 0 ? locks.map(findingOf) : [problem(`a table was locked by ${gone}`, "try again")]
})

const isLocked = (error: unknown): boolean => {
  if (SqlError.isSqlError(error)) return isLockTimeout(reasonOf(error))
  if (error instanceof StoreError) return isLockTimeout(error.reason)
  return isReason(error) && isLockTimeout(error)
}

/** The error, or who has locked a table where that is the reason. */
const explained = <E>(error: E): Effect.Effect<never, E | Reason | TablesLocked, PostgresDatabase> =>
  isLocked(error) ? Effect.flatMap(list, (locks) => Effect.fail(new TablesLocked(locks))) : Effect.fail(error)

/** Runs the look in a transaction whose statements do not wait for locks for long. Fails with `TablesLocked` where one would. */
export const withoutWaiting = <A, E, R>(
  look: Effect.Effect<A, E, R>
): Effect.Effect<A, E | Reason | SqlError.SqlError | TablesLocked, R | PostgresDatabase> =>
  Effect.gen(function* () {
    const { query, sql } = yield* PostgresDatabase
    const limit = String(Duration.toMillis(longestWait))
    return yield* query(sql`SELECT pg_catalog.set_config('lock_timeout', ${limit}::text, true)`).pipe(
      Effect.andThen(look),
      sql.withTransaction,
      // Under another level nobody can see which events are still on their way.
      beginReadCommitted,
      Effect.catch(explained)
    )
  })

/** Is a table locked? Finds nothing if none is: to ask for the size of a table takes the lock that a reader takes, and no grant. */
export const lockedTables: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const tables = yield* ours
  const look = texts(sql`
    SELECT pg_catalog.pg_relation_size(pg_catalog.to_regclass(name))::text AS text FROM pg_catalog.unnest(${tables}::text[]) AS name
    WHERE pg_catalog.to_regclass(name) IS NOT NULL`)
  return yield* withoutWaiting(look).pipe(
    Effect.as([]),
    Effect.catchTag("TablesLocked", ({ locks }) => Effect.succeed(locks))
  )
})
