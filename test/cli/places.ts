/** Where the tests run the command: on tables of their own of a server, and on a Postgres inside the process. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer } from "effect"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { clientOf, keepBalancesOnce } from "./balances.ts"
import { jsonLines, launch, node, type Options, strata, succeeds, temporaryDirectory } from "./harness.ts"

const program = fileURLToPath(new URL("balances.process.ts", import.meta.url))

export interface Place {
  /** A DSN, or a directory. */
  readonly database: string
  readonly schema: string
  readonly flags: ReadonlyArray<string>
  readonly options: Options
}

export const onServer = Effect.map(freshSchema(), (schema): Place => ({
  database: postgresUrl,
  schema,
  flags: ["--schema", schema],
  options: { url: postgresUrl }
}))
export const embedded = Effect.map(temporaryDirectory, (directory): Place => {
  const database = join(directory, "data")
  return { database, schema: "app", flags: ["--schema", "app", "--pglite", database], options: {} }
})

/** The tables, a table of accounts, and what the tests do with them. */
export const prepared = Effect.fnUntraced(function* ({ database, flags, options, schema }: Place) {
  const run = (...args: ReadonlyArray<string>) => succeeds([...args, ...flags], options)
  yield* run("migrate")
  const rows = (statement: string) =>
    Effect.scoped(
      Effect.flatMap(
        Layer.build(Layer.fresh(clientOf(database))),
        (context) => Context.get(context, PgClient.PgClient).unsafe(statement).values
      )
    )
  yield* rows(
    `CREATE TABLE ${schema}.accounts (id TEXT PRIMARY KEY, balance INT NOT NULL DEFAULT 0, payments INT[] NOT NULL DEFAULT '{}')`
  )
  const open = (id: string) => rows(`INSERT INTO ${schema}.accounts VALUES ('${id}')`)
  yield* open("anna")
  const pay = (aggregate: string, ...amounts: ReadonlyArray<number>) =>
    succeeds(["events", "append", ...flags], {
      ...options,
      input: amounts.map((data) => `${JSON.stringify({ aggregateId: aggregate, eventType: "Paid", data })}\n`).join("")
    })
  return {
    run,
    schema,
    rows,
    open,
    pay,
    flags,
    options,
    /** A process that runs the projection until the scope closes. */
    process: launch(node(program, [database, schema]), options),
    /** Runs the projection until it has caught up. */
    once: keepBalancesOnce(database, schema),
    /** What the accounts have been paid, in order. */
    model: Effect.map(rows(`SELECT id, balance, payments FROM ${schema}.accounts ORDER BY id`), (all) =>
      Object.fromEntries(all.map(([id, balance, payments]) => [id, [balance, payments]]))
    ),
    /** Waits until every shard has handled everything, and returns what is said of each shard. */
    caughtUp: Effect.gen(function* () {
      while (true) {
        const listed = yield* strata(["projections", "status", "balances", "--json", ...flags], options)
        const shards = jsonLines(listed.stdout)
        if (shards.length > 0 && shards.every(({ lag }) => lag === "0")) return shards
      }
    })
  }
})
