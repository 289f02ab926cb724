/**
 * Moves the oldest parts of a log with partitions to files, and brings them back.
 *
 * ```ts
 * import { DateTime, Effect, Layer } from "effect"
 * import * as Postgres from "effect-strata/postgres"
 *
 * const { Archive, EventArchive, PostgresDatabase } = Postgres
 *
 * // All that was appended more than a year ago. The client has to be that of the owner of the tables.
 * export const archiveOld = Effect.gen(function* () {
 *   const now = yield* DateTime.now
 *   const { left, parts } = yield* Archive.archive({ before: DateTime.subtract(now, { years: 1 }) })
 *   yield* Effect.logInfo(`${parts.length} parts archived; ${left}`)
 * })
 *
 * export const layer = Layer.merge(PostgresDatabase.layer(), EventArchive.layerDirectory("/srv/strata/archive"))
 * ```
 *
 * **Details**
 *
 * Readers and appends find archived events as if they were in the table, where their layer is given the same `EventArchive`.
 */
import { Effect } from "effect"
import * as Operation from "../internal/Operation.ts"
import type { StoreError } from "../StoreError.ts"
import { PostgresDatabase } from "./database/PostgresDatabase.ts"
import * as ArchiveLocks from "./events/ArchiveLocks.ts"
import * as ArchiveTable from "./events/ArchiveTable.ts"
import * as Archiving from "./events/Archiving.ts"
import type { ArchiveError, ArchiveRefused, EventArchive } from "./events/EventArchive.ts"
import * as Restoring from "./events/Restoring.ts"

export type { Part } from "./events/ArchiveTable.ts"
export type { Archived, Before, Progress, Tell } from "./events/Archiving.ts"

type Failure = ArchiveError | ArchiveRefused | StoreError

const operations = Operation.make("Postgres", "postgres")

const silent: Archiving.Tell = () => Effect.void

/** All parts that are archived, the oldest first. */
export const parts: Effect.Effect<ReadonlyArray<ArchiveTable.Part>, StoreError, PostgresDatabase> = Effect.scoped(
  Effect.gen(function* () {
    const database = yield* PostgresDatabase
    const operation = yield* operations
    return yield* operation.effect("archiveParts", ArchiveTable.list(database))
  })
)

/** What `archive` takes. */
export interface ArchiveOptions {
  /** Versions from this one on stay, or events of this time and later ones. */
  readonly before: Archiving.Before
  /** Is told how far it is. */
  readonly tell?: Archiving.Tell
}

/**
 * Writes the oldest partitions to files of the `EventArchive`, and detaches them: those in which all versions are below `before`, or
 * all events before that time. Partitions that are not settled stay, and that with the newest event. Returns what was archived,
 * and why nothing more.
 *
 * **Details**
 *
 * No partition is detached before its file was read back and each line compared with its row. That is committed together with what
 * readers need in order to find the file. A process that is killed, or fails, has archived the parts before; run it again to go
 * on. Any number of processes may archive at once: they take turns.
 *
 * Appends and reads go on meanwhile. Nobody can change or delete events of a partition while it is written. At its end the log is
 * locked for a moment: where somebody else has it, for at most 0.3 seconds at a time, up to `migrationWait`.
 */
export const archive = ({
  before,
  tell = silent
}: ArchiveOptions): Effect.Effect<Archiving.Archived, Failure, PostgresDatabase | EventArchive> =>
  Effect.scoped(
    Effect.gen(function* () {
      const database = yield* PostgresDatabase
      const operation = yield* operations
      const { next, settled } = yield* Archiving.make(tell)
      const all = Effect.gen(function* () {
        yield* Archiving.checkLog
        yield* ArchiveLocks.awaitReaders(database)
        const settledUpTo = yield* settled
        const parts: Array<ArchiveTable.Part> = []
        while (true) {
          const part = yield* next(before, settledUpTo)
          if (typeof part === "string") return { parts, left: part }
          parts.push(part)
        }
      })
      return yield* operation.effect("archive", Effect.provideService(all, PostgresDatabase, database))
    })
  )

/** What `restore` takes. */
export interface RestoreOptions {
  /** Only the parts that have this version, or later ones. */
  readonly from?: bigint
  /** Removes the file of a part once the part is back. Unless given, files stay: a backup from before needs them. */
  readonly remove?: boolean
  /** Is told how far it is. */
  readonly tell?: Archiving.Tell
}

/**
 * Brings archived parts back into the table, the newest first: all, or those `from` a version. Returns which.
 *
 * **Details**
 *
 * Each part is a transaction: a file that is missing or damaged leaves it archived. The locks are those of `archive`.
 */
export const restore = ({ from = 0n, remove = false, tell = silent }: RestoreOptions = {}): Effect.Effect<
  ReadonlyArray<ArchiveTable.Part>,
  Failure,
  PostgresDatabase | EventArchive
> =>
  Effect.scoped(
    Effect.gen(function* () {
      const database = yield* PostgresDatabase
      const operation = yield* operations
      const restoring = yield* Restoring.make(tell)
      const all = Effect.gen(function* () {
        yield* Archiving.checkLog
        const parts: Array<ArchiveTable.Part> = []
        while (true) {
          const part = yield* restoring.next(from)
          if (part === undefined) return parts
          if (remove) yield* restoring.remove(part)
          parts.push(part)
        }
      })
      return yield* operation.effect("restore", Effect.provideService(all, PostgresDatabase, database))
    })
  )
