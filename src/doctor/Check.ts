/**
 * What a check of `strata doctor` is, and what the checks are made of.
 *
 * **Details**
 *
 * To add a check, write one effect that ends in findings, and name it in one line of `Checks.ts`.
 */
import { Effect, Schema } from "effect"
import type { Statement } from "effect/sql/Statement"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { qualify } from "../postgres/database/Identifier.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import type { Stores } from "../postgres/index.ts"
import type { Reason } from "../StoreError.ts"

/**
 * One thing that a check has found: it is well, or it is not, and then there is a remedy.
 *
 * **Details**
 *
 * A `problem` loses events, makes operations fail, or holds up readers for good. A `warning` may be intended, or costs
 * speed.
 */
export interface Finding {
  readonly level: "ok" | "warning" | "problem"
  readonly says: string
  /** What to do about it. */
  readonly remedy?: string
}

/** What checks look at: the tables, and what the stores say of them. */
export type Subjects = PostgresDatabase | Stores

/** What a check looks for. If the effect fails, the error is a finding, too. */
export type Findings = Effect.Effect<ReadonlyArray<Finding>, Error, Subjects>

export interface Check {
  /** The name that `strata doctor` shows beside each finding. */
  readonly name: string
  readonly findings: Findings
}

export const ok = (says: string): ReadonlyArray<Finding> => [{ level: "ok", says }]
export const problem = (says: string, remedy: string): Finding => ({ level: "problem", says, remedy })
export const warning = (says: string, remedy: string): Finding => ({ level: "warning", says, remedy })

/** The findings, or that all is well if there are none. */
export const orOk = (findings: ReadonlyArray<Finding>, says: string): ReadonlyArray<Finding> =>
  findings.length === 0 ? ok(says) : findings

/** Runs the statement that asks the question of a check, and decodes its rows. */
export const rows = <Row extends Schema.ConstraintDecoder<unknown>>(
  Row: Row,
  statement: Statement<unknown>
): Effect.Effect<ReadonlyArray<Row["Type"]>, Reason, PostgresDatabase> =>
  PostgresDatabase.use(({ query }) => Effect.flatMap(query(statement), decodeRows(Row, "pg_catalog", [])))

const Text = Schema.Struct({ text: Schema.String })

/** The same for a statement that selects one column `text`. */
export const texts = (statement: Statement<unknown>) =>
  Effect.map(rows(Text, statement), (all) => all.map(({ text }) => text))

/** The tables as texts that Postgres casts to `regclass`. */
export const relations = PostgresDatabase.useSync(({ names, schema }) => ({
  events: qualify(schema, names.events),
  offsets: qualify(schema, names.offsets),
  states: qualify(schema, names.states),
  messages: qualify(schema, names.messages),
  spool: qualify(schema, names.spool)
}))
