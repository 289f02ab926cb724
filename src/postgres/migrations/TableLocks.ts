/**
 * The locks of tables that a migration takes, so that nobody who writes to them waits for longer than a moment.
 *
 * **Details**
 *
 * A statement that waits for a lock keeps all those waiting that come after it. So a migration first takes the lock that keeps
 * out no writer, but VACUUM and whoever builds an index: they take long, and nobody waits behind it. (A wait for it also ends
 * an autovacuum, which the server does after a second.) Then each statement waits for a moment only, and where that was not
 * enough, the migration gives back all it has, and begins anew a little later.
 */
import { Effect, Schema } from "effect"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import * as LockTurns from "../database/LockTurns.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { fromHolders, holderText } from "../database/TransactionText.ts"

type Database = PostgresDatabase["Service"]

const Text = Schema.Struct({ text: Schema.String })

const texts = (rows: Effect.Effect<ReadonlyArray<unknown>, Reason>): Effect.Effect<ReadonlyArray<string>, Reason> =>
  Effect.map(Effect.flatMap(rows, decodeRows(Text, "pg_class", [])), (found) => found.map(({ text }) => text))

const namesOf = ({ names, schema }: Database): ReadonlyArray<string> =>
  [names.events, names.states, names.spool, names.messages].map((name) => qualify(schema, name))

/** The tables that are there and may be altered. They can be large: that of offsets has a row for each shard. */
export const existing = (database: Database): Effect.Effect<ReadonlyArray<string>, Reason> =>
  texts(
    database.query(database.sql`
      SELECT pg_catalog.format('%I.%I', nspname, relname) AS text
      FROM pg_catalog.unnest(${namesOf(database)}::text[]) AS name
      JOIN pg_catalog.pg_class ON pg_class.oid = pg_catalog.to_regclass(name)::oid
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
      WHERE relkind IN ('r'::"char", 'p'::"char") AND pg_catalog.pg_has_role(relowner, 'USAGE')`)
  )

/** Locks that keep out no writer, and those that do not keep out each other with them. */
const weakModes = ["AccessShareLock", "RowShareLock", "RowExclusiveLock"]

/** Who else has a lock of one of the tables: one that keeps the strongest waiting, or one that does not go with building. */
const holders = (database: Database, isStrongest: boolean) => database.sql`
  SELECT DISTINCT ${database.sql.literal(holderText)} AS text
  FROM pg_catalog.unnest(${namesOf(database)}::text[]) AS name
  JOIN pg_catalog.pg_locks AS held ON held.relation = pg_catalog.to_regclass(name)::oid
  ${database.sql.literal(fromHolders)}
  WHERE held.granted AND held.mode <> ALL (${isStrongest ? weakModes.slice(0, 1) : weakModes}::text[])
    AND held.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
    AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`

/** The statement that takes the lock with which nobody else builds an index of a table, or vacuums it. */
export const lockStatement = (tables: ReadonlyArray<string>): string =>
  `LOCK TABLE ${tables.join(", ")} IN SHARE UPDATE EXCLUSIVE MODE`

/** The locks that keep out no writer, of all that is there. */
export const locks = (database: Database): Effect.Effect<LockTurns.Locks | undefined, Reason> =>
  Effect.map(existing(database), (tables) =>
    tables.length === 0
      ? undefined
      : { taking: { compile: () => [lockStatement(tables), []] }, holders: holders(database, false) }
  )

/** Who is in the way of a statement that takes the strongest lock, or of a build, for people. */
export const describe = (database: Database, isStrongest: boolean): Effect.Effect<string, Reason> =>
  LockTurns.nameHolders(database, holders(database, isStrongest))
