/**
 * Runs statements that take long and hold up nobody, such as CREATE INDEX CONCURRENTLY, outside of any transaction.
 *
 * **Details**
 *
 * They run on a connection of their own, since the pool may have but one. The server goes on with a statement whose process is
 * gone. The lock that keeps out other processes is free then, so the next process also waits for the table, looks at what is
 * there, and goes on from that.
 */
import { PgConnection } from "@effect/sql-pg"
import { Effect, Schema, type Scope } from "effect"
import type { SqlError } from "effect/sql"
import { realSleep } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import * as LockTurns from "../database/LockTurns.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { reasonOf } from "../database/Reasons.ts"
import * as TableLocks from "./TableLocks.ts"

type Database = PostgresDatabase["Service"]

/** How far a statement has come that takes long. */
export interface Progress {
  /** The file of the migration. */
  readonly file: string
  /** The index, and what the server is doing, in its words: "building index: scanning table". */
  readonly doing: string
  /** How much of that is done, from 0 to 1, if the server says it. */
  readonly share: number | undefined
}

/** Tells of progress, about once a second. */
export type Tell = (progress: Progress) => Effect.Effect<void>

const Row = Schema.Struct({ doing: Schema.String, done: Schema.Number, total: Schema.Number })

/** What the backend is doing, and for whom it waits. */
const lookAt = ({ query, sql }: Database, pid: number) =>
  Effect.flatMap(
    query(sql`
      SELECT pg_catalog.format('%s, %s', coalesce(build.index_relid::regclass::text, 'waiting for the table'::text), CASE
          WHEN blocking.pids = '{}'::pg_catalog.int4[] THEN coalesce(build.phase, 'starting'::text)
          ELSE pg_catalog.format('waiting for pid %s', pg_catalog.array_to_string(blocking.pids, ', pid '::text))
        END) AS doing,
        coalesce(greatest(build.blocks_done, build.tuples_done, build.lockers_done), 0)::float8 AS done,
        coalesce(greatest(build.blocks_total, build.tuples_total, build.lockers_total), 0)::float8 AS total
      FROM (SELECT pg_catalog.pg_blocking_pids(${pid}::pg_catalog.int4) AS pids) AS blocking
      LEFT JOIN pg_catalog.pg_stat_progress_create_index AS build ON build.pid = ${pid}::pg_catalog.int4`),
    decodeRows(Row, "pg_stat_progress_create_index", [])
  )

/** How often it is looked at, after the first second. */
const lookEvery = "1 second"

const Backend = Schema.Struct({ pid: Schema.Int })

/** Runs statements one after the other, each in no transaction. */
export interface Builder {
  /** Waits until nobody else builds an index of a table of ours, or vacuums it, but not for long. */
  readonly free: Effect.Effect<void, Reason>
  readonly run: (file: string, statement: string) => Effect.Effect<void, Reason>
}

/** Opens the connection. */
export const open = Effect.fnUntraced(function* (
  database: Database,
  tell: Tell
): Effect.fn.Return<Builder, Reason, Scope.Scope> {
  const { noticeReader, sql, withoutTransaction } = database
  // PGlite has one session, in this process: nobody else is there.
  if (sql.driver === "pglite") {
    const say = (statement: string) => Effect.asVoid(sql.unsafe(statement).unprepared)
    return { free: Effect.void, run: (_, statement) => Effect.mapError(withoutTransaction(say(statement)), reasonOf) }
  }
  const connection = yield* Effect.mapError(PgConnection.make(sql.config), reasonOf)
  noticeReader(connection)
  const say = (statement: string): Effect.Effect<ReadonlyArray<unknown>, Reason> =>
    connection.query(statement, [], false).pipe(
      Effect.map(({ rows }) => rows),
      Effect.mapError((error: SqlError.SqlError) => reasonOf(error))
    )
  const [backend] = yield* Effect.flatMap(
    say("SELECT pg_catalog.pg_backend_pid() AS pid"),
    decodeRows(Backend, "pg_stat_activity", [])
  )
  const pid = backend?.pid ?? connection.processId
  // The limits of a session are not for what takes so long. Behind a pooler the session is shared with others, and keeps them.
  if (pid === connection.processId) {
    yield* say(
      "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN ('statement_timeout', 'lock_timeout')"
    )
  }

  /** Looks at the backend until the statement is done. What a look costs, or why it fails, is no matter of the statement. */
  const telling = <A>(file: string, statement: Effect.Effect<A, Reason>): Effect.Effect<A, Reason> => {
    const look = Effect.flatMap(lookAt(database, pid), ([row]) =>
      row === undefined
        ? Effect.void
        : tell({ file, doing: row.doing, share: row.total > 0 ? Math.min(row.done / row.total, 1) : undefined })
    )
    // A build waits for the end of each transaction that has a snapshot, and the caller's ends after the build.
    const looking = Effect.forever(Effect.andThen(realSleep(lookEvery), Effect.ignore(withoutTransaction(look))))
    return Effect.raceFirst(statement, looking)
  }

  const tables = yield* TableLocks.existing(database)
  return {
    run: (file, statement) => Effect.asVoid(telling(file, say(statement))),
    free: Effect.ensuring(
      Effect.gen(function* () {
        yield* say("BEGIN")
        yield* say(`SET LOCAL lock_timeout TO ${LockTurns.turnMillis}`)
        yield* say(TableLocks.lockStatement(tables))
      }),
      Effect.ignore(say("ROLLBACK"))
    )
  }
})
