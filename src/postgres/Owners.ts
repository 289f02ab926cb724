/**
 * Whose the tables are, and what stands beside them: the owner of a function decides what it does, the owner of a table which
 * triggers, defaults and rules run, all as the role that calls or writes.
 *
 * **Details**
 *
 * The catalog alone answers: nothing that somebody may have planted is read or run, not even a view.
 */
import { Effect, Schema } from "effect"
import { Denied, type Reason } from "../StoreError.ts"
import { decodeRows } from "./database/DecodeRows.ts"
import { qualify } from "./database/Identifier.ts"
import type { PostgresDatabase } from "./database/PostgresDatabase.ts"

type Database = PostgresDatabase["Service"]

/** Something of our names, or a trigger or a sequence of our tables. */
export const Owned = Schema.Struct({
  /** The kind and the name, for people: `function public.events_append(..)`. */
  object: Schema.String,
  owner: Schema.String,
  /** Whether the owner is the role that asks, a superuser, or one of the named ones. */
  isTrusted: Schema.Boolean,
  /** Whether it is the table of records, or what stands in its place. */
  isRecords: Schema.Boolean,
  /** Whether it runs no code of its owner when it is read: a view does. */
  isPlain: Schema.Boolean,
  /** Whether the role that asks is a superuser. */
  asSuperuser: Schema.Boolean
})
export type Owned = typeof Owned.Type

/** The names of the functions that the migrations make, in the schema of the tables. */
const functionsOf = ({ events, messages, spool, states }: Database["names"]): ReadonlyArray<string> => [
  `${events}_append`,
  `${events}_draw`,
  `${events}_extend`,
  `${events}_gather`,
  `${events}_guard`,
  `${events}_key`,
  `${events}_missed`,
  "notify_event_inserted",
  `${states}_write`,
  `${spool}_claim`,
  `${spool}_lease`,
  `${spool}_queue`,
  `${messages}_claim`
]

/** A function with a longer list of arguments is called by its name alone. */
const longestSignature = 160

/** Everything of our names that is there already. */
export const list = (database: Database): Effect.Effect<ReadonlyArray<Owned>, Reason> => {
  const { names, owners, query, schema, sql } = database
  const beside = ["tags", "ids", "gathered", "archives", "archived"].map((ending) => `${names.events}_${ending}`)
  const relations = [...Object.values(names), ...beside].map((name) => qualify(schema, name))
  const statement = sql`
    WITH ours AS MATERIALIZED (
      SELECT pg_class.oid, relnamespace FROM pg_catalog.unnest(${relations}::text[]) AS name
      JOIN pg_class ON pg_class.oid = to_regclass(name)::oid
    ), spaces AS MATERIALIZED (
      SELECT relnamespace AS space FROM ours
      UNION SELECT oid FROM pg_namespace WHERE nspname = coalesce(${schema ?? null}::name, current_schema())
    ), owned AS (
      SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table ' ELSE 'table ' END
          || pg_class.oid::regclass::text AS object, relowner AS owner,
        pg_class.oid IS NOT DISTINCT FROM to_regclass(${qualify(schema, names.migrations)})::oid AS "isRecords",
        relkind IN ('r', 'p') AS "isPlain"
      FROM ours JOIN pg_class ON pg_class.oid = ours.oid
      UNION
      SELECT 'sequence ' || pg_class.oid::regclass::text, relowner, false, true
      FROM pg_depend JOIN ours ON refobjid = ours.oid JOIN pg_class ON pg_class.oid = objid
      WHERE refclassid = 'pg_class'::regclass::oid AND classid = 'pg_class'::regclass::oid AND relkind = 'S'
      UNION
      SELECT 'sequence ' || pg_class.oid::regclass::text, relowner, false, true
      FROM pg_attrdef JOIN ours ON adrelid = ours.oid
      JOIN pg_depend ON classid = 'pg_attrdef'::regclass::oid AND objid = pg_attrdef.oid
      JOIN pg_class ON pg_class.oid = refobjid
      WHERE refclassid = 'pg_class'::regclass::oid AND relkind = 'S'
      UNION
      SELECT 'function ' || CASE WHEN length(pg_proc.oid::regprocedure::text) <= ${longestSignature}::int
          THEN pg_proc.oid::regprocedure::text ELSE pg_proc.oid::regproc::text END, proowner, false, true
      FROM pg_proc JOIN spaces ON pronamespace = space WHERE proname::text = ANY (${functionsOf(names)}::text[])
      UNION
      SELECT pg_catalog.format('function %s of the trigger %I on %s', pg_proc.oid::regprocedure, tgname, tgrelid::regclass),
        proowner, false, true
      FROM pg_trigger JOIN ours ON tgrelid = ours.oid JOIN pg_proc ON pg_proc.oid = tgfoid WHERE NOT tgisinternal
    )
    SELECT object, pg_roles.rolname::text AS owner, "isRecords", "isPlain", me.rolsuper AS "asSuperuser",
      pg_roles.rolsuper OR pg_roles.oid = me.oid OR pg_roles.rolname::text = ANY (${owners}::text[]) AS "isTrusted"
    FROM owned JOIN pg_roles ON pg_roles.oid = owner JOIN pg_roles AS me ON me.rolname = current_user
    ORDER BY object`
  return Effect.flatMap(query(statement), decodeRows(Owned, "pg_catalog", []))
}

const refusal = ({ object, owner }: Owned) =>
  new Denied({
    message:
      `the ${object} belongs to the role ${owner}, who decides what runs there, as whoever uses it; drop it, give it to the ` +
      `role that migrates, or name its owner if you trust it: owners: [..], or strata migrate --owner`
  })

/** Fails with `Denied` if something belongs to a role that is not trusted. */
export const refuseForeign = (found: ReadonlyArray<Owned>): Effect.Effect<void, Denied> => {
  const foreign = found.find(({ isTrusted }) => !isTrusted)
  return foreign === undefined ? Effect.void : Effect.fail(refusal(foreign))
}

/** The same for those who only read the records: refuses somebody's view in the place of the table. */
export const refuseUnreadable = (found: ReadonlyArray<Owned>): Effect.Effect<void, Denied> =>
  refuseForeign(found.filter(({ isPlain, isRecords }) => isRecords && !isPlain))
