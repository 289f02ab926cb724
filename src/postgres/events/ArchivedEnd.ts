/**
 * How a statement that reads events says up to where the log is archived, and finds what is left of archived events in tables.
 *
 * **Details**
 *
 * A part is archived, or restored, in one transaction, which locks the table of events against everybody. A statement locks the
 * table before it takes its snapshot, so what it finds in the table of archives belongs to what it finds in that of events. Of
 * two statements the one may see a part in the table of events, and the other one among the archives, or neither may see it
 * anywhere. So a reader relies on what the statement says that has read its events.
 */
import { Effect, Option, Predicate, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { isUuid } from "../../internal/Ids.ts"
import { type Reason, Unexpected } from "../../StoreError.ts"
import { qualify, reference } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchiveTable from "./ArchiveTable.ts"
import * as EventTable from "./EventTable.ts"
import { versionOf } from "./TailItems.ts"

/** What was archived is restored, or the other way round, between two statements. The reader begins anew where it is. */
export class Moved {
  readonly _tag = "Moved"
}

export const moved = new Moved()

/** Rows that were read, and the version below which the log is archived. */
export interface WithEnd {
  readonly rows: ReadonlyArray<unknown>
  readonly end: bigint
}

const oldSnapshot = (table: string) =>
  new Unexpected({
    message:
      `a part of ${table} was archived since this transaction has begun, and its snapshot sees it nowhere: ` +
      "run the transaction again, or with isolation level READ COMMITTED"
  })

/** The version that a row has in a column, if it has one. */
export const versionIn = (row: unknown, column: string): bigint | undefined =>
  Predicate.hasProperty(row, column) && typeof row[column] === "bigint" ? row[column] : undefined

export const make = (database: PostgresDatabase["Service"]) => {
  const { names, schema, sql, tables } = database
  const table = qualify(schema, names.events)
  const { archives } = ArchiveTable.tablesOf(database)
  const ids = sql.literal(EventTable.idsNameOf(database))

  /**
   * The version below which the log is archived. It is NULL where the snapshot of the transaction still has a part among the
   * partitions that is none any more: such a snapshot sees its events nowhere. What functions say of partitions is of now.
   */
  const end = sql`(
    SELECT CASE WHEN pg_catalog.left(current_setting('transaction_isolation'), 5) = 'read '::text OR NOT EXISTS (
      SELECT FROM pg_catalog.pg_inherits WHERE inhparent = ${sql.literal(reference(table))}::regclass::oid
        AND pg_catalog.pg_partition_root(inhrelid::regclass)::oid IS DISTINCT FROM inhparent
    ) THEN coalesce((SELECT max(end_version) FROM ${archives}), 0::bigint) END
  )`

  return {
    ids,
    end,
    oldSnapshot: oldSnapshot(table),

    /** A statement that reads events, with the end of what is archived beside each row, or alone in a row if there is none. */
    withEnd: (page: Fragment, direction: "ASC" | "DESC" = "ASC") => sql`
      SELECT log.*, page.* FROM (SELECT ${end} AS "archivedEnd") AS log LEFT JOIN (${page}) AS page ON true
      ORDER BY page.version ${sql.literal(direction)}`,

    /** What such a statement has read, or several ones, where a row is too long for one. */
    split: (found: ReadonlyArray<unknown>): Effect.Effect<WithEnd, Reason | Moved> => {
      const end = versionIn(found[0], "archivedEnd")
      if (end === undefined) return Effect.fail(oldSnapshot(table))
      if (found.some((row) => versionIn(row, "archivedEnd") !== end)) return Effect.fail(moved)
      return Effect.succeed({ rows: found.filter((row) => versionOf(row) > 0n), end })
    },

    /** The versions of the archived events that have these ids. A compact log has no other ids than UUIDs. */
    withIds: (all: ReadonlyArray<string>, compact: boolean): Fragment => sql`
      SELECT version, id FROM ${ids}
      WHERE id = ANY(${compact ? all.filter(isUuid) : all}::${sql.literal(compact ? "uuid" : "text")}[]) AND version < ${end}`,

    /** The last event up to a version, archived or not. */
    lastUpTo: (bound: bigint): Fragment => sql`
      SELECT version, id FROM (
        (SELECT version, id::text FROM ${tables.events} WHERE version <= ${bound} ORDER BY version DESC LIMIT 1)
        UNION ALL
        (
          SELECT least(last_version, ${bound}::bigint), CASE WHEN last_version <= ${bound} THEN last_id END FROM ${archives}
          WHERE last_version IS NOT NULL ORDER BY first_version DESC LIMIT 1
        )
      ) AS event ORDER BY version DESC LIMIT 1`,

    /** The highest version of the log, if there is an event. */
    highest: sql`coalesce((SELECT max(version) FROM ${tables.events}), (SELECT max(last_version) FROM ${archives}))`
  }
}

/** Begins anew where a part of what was to be read was archived or restored meanwhile. */
export const again = <A>(read: Effect.Effect<A, Reason | Moved>): Effect.Effect<A, Reason> =>
  Effect.catchTag(read, "Moved", () => again(read))

/** Reads from a place on, and says at which place the other reader goes on, if it has not come to the end. */
type Reader<S, A, E, R> = (from: S, goOn: (next: S) => void) => Stream.Stream<A, E, R>

/** Reads the table as far as it goes on, and what is archived as far as that goes on, in turns. */
export const inTurns = <S, A, E, R>(
  from: S,
  { files, table }: { readonly table: Reader<S, A, E, R>; readonly files: Reader<S, A, E, R> }
): Stream.Stream<A, E, R> =>
  Stream.suspend(() => {
    let next: Option.Option<S> = Option.none()
    const read = table(from, (place) => (next = Option.some(place)))
    const rest = Stream.suspend(() =>
      Option.match(next, {
        onNone: () => Stream.empty,
        onSome: (place) => inTurns(place, { table: files, files: table })
      })
    )
    return Stream.concat(read, rest)
  })
