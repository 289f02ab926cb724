/** The schema: whether all tables are there, the migrations have run, and this role may use what they made. */
import { Effect, Option } from "effect"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import * as Migrations from "../../postgres/Migrations.ts"
import { type Findings, ok, orOk, problem, relations, texts } from "./Check.ts"

/** Which tables are missing? Finds nothing if none is. */
export const missing: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const names = Object.values(yield* relations)
  const found = yield* texts(sql`
    SELECT name AS text FROM pg_catalog.unnest(${names}::text[]) AS name WHERE to_regclass(name) IS NULL`)
  return found.map((name) => problem(`there is no table ${name}`, "run: strata migrate"))
})

/** Is a migration pending? */
export const migrations: Findings = Effect.map(Migrations.status, (statuses) => {
  const pending = statuses.flatMap(({ appliedAt, file }) => (Option.isNone(appliedAt) ? [file] : []))
  return pending.length === 0
    ? ok(`${statuses.length} run, none pending`)
    : [problem(`pending: ${pending.join(", ")}`, "run: strata migrate")]
})

/** May this role do on tables, sequence and functions what the stores do? */
export const grants: Findings = Effect.gen(function* () {
  const { sql } = yield* PostgresDatabase
  const { events, messages, offsets, spool, states } = yield* relations
  const missing = yield* texts(sql`
    SELECT pg_catalog.format('GRANT %s ON %s TO %I', privilege, name::regclass, current_user) AS text
    FROM (VALUES
      (${events}, 'SELECT, INSERT'),
      (${offsets}, 'SELECT, INSERT, UPDATE, DELETE'),
      (${states}, 'SELECT, INSERT, UPDATE, DELETE'),
      (${messages}, 'SELECT, INSERT, UPDATE, DELETE'),
      (${spool}, 'SELECT, INSERT, UPDATE, DELETE')
    ) AS needed (name, privileges)
    CROSS JOIN LATERAL regexp_split_to_table(privileges, ', ') AS privilege
    WHERE NOT pg_catalog.has_table_privilege(name::regclass, privilege)
    UNION ALL
    SELECT pg_catalog.format('GRANT USAGE ON SEQUENCE %s TO %I', seqrelid::regclass, current_user)
    FROM pg_attribute JOIN pg_sequence ON seqrelid = pg_get_serial_sequence(${events}, 'version')::regclass::oid
    WHERE attrelid = ${events}::regclass::oid AND attname = 'version' AND attidentity = ''
      AND NOT has_sequence_privilege(seqrelid, 'USAGE')
    UNION ALL
    SELECT pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', procedure.oid::regprocedure, current_user)
    FROM (VALUES
      (${events}, '_append'), (${states}, '_write'), (${messages}, '_claim'), (${spool}, '_claim')
    ) AS named (name, ending)
    JOIN pg_class AS class ON class.oid = name::regclass::oid
    JOIN pg_proc AS procedure ON pronamespace = relnamespace AND proname = relname::text || ending
    WHERE NOT has_function_privilege(procedure.oid, 'EXECUTE')`)
  return orOk(
    missing.map((grant) => problem("this role may not do all that the stores do", `as the owner: ${grant}`)),
    "this role may do what the stores do"
  )
})
