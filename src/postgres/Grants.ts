/** What a role needs for what it is to do, which it lacks, and what it has beyond that. */
import { Effect, Schema } from "effect"
import type { Reason } from "../StoreError.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { qualify, quote } from "./database/Identifier.ts"
import { appended, markNeed, type Need, needsOf, type Purpose } from "./database/Needs.ts"
import type { PostgresDatabase } from "./database/PostgresDatabase.ts"

type Database = PostgresDatabase["Service"]

export type { Purpose } from "./database/Needs.ts"

/** What `Postgres.layer`, the command and the doctor read besides. */
const recordsOf = ({ names, schema }: Database): ReadonlyArray<Need> =>
  [names.migrations, `${names.events}_log`].map((name) => ({ table: qualify(schema, name), privileges: ["SELECT"] }))

const Privilege = Schema.Struct({
  /** What of: `strata.events`, `SCHEMA strata`, `FUNCTION ..`. */
  target: Schema.String,
  privilege: Schema.String,
  has: Schema.Boolean
})

export interface Grant {
  readonly statement: string
  /** Whether the role has all of it already. */
  readonly has: boolean
}

/** One statement for each object, with its privileges. */
const grantsOf = (found: ReadonlyArray<typeof Privilege.Type>, role: string): ReadonlyArray<Grant> =>
  [...Map.groupBy(found, ({ target }) => target)].map(([target, all]) => ({
    statement: `GRANT ${all.map(({ privilege }) => privilege).join(", ")} ON ${target} TO ${quote(role)}`,
    has: all.every(({ has }) => has)
  }))

/** The privileges that a role needs, in an order in which they can be granted. Tables that are not there are left out. */
const privileges = (database: Database, role: string, needs: ReadonlyArray<Need>) => {
  const { names, query, schema, sql } = database
  const tables = needs.flatMap(({ onlyWith, privileges, table }) =>
    privileges.map((privilege) => ({ privilege, table, onlyWith: onlyWith ?? table }))
  )
  const events = qualify(schema, names.events)
  const columns = needs.find((need) => need.columns !== undefined)?.columns ?? []
  // The functions write: readers call none.
  const functions =
    columns === appended
      ? [
          `${names.events}_append`,
          `${names.events}_extend`,
          `${names.events}_key`,
          `${names.events}_missed`,
          `${names.states}_write`,
          `${names.messages}_claim`,
          `${names.spool}_claim`
        ]
      : columns.length > 0
        ? [`${names.events}_extend`, `${names.events}_key`]
        : []
  const statement = sql`
    WITH role AS MATERIALIZED (SELECT pg_roles.oid FROM pg_roles WHERE rolname = ${role}),
    needed AS MATERIALIZED (
      SELECT pg_class.oid, relnamespace, pg_catalog.format('%I.%I', nspname, relname) AS target, privilege, place
      FROM pg_catalog.unnest(${tables.map(({ table }) => table)}::text[]) WITH ORDINALITY AS tables (name, place)
      JOIN pg_catalog.unnest(${tables.map(({ privilege }) => privilege)}::text[]) WITH ORDINALITY AS wanted (privilege, place)
        USING (place)
      JOIN pg_catalog.unnest(${tables.map(({ onlyWith }) => onlyWith)}::text[]) WITH ORDINALITY AS beside (only_with, place)
        USING (place)
      JOIN pg_class ON pg_class.oid = to_regclass(name)::oid JOIN pg_namespace ON pg_namespace.oid = relnamespace
      WHERE to_regclass(only_with) IS NOT NULL
    )
    SELECT target, privilege, has FROM (
      SELECT 'SCHEMA ' || quote_ident(nspname::text) AS target, 'USAGE' AS privilege,
        pg_catalog.has_schema_privilege(role.oid, pg_namespace.oid, 'USAGE') AS has, 0::bigint AS place
      FROM pg_namespace, role WHERE pg_namespace.oid IN (SELECT relnamespace FROM needed)
      UNION ALL
      SELECT target, privilege, pg_catalog.has_table_privilege(role.oid, needed.oid, privilege), place FROM needed, role
      UNION ALL
      SELECT pg_catalog.format('%I.%I', nspname, relname), pg_catalog.format('INSERT (%s)', ${columns.join(", ")}::text), (
          SELECT bool_and(pg_catalog.has_column_privilege(role.oid, pg_class.oid, name, 'INSERT'))
          FROM pg_catalog.unnest(${columns}::text[]) AS name
        ), 1
      FROM role, pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
      WHERE pg_class.oid = to_regclass(${events})::oid AND ${columns.length > 0}::boolean
      UNION ALL
      SELECT 'SEQUENCE ' || seqrelid::regclass::text, 'USAGE',
        pg_catalog.has_sequence_privilege(role.oid, seqrelid, 'USAGE'), 100
      FROM role, pg_attribute JOIN pg_sequence ON seqrelid = pg_get_serial_sequence(${events}, 'version')::regclass::oid
      WHERE attrelid = to_regclass(${events})::oid AND attname = 'version' AND attidentity = '' AND ${columns.length > 0}::boolean
      UNION ALL
      SELECT 'FUNCTION ' || pg_proc.oid::regprocedure::text, 'EXECUTE',
        pg_catalog.has_function_privilege(role.oid, pg_proc.oid, 'EXECUTE'), 101
      FROM role, pg_proc WHERE pronamespace IN (SELECT relnamespace FROM needed) AND proname::text = ANY (${functions}::text[])
    ) AS found ORDER BY place, target, privilege DESC`
  return Effect.flatMap(query(statement), decodeRows(Privilege, "pg_catalog", []))
}

/** What the role needs, in statements for the owner of the tables. */
export const list = (database: Database, role: string, purpose: Purpose): Effect.Effect<ReadonlyArray<Grant>, Reason> =>
  Effect.map(
    privileges(database, role, [...needsOf(database, purpose), markNeed(database, purpose), ...recordsOf(database)]),
    (found) => grantsOf(found, role)
  )

/** The privileges that the role lacks of those that the stores use, each by itself. */
export const lacking = (database: Database, role: string) =>
  Effect.map(privileges(database, role, needsOf(database, "use")), (found) => found.filter(({ has }) => !has))

/** The statements that give the role what it lacks of what the stores do. The stores do not look at the records. */
export const missingOfStores = (database: Database, role: string): Effect.Effect<ReadonlyArray<string>, Reason> =>
  Effect.map(lacking(database, role), (found) => grantsOf(found, role).map(({ statement }) => statement))
