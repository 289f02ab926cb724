/** Who else can put something where the stores, the application or the doctor would find it. */
import { Effect, Schema } from "effect"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as Owners from "../postgres/Owners.ts"
import { type Findings, ok, orOk, problem, relations, rows, warning } from "./Check.ts"

const Path = Schema.Struct({ builtInFirst: Schema.Boolean, path: Schema.String })

/** A schema of the path in which somebody may create who owns neither it nor the tables. */
const Open = Schema.Struct({ schema: Schema.String, role: Schema.String, isBeforeTables: Schema.Boolean })

/**
 * Does the search path of this connection lead to what others may make?
 *
 * **Details**
 *
 * The statements of the stores and of this command call only what is built in, whatever is in the path, as long as
 * `pg_catalog` comes first there. The application's own statements are another matter.
 */
export const searchPath: Findings = Effect.gen(function* () {
  const { schema, sql } = yield* PostgresDatabase
  const { events } = yield* relations
  const [found] = yield* rows(
    Path,
    sql`
      SELECT coalesce((
          SELECT name = 'pg_catalog' FROM pg_catalog.unnest(current_schemas(true)) WITH ORDINALITY AS schemas (name, place)
          WHERE NOT starts_with(name::text, 'pg_temp') ORDER BY place LIMIT 1
        ), true) AS "builtInFirst", current_setting('search_path') AS path`
  )
  if (found?.builtInFirst === false) {
    return [
      problem(
        `the search path is ${found.path}: what others make in a schema before pg_catalog takes the place of what is built in`,
        "leave pg_catalog out of search_path, or name it first"
      )
    ]
  }
  const open = yield* rows(
    Open,
    sql`
      SELECT nspname::text AS schema, CASE acl.grantee WHEN 0::oid THEN 'everybody' ELSE acl.grantee::regrole::text END AS role,
        place < coalesce((
          SELECT min(schemas.place) FROM pg_class
          JOIN pg_namespace ON pg_namespace.oid = relnamespace
          JOIN pg_catalog.unnest(current_schemas(false)) WITH ORDINALITY AS schemas (name, place) ON name = nspname
          WHERE pg_class.oid = to_regclass(${events})::oid
        ), 0) AS "isBeforeTables"
      FROM pg_catalog.unnest(current_schemas(false)) WITH ORDINALITY AS schemas (name, place)
      JOIN pg_namespace ON nspname = name
      CROSS JOIN LATERAL aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS acl
      WHERE acl.privilege_type = 'CREATE' AND acl.grantee <> nspowner
        AND NOT EXISTS (SELECT FROM pg_roles WHERE pg_roles.oid = acl.grantee AND (rolsuper OR rolname = current_user))
        AND NOT EXISTS (SELECT FROM pg_class WHERE pg_class.oid = to_regclass(${events})::oid AND relowner = acl.grantee)
      ORDER BY place, 2`
  )
  if (open.length === 0) return ok("others cannot create in a schema of it")
  return open.map(({ isBeforeTables, role, schema: name }) => {
    const remedy = `run: REVOKE CREATE ON SCHEMA ${name} FROM ${role === "everybody" ? "PUBLIC" : role}`
    return schema === undefined && isBeforeTables
      ? problem(
          `${role} may create in the schema ${name}, in which the tables are looked for first`,
          `${remedy}, or name the schema of the tables (--schema, the option schema)`
        )
      : warning(`${role} may create in the schema ${name}, where the application's own SQL finds functions`, remedy)
  })
})

/** Does everything belong to those who may decide what runs there? That is the owner of the records, unless others are named. */
export const owners: Findings = Effect.gen(function* () {
  const found = yield* Effect.flatMap(PostgresDatabase, Owners.list)
  const main = found.find(({ isPlain, isRecords }) => isRecords && isPlain)?.owner
  const foreign = found.filter(({ isTrusted, owner }) => !isTrusted && owner !== main)
  return orOk(
    foreign.map(({ object, owner }) =>
      problem(
        `the ${object} belongs to the role ${owner}, who decides what runs there, as whoever uses it`,
        `drop it, give it to ${main ?? "the owner of the tables"}, or say that you trust its owner: strata doctor --owner ${owner}`
      )
    ),
    `all that is there belongs to ${[...new Set(found.map(({ owner }) => owner))].join(", ") || "nobody yet"}`
  )
})
