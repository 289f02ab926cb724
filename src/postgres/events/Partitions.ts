/**
 * A log whose table has partitions: `resources/postgres/0065_events_partitions_versions.sql` makes them. Its ids are in a table
 * beside it, and the transactions that append make the next partitions.
 */
import { Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { realMillis } from "../../internal/RealTime.ts"
import { Contention, type Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify, reference } from "../database/Identifier.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isWithoutPartition } from "../database/Reasons.ts"
import * as EventTable from "./EventTable.ts"

/** From so many events on, an append goes by the function of the database, which first makes the partitions that it needs. */
export const manyEvents = 100

/**
 * For how long a table is taken to have no partitions, after a look: it may be divided while this process runs. What reads it as
 * a plain one meanwhile finds all events, as nothing is archived sooner: see `ArchiveLocks.awaitReaders`.
 */
export const plainForMillis = 10_000

/** Null if there is no table of events yet. */
const Row = Schema.Struct({ partitioned: Schema.NullOr(Schema.Boolean) })

/** The same question to a plain table, and to a log with partitions, of which a part may be archived. */
interface Readings<A, E> {
  readonly ofPlainTable: () => Effect.Effect<A, E>
  readonly ofPartitions: () => Effect.Effect<A, E>
}

/** Whether the log of a database has partitions, for as long as that may be relied on. */
const answers = new WeakMap<
  PostgresDatabase["Service"],
  { readonly partitioned: boolean; readonly untilMillis: number }
>()

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, schema, sql, withoutTransaction } = database
  const decode = decodeRows(Row, "pg_class", [])
  /** SQL that says whether the log has partitions now. */
  const isPartitionedNow = sql.literal(
    `pg_catalog.to_regclass(${reference(EventTable.idsNameOf(database))}) IS NOT NULL`
  )
  /** Takes an answer, to a question that was asked at that time. */
  const learn = (partitioned: boolean, askedMillis: number): void => {
    const untilMillis = partitioned ? Number.POSITIVE_INFINITY : askedMillis + plainForMillis
    answers.set(database, { partitioned, untilMillis })
  }

  const isKnownPartitioned = (): boolean => answers.get(database)?.partitioned === true

  const look = Effect.flatMap(realMillis, (askedMillis) =>
    query(sql`
      SELECT CASE WHEN pg_catalog.to_regclass(${qualify(schema, names.events)}) IS NOT NULL
        THEN ${isPartitionedNow} END AS partitioned`).pipe(
      Effect.flatMap(decode),
      Effect.map(([row]) => {
        if (typeof row?.partitioned === "boolean") learn(row.partitioned, askedMillis)
        return row?.partitioned === true
      })
    )
  )

  const isPartitioned = Effect.suspend((): Effect.Effect<boolean, Reason> => {
    const known = answers.get(database)
    return known !== undefined && performance.now() < known.untilMillis ? Effect.succeed(known.partitioned) : look
  })

  const extendBy = (more: number, patience: "waits" | "never waits") =>
    query(
      sql`SELECT ${sql.literal(qualify(schema, `${names.events}_extend`))}(${more}::bigint, ${patience === "waits"}::boolean)`
    )

  /** A statement of its own, also where the caller's transaction has failed. That one may have what this one would wait for. */
  const extendOutside = Effect.ignore(withoutTransaction(extendBy(0, "never waits")))

  const lost = ({ cause, message }: Reason) =>
    new Contention({
      message: `the next partitions of ${qualify(schema, names.events)} were not there yet: ${message}; run the transaction again`,
      cause
    })

  return {
    /** Whether the log has partitions. It is asked once where it has some, and else now and then. */
    isPartitioned,

    /**
     * Reads a plain table, or a log with partitions. What was read of a plain table counts if the answer still does: between the
     * look and the statement, a process can wait for as long as it likes.
     */
    read: <A, E>({ ofPartitions, ofPlainTable }: Readings<A, E>): Effect.Effect<A, E | Reason> =>
      Effect.flatMap(isPartitioned, (before) =>
        before
          ? ofPartitions()
          : Effect.flatMap(ofPlainTable(), (found) =>
              Effect.flatMap(isPartitioned, (now) => (now ? ofPartitions() : Effect.succeed(found)))
            )
      ),

    /** Whether it is known to have partitions. If not, a statement can ask by the way, and tell what it has heard. */
    isKnownPartitioned,
    isPartitionedNow,
    learn,

    /**
     * The limit of a page of events that an index has in order. Where the log has partitions it is a part of the text: a server
     * that is given it as a parameter makes a plan of all partitions for each page, which takes several times as long as to
     * read it.
     */
    limitOf: (limit: number): Fragment => (isKnownPartitioned() ? sql.literal(String(limit)) : sql`${limit}`),

    /**
     * Another value in the statement of such a page. The planner does not see it: for a rare type it would take the plan for
     * all types for the dearer one, and make a plan for each page.
     */
    untold: (value: Fragment): Fragment => (isKnownPartitioned() ? sql`(SELECT ${value})` : value),

    /** Makes the partitions that so many events more need. */
    extend: (more: number) => extendBy(more, "waits"),

    /**
     * Runs a statement that inserts so many events. Where there was no partition for one of them, as others had drawn many versions,
     * makes the next partitions, and runs it once more.
     */
    extending: <A>(insert: Effect.Effect<A, Reason>, count: number): Effect.Effect<A, Reason> =>
      Effect.catchIf(insert, isWithoutPartition, (reason) =>
        Effect.flatMap(inTransaction, (inside) =>
          inside ? Effect.andThen(extendOutside, lost(reason)) : Effect.andThen(extendBy(count, "waits"), insert)
        )
      )
  }
})

export type Partitions = Effect.Success<typeof make>
