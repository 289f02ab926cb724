/**
 * Runs the migrations that are pending: what is quick in one transaction, and then what takes long on large tables, outside of
 * any.
 */
import { Duration, Effect, Schema } from "effect"
import { SqlError } from "effect/sql"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { realSleep } from "../../internal/RealTime.ts"
import { Denied, type Reason } from "../../StoreError.ts"
import * as AdvisoryLocks from "../database/AdvisoryLocks.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { quote } from "../database/Identifier.ts"
import { beginReadCommitted } from "../database/Isolation.ts"
import * as LockTurns from "../database/LockTurns.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isDeadlock, isLockTimeout, reasonOf } from "../database/Reasons.ts"
import * as Owners from "../Owners.ts"
import * as Building from "./Building.ts"
import * as Converting from "./Converting.ts"
import { isConcurrent, type Migration, type Statement, withNames } from "./MigrationFiles.ts"
import { isPending, namesOf, survey } from "./Records.ts"
import * as TableLocks from "./TableLocks.ts"

type Database = PostgresDatabase["Service"]

const Path = Schema.Struct({ path: Schema.String })

/** Another session has a lock that is needed: the transaction has to begin anew, and leaves to others meanwhile what it has. */
class Blocked {
  readonly _tag = "Blocked"
  readonly of: string
  readonly reason: Reason
  /** Who that is, where the transaction could still ask. */
  readonly text: string | undefined
  constructor(of: string, { reason, text }: Pick<Blocked, "reason" | "text">) {
    this.of = of
    this.reason = reason
    this.text = text
  }
}

const ofTables = "the lock that a migration needs of a table"

/** Sets the search path to the end of the transaction. */
type SetPath = (path: string) => Effect.Effect<unknown, SqlError.SqlError>

/**
 * The first statements of the transaction: its limits, the lock, the schema, and the table of records. Refuses what belongs
 * to others. Returns the search path in which the files find their tables, and what is there.
 *
 * **Details**
 *
 * What these statements call is built in, and named so: the schemas of the path may have functions of somebody else.
 */
const prepare = Effect.fnUntraced(function* (database: Database, setPath: SetPath) {
  const { query, schema, sql, tables } = database
  // A migration may take as long as it must, whatever the limits of the session are. The wait for another one has its own.
  yield* sql`
    SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`
  // One lock for all tables of the database: the same table can go by two names, with its schema and without.
  const keys = sql`SELECT pg_catalog.hashtextextended('effect-strata'::text, 0::int8) AS key`
  const others = yield* LockTurns.turn(database, AdvisoryLocks.locksOf(database, keys), LockTurns.turnMillis)
  if (others !== undefined) return yield* Effect.fail(new Blocked("the lock of all migrations", others))
  const [session] = yield* Effect.flatMap(
    query(sql`SELECT pg_catalog.current_setting('search_path') AS path`),
    decodeRows(Path, "pg_settings", [])
  )
  const path = schema === undefined ? (session?.path ?? "") : `${quote(schema)}, pg_temp`
  if (schema !== undefined) {
    // IF NOT EXISTS would ask for the right to create schemas even where there is nothing to create.
    const missing = yield* sql`SELECT WHERE pg_catalog.to_regnamespace(${quote(schema)}) IS NULL`
    if (missing.length > 0) yield* sql.unsafe(`CREATE SCHEMA ${quote(schema)}`).unprepared
    yield* setPath(path)
  }
  // This statement locks tables of the catalog, so it sees what others had made until this one got its turn.
  const found = yield* Owners.list(database)
  yield* Owners.refuseForeign(found)
  // IF NOT EXISTS would look for the table only in the first schema of the search path, and make a second one there.
  if (found.some(({ isRecords }) => isRecords)) return { path, found }
  yield* sql`CREATE TABLE ${tables.migrations} (
    id         INTEGER     NOT NULL,
    table_name TEXT        NOT NULL,
    file       TEXT        NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, id)
  )`.unprepared
  return { path, found: yield* Owners.list(database) }
})

const Made = Schema.Struct({ statement: Schema.String })

