/**
 * The transactions in which a part of the log is archived or restored: one at a time, and for as long as it takes. Only at the
 * end of one nobody else may read or write the log, and then for a moment.
 *
 * **Details**
 *
 * A statement that has planned to read some partitions sees the row of an archived part by a later snapshot. So the log is locked
 * exclusively when a partition leaves it or comes back: a statement has the table before, with the partition and without the row
 * of the part, or after.
 *
 * What waits for that lock keeps all waiting that come after it. So each try takes a moment only, and the next one comes a little
 * later.
 */
import { Duration, Effect, Schema } from "effect"
import type { Statement } from "effect/sql/Statement"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { realSleep } from "../../internal/RealTime.ts"
import { Contention, type Reason } from "../../StoreError.ts"
import * as AdvisoryLocks from "../database/AdvisoryLocks.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { beginReadCommitted } from "../database/Isolation.ts"
import * as LockTurns from "../database/LockTurns.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { reasonOf } from "../database/Reasons.ts"
import { fromHolders, holderText } from "../database/TransactionText.ts"
import type { ArchiveError, ArchiveRefused } from "./EventArchive.ts"
import { plainForMillis } from "./Partitions.ts"

type Database = PostgresDatabase["Service"]

/** How much the clocks of two machines may differ, within the time that `plainForMillis` is. */
const clockMillis = 1000

const firstWaitMillis = 100
const longestWaitMillis = 5000

const Known = Schema.Struct({ known: Schema.NullOr(Schema.Boolean) })

/**
 * Waits until no process takes the log for a plain table any more: such a process would miss what is archived. One that has
 * looked before the log was divided does so for a while. There is none where the log was made with partitions, or was divided
 * more than an hour ago.
 */
export const awaitReaders = Effect.fnUntraced(function* (database: Database): Effect.fn.Return<void, Reason> {
  const { names, query, schema, sql, tables } = database
  const ask = (statement: Statement<unknown>) =>
    Effect.map(
      Effect.flatMap(query(statement), decodeRows(Known, names.migrations, [])),
      ([row]) => row?.known === true
    )
  const hasRecords = yield* ask(sql`
    SELECT pg_catalog.has_table_privilege(to_regclass(${qualify(schema, names.migrations)})::oid, 'SELECT') AS known`)
  const isKnown =
    hasRecords &&
    (yield* ask(sql`
      SELECT EXISTS (
        SELECT FROM ${tables.migrations} AS divided
        WHERE table_name = ${names.events} AND file LIKE '%\_events\_partitions\_versions.sql'::text AND (
          applied_at < pg_catalog.now() - '1 hour'::interval
          OR applied_at = (SELECT min(applied_at) FROM ${tables.migrations} AS made WHERE made.table_name = divided.table_name)
        )
      ) AS known`))
  if (!isKnown) yield* realSleep(plainForMillis + clockMillis)
})

/** The locks of a table, taken by a statement, and who else has one of it. */
const locksOf = ({ sql }: Database, table: string, taking: string): LockTurns.Locks => ({
  taking: { compile: () => [taking, []] },
  holders: sql`
    SELECT DISTINCT ${sql.literal(holderText)} AS text
    FROM pg_catalog.pg_locks AS held ${sql.literal(fromHolders)}
    WHERE held.relation = ${table}::regclass::oid AND held.granted AND held.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
      AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`
})

/** Keeps out changes of a partition's events. Reads of it, and appends to the log, go on. */
export const freeze = (database: Database, partition: string): Effect.Effect<void, Reason> =>
  LockTurns.take(database, {
    ...locksOf(database, partition, `LOCK TABLE ONLY ${partition} IN SHARE MODE`),
    of: `the lock with which nobody changes events of ${partition}`,
    atMost: database.migrationWait
  })

const Waits = Schema.Struct({ waits: Schema.Boolean })

/** Whether a transaction waits for a lock of the partition. It may have a lock of the log, which it keeps while it waits. */
const isAwaited = ({ query, sql }: Database, partition: string) =>
  Effect.map(
    Effect.flatMap(
      query(sql`
        SELECT EXISTS (
          SELECT FROM pg_catalog.pg_locks WHERE relation = ${partition}::regclass::oid AND NOT granted
        ) AS waits`),
      decodeRows(Waits, "pg_locks", [])
    ),
    ([row]) => row?.waits === true
  )

/** Takes the log and the partition for this transaction alone, for what is done in a moment. */
export const takeAlone = Effect.fnUntraced(function* (
  database: Database,
  partition: string
): Effect.fn.Return<void, Reason> {
  const { migrationWait, names, schema } = database
  const log = qualify(schema, names.events)
  const of = `the lock of ${log} for a moment`
  const locks = locksOf(database, log, `LOCK TABLE ONLY ${log}, ONLY ${partition} IN ACCESS EXCLUSIVE MODE`)
  const endMillis = (yield* monotonicMillis) + Duration.toMillis(migrationWait)
  let waitMillis = firstWaitMillis
  let warned = ""
  while (true) {
    const others = yield* LockTurns.turn(database, locks, LockTurns.momentMillis)
    if (others === undefined) return
    if ((yield* monotonicMillis) >= endMillis) return yield* LockTurns.notHad(of, others)
    if (yield* isAwaited(database, partition)) {
      return yield* new Contention({
        message: `another transaction is about to change events of ${partition}, and has ${log}; try again once it has ended`
      })
    }
    if (others.text !== warned) yield* LockTurns.warn(of, others)
    warned = others.text
    yield* realSleep(waitMillis)
    waitMillis = Math.min(waitMillis * 2, longestWaitMillis)
  }
})

/** Runs an effect in a transaction of its own, while no other one archives or restores parts of the same log. */
export const exclusively = <A>(
  database: Database,
  effect: Effect.Effect<A, ArchiveError | ArchiveRefused | Reason>
): Effect.Effect<A, ArchiveError | ArchiveRefused | Reason> => {
  const { migrationWait, names, query, schema, sql, withTransaction } = database
  const log = sql.literal(`${reference(qualify(schema, names.events))}::regclass::oid::int8`)
  const prepare = Effect.gen(function* () {
    // The limits of a session are not for what takes so long, and its times, as texts, may mean other ones when they are read
    // again.
    yield* query(sql`
      SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings
      WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
      UNION ALL
      SELECT pg_catalog.set_config(name, value, true)
      FROM (VALUES ('DateStyle', 'ISO, YMD'), ('TimeZone', 'UTC')) AS style (name, value)`)
    yield* AdvisoryLocks.take(database, {
      of: "all archiving",
      keys: sql`SELECT pg_catalog.hashtextextended('effect-strata archive'::text, ${log}) AS key`,
      atMost: migrationWait
    })
  })
  return withTransaction(Effect.andThen(prepare, effect)).pipe(
    beginReadCommitted,
    Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error)))
  )
}
