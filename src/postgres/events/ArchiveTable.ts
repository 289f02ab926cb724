/** The tables beside that of events that say what is archived: see `resources/postgres/0063_events_archive.sql`. */
import { Effect, Schema } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Reason } from "../../StoreError.ts"
import { decodeRows, NumberFromBigInt } from "../database/DecodeRows.ts"
import { qualify } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { idsNameOf } from "./EventTable.ts"

type Database = PostgresDatabase["Service"]

/** A part of the log that is archived: all versions from `firstVersion` up to, and without, `endVersion`. */
export const Part = Schema.Struct({
  firstVersion: Schema.BigInt,
  endVersion: Schema.BigInt,
  /** The name of its file. */
  name: Schema.String,
  /** How many events the file has. */
  events: NumberFromBigInt,
  /** How many bytes the file had when it was written. */
  bytes: NumberFromBigInt,
  /** The checksum of its events, which is also in its last line. */
  sha256: Schema.String,
  /** The last event of the part, if it has one. */
  lastVersion: Schema.NullOr(Schema.BigInt),
  lastId: Schema.NullOr(Schema.String),
  /** The times of its first and its last event by time, unless one is infinite. */
  firstCreatedAt: Schema.NullOr(Schema.DateTimeUtcFromDate),
  lastCreatedAt: Schema.NullOr(Schema.DateTimeUtcFromDate),
  archivedAt: Schema.DateTimeUtcFromDate
})
export type Part = typeof Part.Type

/** Both tables, qualified and quoted: the parts, and the aggregates that have events in them. */
export const tablesOf = ({
  names,
  schema,
  sql
}: Pick<Database, "names" | "schema" | "sql">): { readonly archives: Fragment; readonly archived: Fragment } => ({
  archives: sql.literal(qualify(schema, `${names.events}_archives`)),
  archived: sql.literal(qualify(schema, `${names.events}_archived`))
})

const columns = `first_version AS "firstVersion", end_version AS "endVersion", name, events, bytes, sha256,
  last_version AS "lastVersion", last_id AS "lastId", first_created_at AS "firstCreatedAt",
  last_created_at AS "lastCreatedAt", archived_at AS "archivedAt"`

const Visible = Schema.Struct({ visible: Schema.Boolean })

/** Whether the log has partitions, without which nothing is archived, and this role may see what is. */
const isVisible = ({ names, query, schema, sql }: Database) =>
  query(sql`
    SELECT coalesce(pg_catalog.has_table_privilege(
      pg_catalog.to_regclass(${qualify(schema, `${names.events}_archives`)})::oid, 'SELECT'::text
    ), false) AND pg_catalog.to_regclass(${idsNameOf({ names, schema })}) IS NOT NULL AS visible`).pipe(
    Effect.flatMap(decodeRows(Visible, "pg_class", [])),
    Effect.map(([row]) => row?.visible === true)
  )

/** The same as `list`, for those who look at any log: none where the log has no partitions, or the role may not see them. */
export const listVisible = (database: Database): Effect.Effect<ReadonlyArray<Part>, Reason> =>
  Effect.flatMap(isVisible(database), (visible) => (visible ? list(database) : Effect.succeed([])))

const read = (database: Database, rest: Fragment): Effect.Effect<ReadonlyArray<Part>, Reason> => {
  const { names, query, sql } = database
  return Effect.flatMap(
    query(sql`SELECT ${sql.literal(columns)} FROM ${tablesOf(database).archives} ${rest}`),
    decodeRows(Part, `${names.events}_archives`, ["firstVersion"])
  )
}

/** All parts, the oldest first. */
export const list = (database: Database): Effect.Effect<ReadonlyArray<Part>, Reason> =>
  read(database, database.sql`ORDER BY first_version`)

/** Of the parts that a condition describes the oldest one, or the newest. */
export const find = (
  database: Database,
  condition: Fragment,
  which: "oldest" | "newest"
): Effect.Effect<Part | undefined, Reason> =>
  Effect.map(
    read(
      database,
      database.sql`WHERE ${condition} ORDER BY first_version ${database.sql.literal(which === "oldest" ? "ASC" : "DESC")} LIMIT 1`
    ),
    ([part]) => part
  )