/** The statements that a statement of a file makes, or the statement itself. */
const statementsOf = Effect.fnUntraced(function* (database: Database, statement: Statement) {
  const text = withNames(namesOf(database), statement)
  if (!statement.makesStatements) return [text]
  const rows = yield* database.query(database.sql.unsafe(`SELECT made.statement FROM (${text}) AS made (statement)`))
  return (yield* decodeRows(Made, "pg_class", [])(rows)).map((row) => row.statement)
})

const record = (database: Database, { file, id, table }: Migration) =>
  database.sql`
    INSERT INTO ${database.tables.migrations} (id, table_name, file) VALUES (${id}, ${namesOf(database).get(table)}, ${file})`

/**
 * Runs one migration and records it. A file may leave a path in which only what is built in is found: `setPath` mends it.
 * Returns false where a statement has to run outside of the transaction: the migration is to be run later, as a whole.
 */
const apply = Effect.fnUntraced(function* (database: Database, setPath: ReturnType<SetPath>, migration: Migration) {
  for (const statement of migration.statements) {
    const texts = yield* statementsOf(database, statement)
    if (texts.some(isConcurrent)) return false
    for (const text of texts) yield* database.sql.unsafe(text).unprepared
  }
  yield* setPath
  yield* record(database, migration)
  return true
})

/**
 * Runs the statements of a migration that have to run outside of a transaction, while this one keeps out other processes. It
 * stops where a file has another statement: `apply` runs that in a transaction once these have done their work.
 *
 * **Details**
 *
 * A build waits for the end of each transaction that has a snapshot from before, and this one ends after it. What the driver has
 * asked last keeps its snapshot until the next statement, so that is one without.
 */
const build = Effect.fnUntraced(function* (database: Database, migration: Migration, tell: Building.Tell) {
  const builder = yield* Building.open(database, tell)
  const noSnapshot = database.sql`SET LOCAL lock_timeout TO 0`.unprepared
  yield* noSnapshot
  yield* Effect.catchIf(builder.free, isLockTimeout, (reason) =>
    Effect.flatMap(TableLocks.describe(database, false), (text) => Effect.fail(new Blocked(ofTables, { text, reason })))
  )
  for (const statement of migration.statements) {
    const texts = yield* statementsOf(database, statement)
    yield* noSnapshot
    for (const text of texts.filter(isConcurrent)) yield* builder.run(migration.file, text)
    if (!texts.every(isConcurrent)) break
  }
}, Effect.scoped)

/** For how long a migration leaves the tables to others, before it tries again to get their locks. */
const pause = Duration.millis(500)

/**
 * Runs an effect in a transaction that has the lock of all migrations, with those that are pending then. Begins anew where another
 * session has a lock that is needed, for as long as one process waits for another that migrates.
 *
 * **Details**
 *
 * No transaction waits for long: what builds an index waits for each transaction that is older, also for one that waits for it.
 */
const locked = Effect.fnUntraced(function* <A>(
  database: Database,
  run: (
    pending: ReadonlyArray<Migration>,
    setPath: ReturnType<SetPath>
  ) => Effect.Effect<A, Blocked | Reason | SqlError.SqlError>
): Effect.fn.Return<A, Reason> {
  const transaction = Effect.gen(function* () {
    const setPath: SetPath = (path) => database.sql`SELECT pg_catalog.set_config('search_path', ${path}, true)`
    const { found, path } = yield* prepare(database, setPath)
    // Another process may have migrated while this one waited for the lock.
    const pending = (yield* survey(database, found)).filter(isPending)
    return yield* run(
      pending.map(({ migration }) => migration),
      setPath(path)
    )
  })
  const attempt = database.withTransaction(transaction).pipe(
    beginReadCommitted,
    Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error))),
    Effect.catchTag("Blocked", (blocked) => Effect.succeed(blocked))
  )
  const endMillis = (yield* monotonicMillis) + Duration.toMillis(database.migrationWait)
  let warned = ""
  while (true) {
    const result = yield* attempt
    if (!(result instanceof Blocked)) return result
    const { of, reason } = result
    const holders = { reason, text: result.text ?? (yield* TableLocks.describe(database, true)) }
    if ((yield* monotonicMillis) >= endMillis) return yield* LockTurns.notHad(of, holders)
    if (holders.text !== warned) yield* LockTurns.warn(of, holders)
    warned = holders.text
    yield* realSleep(pause)
  }
})

