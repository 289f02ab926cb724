/** The schema: whether all tables are there, the migrations have run, and this role may use what they made. */
import { Effect, Option, Schema } from "effect"
import { qualify, quote } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as Grants from "../postgres/Grants.ts"
import * as Migrations from "../postgres/Migrations.ts"
import { type Findings, ok, orOk, problem, relations, rows, texts, warning } from "./Check.ts"

/** Which tables are missing? Finds nothing if none is. */
export const missing: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const names = Object.values(yield* relations)
  const found = yield* texts(sql`
    SELECT name AS text FROM pg_catalog.unnest(${names}::text[]) AS name WHERE to_regclass(name) IS NULL`)
  return found.map((name) => problem(`there is no table ${name}`, "run: strata migrate"))
})

/** Is a migration pending? A role that may not see the records has no need to, unless it is to use `Postgres.layer`. */
export const migrations: Findings = Effect.gen(function* () {
  const { names, schema, sql } = yield* PostgresDatabase
  const hidden = yield* texts(sql`
    SELECT pg_catalog.format('GRANT SELECT ON %s TO %I', oid::regclass, current_user) AS text FROM pg_class
    WHERE oid = to_regclass(${qualify(schema, names.migrations)})::oid AND NOT pg_catalog.has_table_privilege(oid, 'SELECT')`)
  if (hidden.length > 0) {
    return hidden.map((grant) =>
      warning("this role may not see which migrations have run", `as the owner: ${grant}, or ask as the owner`)
    )
  }
  const statuses = yield* Migrations.status
  const pending = statuses.flatMap(({ appliedAt, file }) => (Option.isNone(appliedAt) ? [file] : []))
  return pending.length === 0
    ? ok(`${statuses.length} run, none pending`)
    : [problem(`pending: ${pending.join(", ")}`, "run: strata migrate")]
})

const Me = Schema.Struct({ role: Schema.String, mayForge: Schema.Boolean, owns: Schema.Boolean })

/** May this role do what the stores do, and not more of what no store does? */
export const grants: Findings = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { events } = yield* relations
  const [me] = yield* rows(
    Me,
    database.sql`
      SELECT current_user::text AS role, pg_catalog.pg_has_role(relowner, 'USAGE') AS owns,
        pg_catalog.has_column_privilege(pg_class.oid, 'version', 'INSERT') AS "mayForge"
      FROM pg_class WHERE pg_class.oid = ${events}::regclass::oid`
  )
  if (me === undefined) return []
  const missing = yield* Grants.missingOfStores(database, me.role)
  const findings = missing.map((grant) =>
    problem("this role may not do all that the stores do", `as the owner: ${grant}`)
  )
  return me.mayForge && !me.owns
    ? [
        ...findings,
        warning(
          "this role may choose the versions and times of events: a version that the sequence has not drawn silences subscribers",
          `as the owner: REVOKE INSERT ON ${events} FROM ${quote(me.role)}, then run what strata grants ${me.role} prints`
        )
      ]
    : orOk(findings, "this role may do what the stores do")
})

const Layout = Schema.Struct({
  compact: Schema.Boolean,
  /** The triggers that read the name of a stream. */
  readers: Schema.Array(Schema.String)
})

/** In which form are events stored? */
export const layout: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const { events } = yield* relations
  const [found] = yield* rows(
    Layout,
    sql`
      SELECT atttypid = 'pg_catalog.uuid'::regtype::oid AS compact, ARRAY(
          SELECT tgname::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
          WHERE tgrelid = attrelid AND NOT tgisinternal AND tgenabled <> 'D' AND prosrc ~ 'NEW[.]stream_name'
        ) AS readers
      FROM pg_attribute WHERE attrelid = ${events}::regclass::oid AND attname = 'id'`
  )
  if (found?.compact !== true) return ok("ids are texts, and stream_name is stored, as go-sync-kit has them")
  return orOk(
    found.readers.map((name) =>
      problem(
        `the trigger ${name} reads stream_name, which ${events} has not, as it is compact: every append fails`,
        `as the owner: DROP TRIGGER ${quote(name)} ON ${events}`
      )
    ),
    "compact: ids are UUIDs, and no stream_name is stored, so no Go service shares the log"
  )
})
