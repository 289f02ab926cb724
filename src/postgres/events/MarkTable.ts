/** The mark that the primary publishes for its standbys: see `resources/postgres/0053_events_mark.sql`. */
import { Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import { qualify, reference } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"

type Database = PostgresDatabase["Service"]

/** The row of the table. */
export const Published = Schema.Struct({
  version: Schema.BigInt,
  /** The server that has settled it, as `LockHolders.serverColumns` names it. */
  server: Schema.String
})

/** The name of the table. */
export const nameOf = ({ names }: Pick<Database, "names">): string => `${names.events}_mark`

/** The table, qualified and quoted. */
export const tableOf = (database: Pick<Database, "names" | "schema" | "sql">): Fragment =>
  database.sql.literal(qualify(database.schema, nameOf(database)))

/**
 * A query for the row, if it is of this log: the sequence that it names is the one that there is. The table is `mark` there, for
 * other conditions.
 */
export const current = (database: Pick<Database, "names" | "schema" | "sql">): Fragment => {
  const events = reference(qualify(database.schema, database.names.events))
  return database.sql`
    SELECT mark.version, mark.server FROM ${tableOf(database)} AS mark
    WHERE pg_catalog.split_part(mark.server, ' '::text, 2)
      = coalesce(pg_relation_filenode(pg_get_serial_sequence(${database.sql.literal(events)}, 'version')::regclass)::text, '')`
}
