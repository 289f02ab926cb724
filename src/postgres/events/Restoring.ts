/**
 * Brings archived parts of the log back, the newest first, so that what is archived are always the oldest versions.
 *
 * **Details**
 *
 * Each part has a transaction of its own, which makes a table of the lines of the file, and attaches it as the partition that it
 * was. Ids and tags have stayed where they are. The log is locked for a moment only: see `ArchiveLocks`.
 */
import { Effect, Schema, Stream } from "effect"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedRows from "./ArchivedRows.ts"
import * as ArchiveFile from "./ArchiveFile.ts"
import * as ArchiveLocks from "./ArchiveLocks.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import type { Tell } from "./Archiving.ts"
import { inBatches } from "./Batches.ts"
import * as CompactLog from "./CompactLog.ts"
import { type ArchiveError, type ArchiveRefused, EventArchive } from "./EventArchive.ts"

const Names = Schema.Struct({
  /** Of the partition, qualified and quoted. */
  partition: Schema.String,
  owner: Schema.String
})

/** What it takes to restore the newest part. `tell` is told how far it is. */
export const make = Effect.fnUntraced(function* (tell: Tell) {
  const database = yield* PostgresDatabase
  const archive = yield* EventArchive
  const { names, query, schema, sql } = database
  const { archived, archives } = ArchiveTable.tablesOf(database)
  const log = qualify(schema, names.events)
  const run = (statement: string) => query({ compile: () => [statement, []] })

  const isCompact = CompactLog.isCompact(database)

  const fill = Effect.fnUntraced(function* (table: string, part: ArchiveTable.Part) {
    const compact = yield* isCompact
    const { endVersion, events, firstVersion } = part
    let done = 0
    yield* Stream.runForEach(
      inBatches(ArchiveFile.linesOf(archive, part), (line) => line.length),
      (batch) =>
        Effect.andThen(
          ArchivedRows.insert(database, table, compact, batch),
          Effect.suspend(() => {
            done += batch.length
            return tell({ firstVersion, endVersion, doing: "restoring", done, events })
          })
        )
    )
  })

  /**
   * An aggregate that has events in the part and in older ones keeps a row: its last version there is not known, but it is below
   * the part, and the aggregate has later events that are not archived.
   */
  const takeBack = Effect.fnUntraced(function* ({ firstVersion }: ArchiveTable.Part) {
    yield* query(sql`DELETE FROM ${archives} WHERE first_version = ${firstVersion}`)
    yield* query(sql`DELETE FROM ${archived} WHERE first_version >= ${firstVersion}`)
    yield* query(sql`UPDATE ${archived} SET version = ${firstVersion}::int8 - 1 WHERE version >= ${firstVersion}`)
  })

  const restoreNewest = Effect.fnUntraced(function* (
    from: bigint
  ): Effect.fn.Return<ArchiveTable.Part | undefined, ArchiveError | ArchiveRefused | Reason> {
    const part = (yield* ArchiveTable.list(database)).at(-1)
    if (part === undefined || part.endVersion <= from) return undefined
    const { endVersion, firstVersion } = part
    const [found] = yield* Effect.flatMap(
      query(sql`
        SELECT pg_catalog.format('%I.%I', nspname, relname || '_'::text || ${String(firstVersion)}::text) AS partition,
          pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)::text) AS owner
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = ${log}::regclass::oid`),
      decodeRows(Names, "pg_class", [])
    )
    if (found === undefined) return undefined
    const { owner, partition } = found
    yield* run(`CREATE TABLE ${partition} (LIKE ${log} INCLUDING ALL)`)
    yield* run(`ALTER TABLE ${partition} OWNER TO ${owner}`)
    yield* fill(partition, part)
    // With such a constraint, the server need not look at all rows while the log is locked.
    const within = `version >= ${firstVersion} AND version < ${endVersion}`
    yield* run(`ALTER TABLE ${partition} ADD CONSTRAINT strata_bounds CHECK (${within})`)
    yield* run(`ANALYZE ${partition}`)
    yield* takeBack(part)
    yield* ArchiveLocks.takeAlone(database, partition)
    yield* run(`ALTER TABLE ${log} ATTACH PARTITION ${partition} FOR VALUES FROM (${firstVersion}) TO (${endVersion})`)
    yield* run(`ALTER TABLE ${partition} DROP CONSTRAINT strata_bounds`)
    return part
  })

  return {
    /** Restores the newest part, unless it is below this version. */
    next: (from: bigint) => ArchiveLocks.exclusively(database, restoreNewest(from)),

    remove: ({ name }: ArchiveTable.Part) => archive.remove(name)
  }
})
