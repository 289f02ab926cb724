/** `strata grants`: what a role needs for what it is to do, in statements for the owner of the tables. */
import { Effect, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { decodeRows } from "../../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../../postgres/database/PostgresDatabase.ts"
import { reasonOf } from "../../postgres/database/Reasons.ts"
import * as Privileges from "../../postgres/Grants.ts"
import { Settings } from "../arguments/GlobalFlags.ts"
import * as Database from "../connection/Database.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import * as Output from "../terminal/Output.ts"
import { printable } from "../terminal/Printable.ts"

/** Whole statements, also on a narrow terminal: they are to be copied. */
const show = Effect.fnUntraced(function* (grant: Privileges.Grant) {
  return yield* (yield* Settings.json) ? Output.json(grant) : Output.line(`${printable(grant.statement)};`)
})

const Role = Schema.Struct({ name: Schema.String })

const checkRole = Effect.fnUntraced(function* (role: string) {
  const { query, sql } = yield* PostgresDatabase
  const rows = yield* query(sql`SELECT rolname::text AS name FROM pg_roles WHERE rolname = ${role}`)
  const [found] = yield* decodeRows(Role, "pg_roles", [])(rows)
  if (found === undefined) return yield* new CommandFailed({ message: `there is no role "${role}"; create it first` })
})

/** Runs the statements, all or none. */
const apply = Effect.fnUntraced(function* (grants: ReadonlyArray<Privileges.Grant>) {
  const { sql, withTransaction } = yield* PostgresDatabase
  const run = Effect.forEach(grants, ({ statement }) => sql.unsafe(statement).unprepared, { discard: true })
  yield* Effect.catchTag(withTransaction(run), "SqlError", (error) => Effect.fail(reasonOf(error)))
})

const flags = {
  role: Argument.String("role").pipe(Argument.withDescription("The role that is to get the rights")),
  to: Flag.Literals("to", ["use", "read", "import"]).pipe(
    Flag.withDefault<"use">("use"),
    Flag.withDescription(
      "What the role is to do: use all stores, as an application does; read them; or import events with their times"
    )
  ),
  apply: Flag.Boolean("apply").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("Run the statements, too, in one transaction")
  )
}

export const grants = Command.make("grants", flags).pipe(
  Command.withDescription("Prints what a role needs for what it is to do, as statements for the owner of the tables"),
  Command.withExamples([
    { command: "strata grants app --schema strata", description: "What the role of an application needs" },
    { command: "strata grants mover --to import --apply", description: "Let a role import events" }
  ]),
  Command.withHandler(({ apply: isApplied, role, to }) =>
    Effect.gen(function* () {
      const database = yield* PostgresDatabase
      yield* checkRole(role)
      const needed = yield* Privileges.list(database, role, to)
      if (needed.length === 0) return yield* new CommandFailed({ message: "there is no table; run: strata migrate" })
      yield* Effect.forEach(needed, show, { discard: true })
      if (isApplied) yield* apply(needed)
    })
  ),
  Command.provide(() => Database.layerTables())
)
