/**
 * Brings the tables to what this version needs, once, whoever asks first.
 *
 * **Details**
 *
 * The files of `resources/postgres` are the single source: `NNNN_table.sql`, run in the order of their numbers under an
 * advisory lock, in one transaction, and recorded by table and number in `strata_migrations`. Each can be run again, and
 * by hand with `psql -f`. They adopt tables that a Go original created: they add what is missing, and never rewrite or
 * drop data. Where nothing is pending, no lock is taken and no right to create anything is needed.
 */
import { type DateTime, Effect, Option, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { readdir, readFile } from "node:fs/promises"
import * as Operation from "../internal/Operation.ts"
import { SchemaMissing, type StoreError, Unexpected } from "../StoreError.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { qualify, quote } from "./database/Identifier.ts"
import * as PostgresDatabase from "./database/PostgresDatabase.ts"
import { reasonOf } from "./database/Reasons.ts"

/** Where the files are. */
export const directory = new URL("../../resources/postgres/", import.meta.url)

/** One file of `resources/postgres`. */
interface Migration {
  readonly id: number
  readonly file: string
  /** Which table it is about. */
  readonly table: string
  /** In psql's notation: `:"offsets"` stands for the name of that table. */
  readonly statements: ReadonlyArray<string>
  /** The option that asks for it, if it does not run by itself: `notify_rows` stands for `notify: "rows"`. */
  readonly option: string | undefined
}

const load = Effect.tryPromise({
  try: async () => {
    const migrations: Array<Migration> = []
    for (const file of (await readdir(directory)).toSorted()) {
      const [, id, table, option] = /^(\d+)_([a-z]+)(?:_(\w+))?\.sql$/.exec(file) ?? []
      if (id === undefined || table === undefined) continue
      const text = await readFile(new URL(file, directory), "utf8")
      // Lines that begin with a backslash are psql's: there they give the tables their default names. The driver refuses
      // several statements in one string, so a line of its own stands between them.
      const statements = text.replaceAll(/^\\.*$/gm, "").split(/^-- next$/m)
      migrations.push({ id: Number(id), file, table, statements, option })
    }
    return migrations
  },
  catch: (cause) => new Unexpected({ message: "the files of resources/postgres cannot be read", cause })
})

/** One row of `strata_migrations`. */
const Applied = Schema.Struct({
  id: Schema.Int,
  table_name: Schema.String,
  applied_at: Schema.DateTimeUtcFromDate
})

/** What there is to run, and what has been run. */
const survey = Effect.gen(function* () {
  const { extras, names, query, schema, sql, tables } = yield* PostgresDatabase.PostgresDatabase
  const decode = decodeRows(Applied, names.migrations, ["id"])
  const nameOf = new Map<string, string>(Object.entries(names))
  // An option that is not given is one that no file is named after.
  const wanted = Object.entries(extras).map(([option, value]) => `${option}_${value}`)
  const record = qualify(schema, names.migrations)

  const applied = Effect.gen(function* () {
    const exists = yield* query(sql`SELECT WHERE to_regclass(${record}) IS NOT NULL`)
    if (exists.length === 0) return []
    return yield* decode(yield* query(sql`SELECT id, table_name, applied_at FROM ${tables.migrations}`))
  })

  /** Every migration of this version, with its record where it has been run: those that are asked for, or were once. */
  const all = Effect.gen(function* () {
    const migrations = yield* load
    const done = yield* applied
    const newest = Math.max(...migrations.map(({ id }) => id))
    const beyond = done.find(({ id }) => id > newest)
    if (beyond !== undefined) {
      const message =
        `${record} records migration ${beyond.id}, this version knows none above ${newest}: ` +
        "a newer effect-strata has migrated these tables; use that version"
      return yield* new SchemaMissing({ message })
    }
    return migrations.flatMap((migration) => {
      const { id, option, table } = migration
      const record = done.find((row) => row.id === id && row.table_name === nameOf.get(table))
      return record !== undefined || option === undefined || wanted.includes(option) ? [{ migration, record }] : []
    })
  })

  return { all, nameOf }
})

/** One migration of this version. */
export interface Status {
  /** Its file in `resources/postgres`. */
  readonly file: string
  /** When it was run; `None` if it is pending. */
  readonly appliedAt: Option.Option<DateTime.Utc>
}

/** Every migration of this version in order, run or pending. Changes nothing. */
export const status: Effect.Effect<
  ReadonlyArray<Status>,
  StoreError,
  PostgresDatabase.PostgresDatabase
> = Effect.scoped(
  Effect.gen(function* () {
    const operation = yield* Operation.make("Postgres", "postgres")
    const { all } = yield* survey
    const statuses = Effect.map(all, (found) =>
      found.map(({ migration, record }) => ({
        file: migration.file,
        appliedAt: Option.map(Option.fromUndefinedOr(record), ({ applied_at }) => applied_at)
      }))
    )
    return yield* operation.effect("migrationStatus", statuses)
  })
)

/**
 * Runs what is pending and returns the names of the files it ran: none if the tables are up to date.
 *
 * Any number of processes may start at once: one migrates, the others wait for it and find nothing to do. Tables that a
 * newer version has migrated are refused as `SchemaMissing`.
 */
export const migrate: Effect.Effect<
  ReadonlyArray<string>,
  StoreError,
  PostgresDatabase.PostgresDatabase
> = Effect.scoped(
  Effect.gen(function* () {
    const { schema, sql, tables } = yield* PostgresDatabase.PostgresDatabase
    const operation = yield* Operation.make("Postgres", "postgres")
    const { all, nameOf } = yield* survey
    const pending = Effect.map(all, (found) =>
      found.flatMap(({ migration, record }) => (record === undefined ? [migration] : []))
    )

    const apply = Effect.fnUntraced(function* ({ file, id, statements, table }: Migration) {
      for (const statement of statements) {
        yield* sql.unsafe(
          statement.replaceAll(/:"(\w+)"/g, (reference, key) => {
            const name = nameOf.get(key)
            return name === undefined ? reference : quote(name)
          })
        ).unprepared
      }
      yield* sql`INSERT INTO ${tables.migrations} (id, table_name, file) VALUES (${id}, ${nameOf.get(table)}, ${file})`
      return file
    })

    const prepare = Effect.gen(function* () {
      // It may take as long as it must, whatever the limits of the session are: so may the one that this waits for.
      yield* sql`
        SELECT set_config(name, '0', true) FROM pg_settings
        WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`
      // One lock for all tables of the database: the same one can go by two names, with its schema and without.
      yield* sql`SELECT pg_advisory_xact_lock(hashtextextended('effect-strata', 0))`
      if (schema !== undefined) {
        // Not IF NOT EXISTS, which asks for the right to create schemas even where there is nothing to create.
        const missing = yield* sql`SELECT WHERE to_regnamespace(${quote(schema)}) IS NULL`
        if (missing.length > 0) yield* sql.unsafe(`CREATE SCHEMA ${quote(schema)}`).unprepared
        yield* sql.unsafe(`SET LOCAL search_path TO ${quote(schema)}`).unprepared
      }
      yield* sql`CREATE TABLE IF NOT EXISTS ${tables.migrations} (
        id         INTEGER     NOT NULL,
        table_name TEXT        NOT NULL,
        file       TEXT        NOT NULL,
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        PRIMARY KEY (table_name, id)
      )`.unprepared
    })

    return yield* operation.effect(
      "migrate",
      Effect.gen(function* () {
        if ((yield* pending).length === 0) return []
        return yield* sql
          .withTransaction(
            Effect.gen(function* () {
              yield* prepare
              return yield* Effect.forEach(yield* pending, apply)
            })
          )
          .pipe(
            // Each statement must see what was committed while this waited for the lock, whatever the session's default is.
            Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL READ COMMITTED"),
            Effect.catchTag("SqlError", (error) => Effect.fail(reasonOf(error)))
          )
      })
    )
  })
)
