/**
 * Brings the tables and their functions to what this version needs: the process that starts first migrates, the others wait.
 *
 * **Details**
 *
 * The files of `resources/postgres` are the single source; its README.md says how they are named and written. They run in
 * the order of their numbers, under an advisory lock, in one transaction, and are recorded by table and number in
 * `strata_migrations`. Those that build indexes of large tables come last, each outside of a transaction. Each can be run again,
 * and by hand with `psql -f`. They adopt tables that a Go original created: they add what is missing, and never rewrite or drop
 * data. Where nothing is pending, a process takes no lock and needs no right to create anything.
 */
import { type DateTime, Effect, Option } from "effect"
import { monotonicMillis } from "../internal/Monotonic.ts"
import * as Operation from "../internal/Operation.ts"
import type { StoreError } from "../StoreError.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import type * as Building from "./migrations/Building.ts"
import { survey } from "./migrations/Records.ts"
import * as Running from "./migrations/Running.ts"
import * as Owners from "./Owners.ts"

export { directory } from "./migrations/MigrationFiles.ts"
export type { Progress, Tell } from "./migrations/Building.ts"

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

/** How often the progress of a long migration is logged. */
const millisBetweenLogs = 10_000

const percent = (share: number | undefined) => (share === undefined ? "" : `, ${Math.floor(share * 100)}%`)

/** Logs progress, now and then. */
const logging = Effect.sync((): Building.Tell => {
  let nextMillis = 0
  return ({ doing, file, share }) =>
    Effect.flatMap(monotonicMillis, (nowMillis) => {
      if (nowMillis < nextMillis) return Effect.void
      nextMillis = nowMillis + millisBetweenLogs
      return Effect.logInfo(`migration ${file}: ${doing}${percent(share)}`)
    })
})

/** `migrate`, which tells about once a second how far an index of a large table has come. */
export const migrateTelling = (
  tell: Building.Tell
): Effect.Effect<ReadonlyArray<string>, StoreError, PostgresDatabase> =>
  Effect.scoped(
    Effect.gen(function* () {
      const database = yield* PostgresDatabase
      const operation = yield* Operation.make("Postgres", "postgres")
      return yield* operation.effect("migrate", Running.run(database, tell))
    })
  )

/**
 * Runs what is pending and returns the names of the files it ran: none if the tables are up to date.
 *
 * Any number of processes may start at once: one migrates, the others wait for it and find nothing to do. Tables that a
 * newer version has migrated are refused as `SchemaMissing`.
 *
 * **Details**
 *
 * Others go on writing to the tables meanwhile. Indexes of large tables are built outside of the transaction, and their
 * progress is logged. A process that is killed then leaves nothing to be mended by hand: the next one goes on. Where a
 * transaction of somebody else has a table, the migration tries for its lock for a moment at a time, up to `migrationWait`.
 */
export const migrate: Effect.Effect<ReadonlyArray<string>, StoreError, PostgresDatabase> = Effect.flatMap(
  logging,
  migrateTelling
)
