/** What the role of the console's connection may not change, as the grants that are missing: pages show it before somebody tries. */
import { Effect, Schema } from "effect"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { quote } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import * as Grants from "../postgres/Grants.ts"

const Me = Schema.Struct({ role: Schema.String, database: Schema.String, mayCreate: Schema.Boolean })

/** The privileges on rows that actions use. */
const rowPrivileges = ["SELECT", "INSERT", "UPDATE", "DELETE"]
const messagePrivileges = ["SELECT", "UPDATE", "DELETE"]

/** The name in `schema.name`, `SEQUENCE schema.name` or `FUNCTION schema.name(..)`. */
const nameOf = (target: string): string => (target.split("(")[0] ?? "").split(".").at(-1)?.replaceAll('"', "") ?? ""

/** The grants that each kind of change lacks. */
export const missing = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { names, query, sql } = database
  const [me] = yield* Effect.flatMap(
    query(sql`
      SELECT current_user::text AS role, current_database()::text AS database,
        pg_catalog.has_database_privilege(current_user, current_database()::text, 'CREATE'::text) AS "mayCreate"`),
    decodeRows(Me, "pg_catalog", [])
  )
  const { database: name, mayCreate, role } = me ?? { database: "", mayCreate: true, role: "" }
  const lacking = yield* Grants.lacking(database, role)
  const grants = (isNeeded: (name: string, privilege: string) => boolean) =>
    lacking
      .filter(({ privilege, target }) => target.startsWith("SCHEMA ") || isNeeded(nameOf(target), privilege))
      .map(({ privilege, target }) => `GRANT ${privilege} ON ${target} TO ${quote(role)}`)
  const on = (tables: ReadonlyArray<string>, privileges: ReadonlyArray<string>) =>
    grants((name, privilege) => tables.includes(name) && privileges.includes(privilege))
  return {
    messages: on([names.messages], messagePrivileges),
    spool: on([names.spool], messagePrivileges),
    projections: on([names.offsets, names.states], rowPrivileges),
    events: grants((name) => name.startsWith(names.events)),
    proof: mayCreate ? [] : [`GRANT CREATE ON DATABASE ${quote(name)} TO ${quote(role)}`]
  }
})
