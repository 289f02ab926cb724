/**
 * Brings the tables and their functions to what this version needs: the process that starts first migrates, the others wait.
 *
 * **Details**
 *
 * The files of `resources/postgres` are the single source; its README.md says how they are named and written. They run in
 * the order of their numbers, under an advisory lock, in one transaction, and are recorded by table and number in
 * `strata_migrations`. Each can be run again, and by hand with `psql -f`. They adopt tables that a Go original created: they
 * add what is missing, and never rewrite or drop data. Where nothing is pending, a process takes no lock and needs no right
 * to create anything.
 */
import { type DateTime, Effect, Option, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { readdir, readFile } from "node:fs/promises"
import * as Operation from "../internal/Operation.ts"
import { Denied, type Reason, SchemaMissing, type StoreError, Unexpected } from "../StoreError.ts"
import * as AdvisoryLocks from "./database/AdvisoryLocks.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { qualify, quote } from "./database/Identifier.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import { reasonOf } from "./database/Reasons.ts"
import * as Owners from "./Owners.ts"

type Database = PostgresDatabase["Service"]

/** Where the files are. */
export const directory = new URL("../../resources/postgres/", import.meta.url)

// The files

/** One numbered file of `resources/postgres`. */
interface Migration {
  readonly id: number
  readonly file: string
  /** The table that the file is about: a key of the option `tables`. */
  readonly table: string
  /** What the file makes beside the table: a function (`append`), or something optional (`notify_rows`). */
  readonly part: string
  /** In psql's notation: `:"offsets"` stands for the name of that table. */
  readonly statements: ReadonlyArray<string>
}

/** The text of a file without psql's commands: `\ir` includes another file, the others give the names their defaults. */
const read = async (file: string): Promise<string> => {
  const text = await readFile(new URL(file, directory), "utf8")
  const lines = text.split("\n").map((line) => {
    const [, included] = /^\\ir (\S+)$/.exec(line) ?? []
    return included === undefined ? (line.startsWith("\\") ? "" : line) : read(included)
  })
  return (await Promise.all(lines)).join("\n")
}

const load: Effect.Effect<ReadonlyArray<Migration>, Unexpected> = Effect.tryPromise({
  try: async () => {
    const migrations: Array<Migration> = []
    for (const file of (await readdir(directory)).toSorted()) {
      const [, id, table, part = ""] = /^(\d+)_([a-z]+)(?:_(\w+))?\.sql$/.exec(file) ?? []
      if (id === undefined || table === undefined) continue
      // The driver refuses several statements in one string, so a line of its own stands between them.
      const statements = (await read(file)).split(/^-- next$/m)
      migrations.push({ id: Number(id), file, table, part, statements })
    }
    return migrations
  },
  catch: (cause) => new Unexpected({ message: "the files of resources/postgres cannot be read", cause })
})

/** Where psql replaces nothing, a comment or a quoted text; or else the name of a table, or of a function beside it. */
const quotedOrName = /--.*|'(?:[^']|'')*'|\$(\w*)\$[^]*?\$\1\$|:"([a-z]+)(_[a-z]+)?"/g

/** Puts the names of the tables and their functions into a statement in psql's notation, where psql would. */
const withNames = (names: ReadonlyMap<string, string>, statement: string): string =>
  statement.replaceAll(quotedOrName, (found: string, _tag, table: string, ending = "") => {
    const name = names.get(table)
    return name === undefined ? found : quote(name + ending)
  })

// What has been run

/** One row of `strata_migrations`. */
const Applied = Schema.Struct({
  id: Schema.Int,
  table_name: Schema.String,
  file: Schema.String,
  applied_at: Schema.DateTimeUtcFromDate
})

const Path = Schema.Struct({ path: Schema.String })

/** A migration of this version, with its record if it has been run. */
interface Known {
  readonly migration: Migration
  readonly record: typeof Applied.Type | undefined
}

const isPending = ({ record }: Known): boolean => record === undefined

const namesOf = ({ names }: Database): ReadonlyMap<string, string> => new Map(Object.entries(names))

const readRecords = Effect.fnUntraced(function* (database: Database, found: ReadonlyArray<Owners.Owned>) {
  const { names, query, sql, tables } = database
  if (!found.some(({ isRecords }) => isRecords)) return []
  const rows = yield* query(sql`SELECT id, table_name, file, applied_at FROM ${tables.migrations}`)
  return yield* decodeRows(Applied, names.migrations, ["id"])(rows)
})

/** What a file makes, whatever its number is: a function that has changed has the next number. */
const subjectOf = (file: string): string => file.replace(/^\d+_/, "")

