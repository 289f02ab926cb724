/** Values as the rows of a statement. */
import type { PgClient } from "@effect/sql-pg"
import { Statement } from "effect/sql"

type Value = string | number | bigint | null

/** A column: its type, and the value that each row has in it. */
export type Column = readonly [type: string, values: ReadonlyArray<Value>]

/** An array to be cast to its type. The driver cannot send an array that contains only nulls, except as a literal. */
const arrayOf = (values: ReadonlyArray<Value>): ReadonlyArray<string | null> | string =>
  values.every((value) => value === null)
    ? `{${values.map(() => "NULL").join()}}`
    : values.map((value) => (value === null ? null : String(value)))

const commas = Statement.join(", ", false)

/**
 * Something that a statement can select from, with these columns: arrays, or the values of the only row. A statement that takes
 * arrays is planned each time, as the server does not know how many elements they will have. For one row that takes longer than
 * to run it, so a single row has a statement with a plan that is kept.
 */
export const valueRows = (sql: PgClient.PgClient, columns: ReadonlyArray<Column>): Statement.Fragment => {
  const isOne = columns[0]?.[1].length === 1
  const all = commas(
    columns.map(([type, values]) =>
      isOne ? sql`${values[0] ?? null}::${sql.literal(type)}` : sql`${arrayOf(values)}::${sql.literal(type)}[]`
    )
  )
  return isOne ? sql`(VALUES (${all}))` : sql`unnest(${all})`
}
