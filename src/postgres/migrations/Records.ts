/** Which migrations this version has, which of them a database needs, and when they were run. */
import { Effect, Schema } from "effect"
import { type Reason, SchemaMissing } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as Owners from "../Owners.ts"
import { load, type Migration } from "./MigrationFiles.ts"

type Database = PostgresDatabase["Service"]

/** One row of `strata_migrations`. */
const Applied = Schema.Struct({
  id: Schema.Int,
  table_name: Schema.String,
  file: Schema.String,
  applied_at: Schema.DateTimeUtcFromDate
})

/** A migration of this version, with its record if it has been run. */
export interface Known {
  readonly migration: Migration
  readonly record: typeof Applied.Type | undefined
}

export const isPending = ({ record }: Known): boolean => record === undefined

/** The names of the tables, by what they are, and the size of partitions. */
export const namesOf = ({ names, partitionSize }: Database): ReadonlyMap<string, string> =>
  new Map(Object.entries({ ...names, partitions: String(partitionSize) }))

const readRecords = Effect.fnUntraced(function* (database: Database, found: ReadonlyArray<Owners.Owned>) {
  const { names, query, sql, tables } = database
  if (!found.some(({ isRecords }) => isRecords)) return []
  const rows = yield* query(sql`SELECT id, table_name, file, applied_at FROM ${tables.migrations}`)
  return yield* decodeRows(Applied, names.migrations, ["id"])(rows)
})

/** What a file makes, whatever its number is, and however it runs: a function that has changed has the next number. */
const subjectOf = (file: string): string => file.replaceAll(/^\d+_|_concurrently(?=\.)/g, "")

/** Every migration of this version that this database needs: what is optional only if it is asked for, or was once. */
export const survey = (
  database: Database,
  found: ReadonlyArray<Owners.Owned>
): Effect.Effect<ReadonlyArray<Known>, Reason> =>
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