/** Every migration of this version that this database needs: what is optional only if it is asked for, or was once. */
const survey = (database: Database, found: ReadonlyArray<Owners.Owned>): Effect.Effect<ReadonlyArray<Known>, Reason> =>
  Effect.gen(function* () {
    const migrations = yield* load
    // What stands in the place of the table of records may run somebody's code when it is read.
    yield* Owners.refuseUnreadable(found)
    const records = yield* readRecords(database, found)
    const newest = Math.max(...migrations.map(({ id }) => id))
    const beyond = records.find(({ id }) => id > newest)
    if (beyond !== undefined) {
      const message =
        `${qualify(database.schema, database.names.migrations)} records migration ${beyond.id}, this version knows none ` +
        `above ${newest}: a newer effect-strata has migrated these tables; use that version`
      return yield* new SchemaMissing({ message })
    }
    const options = Object.entries(database.extras)
    const isNeeded = ({ part }: Migration) =>
      options.every(([option, value]) => !part.startsWith(`${option}_`) || part === `${option}_${value}`)
    const names = namesOf(database)
    return migrations
      .map((migration) => {
        const ofTable = records.filter(({ table_name }) => table_name === names.get(migration.table))
        return {
          migration,
          record: ofTable.find(({ id }) => id === migration.id),
          wasRunOnce: ofTable.some(({ file }) => subjectOf(file) === subjectOf(migration.file))
        }
      })
      .filter(({ migration, wasRunOnce }) => wasRunOnce || isNeeded(migration))
  })

/** One migration of this version. */
export interface Status {
  /** Its file in `resources/postgres`. */
  readonly file: string
  /** When it was run; `None` if it is pending. */
  readonly appliedAt: Option.Option<DateTime.Utc>
}

/** Every migration of this version in order, run or pending. Changes nothing. */
export const status: Effect.Effect<ReadonlyArray<Status>, StoreError, PostgresDatabase> = Effect.scoped(
  Effect.gen(function* () {
    const database = yield* PostgresDatabase
    const operation = yield* Operation.make("Postgres", "postgres")
    const surveyed = Effect.flatMap(Owners.list(database), (found) => survey(database, found))
    const statuses = Effect.map(surveyed, (known) =>
      known.map(({ migration, record }) => ({
        file: migration.file,
        appliedAt: Option.map(Option.fromUndefinedOr(record), ({ applied_at }) => applied_at)
      }))
    )
    return yield* operation.effect("migrationStatus", statuses)
  })
)

// Running what is pending

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
  yield* AdvisoryLocks.take(database, {
    of: "all migrations",
    keys: sql`SELECT pg_catalog.hashtextextended('effect-strata'::text, 0::int8) AS key`,
    atMost: database.migrationWait
  })
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

/** Runs one migration and records it. A file may leave a path in which only what is built in is found: `setPath` mends it. */
const apply = Effect.fnUntraced(function* (
  database: Database,
  setPath: ReturnType<SetPath>,
  { file, id, statements, table }: Migration
) {
  const { sql, tables } = database
  const names = namesOf(database)
  for (const statement of statements) yield* sql.unsafe(withNames(names, statement)).unprepared
  yield* setPath
  yield* sql`INSERT INTO ${tables.migrations} (id, table_name, file) VALUES (${id}, ${names.get(table)}, ${file})`
  return file
})

/** A standby takes no migration. Said at once, also where nothing is pending: the stores could not write there. */
const checkPrimary = Effect.fnUntraced(function* ({ query, sql }: Database) {
  const standby = yield* query(sql`SELECT WHERE pg_catalog.pg_is_in_recovery()`)
  if (standby.length === 0) return
  const message = "the server is a standby, which takes no write; connect to the primary, or promote the standby first"
  return yield* new Denied({ message, mayPass: true })
})

const migrateWith = Effect.fnUntraced(function* (database: Database) {
  yield* checkPrimary(database)
  // A superuser has everything to lose, also where the records say that nothing is pending: they may be forged.
  const found = yield* Owners.list(database)
  yield* Owners.refuseForeign(found.filter(({ asSuperuser }) => asSuperuser))
  if (!(yield* survey(database, found)).some(isPending)) return []
  const transaction = Effect.gen(function* () {
    const setPath: SetPath = (path) => database.sql`SELECT pg_catalog.set_config('search_path', ${path}, true)`
    const { found, path } = yield* prepare(database, setPath)
    // Another process may have migrated while this one waited for the lock.
    const pending = (yield* survey(database, found)).filter(isPending)
    return yield* Effect.forEach(pending, ({ migration }) => apply(database, setPath(path), migration))
  })
  return yield* database.withTransaction(transaction).pipe(
    // Each statement must see what was committed while this process waited for the lock, whatever the session's default is.
    Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL READ COMMITTED"),
    Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error)))
  )
})

/**
 * Runs what is pending and returns the names of the files it ran: none if the tables are up to date.
 *
 * Any number of processes may start at once: one migrates, the others wait for it and find nothing to do. Tables that a
 * newer version has migrated are refused as `SchemaMissing`.
 */
export const migrate: Effect.Effect<ReadonlyArray<string>, StoreError, PostgresDatabase> = Effect.scoped(
  Effect.gen(function* () {
    const database = yield* PostgresDatabase
    const operation = yield* Operation.make("Postgres", "postgres")
    return yield* operation.effect("migrate", migrateWith(database))
  })
)