/** Runs statements in the locks that a migration takes, none of which waits for long, or begins anew. */
const inMoments = Effect.fnUntraced(function* <A>(
  database: Database,
  isStrong: boolean,
  effect: Effect.Effect<A, Reason | SqlError.SqlError>
) {
  const locks = isStrong ? yield* TableLocks.locks(database) : undefined
  const others = locks && (yield* LockTurns.turn(database, locks, LockTurns.turnMillis))
  if (others !== undefined) return yield* Effect.fail(new Blocked(ofTables, others))
  yield* database.sql`SELECT pg_catalog.set_config('lock_timeout', ${String(LockTurns.momentMillis)}::text, true)`
  return yield* Effect.mapError(effect, (error) => {
    const reason = SqlError.isSqlError(error) ? reasonOf(error) : error
    return isLockTimeout(reason) || isDeadlock(reason) ? new Blocked(ofTables, { reason, text: undefined }) : reason
  })
})

/** Runs what is pending in one transaction, and returns the files that it has run. */
const runTogether = (database: Database) =>
  locked(database, (pending, setPath) =>
    inMoments(
      database,
      true,
      Effect.gen(function* () {
        // A table that has had events is prepared for partitions first, after all others.
        const isLate = pending.some(Converting.isOf) && (yield* Converting.isNeeded(database))
        const early = isLate ? pending.filter((migration) => !Converting.isOf(migration)) : pending
        const applied = yield* Effect.filter(early, (migration) => apply(database, setPath, migration))
        return applied.map(({ file }) => file)
      })
    )
  )

/**
 * Divides a table that has had events, if that is pending, and returns the file then. Each step is a transaction: others go on
 * between them, and where a process ends, the next one goes on from there.
 */
const convert = Effect.fnUntraced(function* (database: Database, tell: Building.Tell) {
  const [file] = (yield* survey(database, yield* Owners.list(database)))
    .filter((known) => isPending(known) && Converting.isOf(known.migration))
    .map(({ migration }) => migration.file)
  if (file === undefined) return undefined
  const next = Converting.make(database, file, tell)
  while (true) {
    const isDone = yield* locked(
      database,
      Effect.fnUntraced(function* (pending, setPath) {
        const migration = pending.find(Converting.isOf)
        if (migration === undefined) return true
        const step = yield* next
        if (step !== "ready") return yield* inMoments(database, step.isStrong, Effect.as(step.run, false))
        const divide = Effect.andThen(Converting.refuseObstacles(database), apply(database, setPath, migration))
        return yield* inMoments(database, true, divide)
      })
    )
    if (isDone) return file
  }
})

/** A standby takes no migration. Said at once, also where nothing is pending: the stores could not write there. */
const checkPrimary = Effect.fnUntraced(function* ({ query, sql }: Database) {
  const standby = yield* query(sql`SELECT WHERE pg_catalog.pg_is_in_recovery()`)
  if (standby.length === 0) return
  const message = "the server is a standby, which takes no write; connect to the primary, or promote the standby first"
  return yield* new Denied({ message, mayPass: true })
})

/** Runs what is pending, and returns the names of the files. */
export const run = Effect.fnUntraced(function* (
  database: Database,
  tell: Building.Tell
): Effect.fn.Return<ReadonlyArray<string>, Reason> {
  yield* checkPrimary(database)
  // A superuser has everything to lose, also where the records say that nothing is pending: they may be forged.
  const found = yield* Owners.list(database)
  yield* Owners.refuseForeign(found.filter(({ asSuperuser }) => asSuperuser))
  if (!(yield* survey(database, found)).some(isPending)) return []
  const files = yield* runTogether(database)
  while (true) {
    const built = yield* locked(database, (pending) => {
      const migration = pending.find((one) => !Converting.isOf(one))
      return migration === undefined ? Effect.undefined : Effect.as(build(database, migration, tell), migration)
    })
    if (built === undefined) break
    // A transaction for each, so that what is built is recorded at once.
    const isDone = yield* locked(database, (pending, setPath) =>
      pending.some(({ id, table }) => id === built.id && table === built.table)
        ? inMoments(database, false, apply(database, setPath, built))
        : Effect.succeed(false)
    )
    if (isDone) files.push(built.file)
  }
  const converted = yield* convert(database, tell)
  return converted === undefined ? files : [...files, converted]
})
