/**
 * The numbers that stand for the states of messages in the table. They are RetrySpool's, and the functions and indexes of
 * `resources/postgres` contain them, too.
 */
import { Record, Schema } from "effect"
import { Statement } from "effect/sql"
import { State } from "../../SpoolMessage.ts"

const codes: { readonly [S in State]: number } = {
  incoming: 0,
  active: 1,
  deferred: 2,
  hold: 3,
  bounce: 4,
  archived: 5
}

/** The number of a state, for a parameter of a statement. */
export const codeOf = (state: State): number => codes[state]

/**
 * The number of each state as text of a statement. The indexes of what is ready are partial ones, on `state = 0` and
 * `state = 2`: the planner uses them only for statements that say so themselves, not by a parameter.
 */
export const code: { readonly [S in State]: Statement.Fragment } = Record.map(codes, (number) =>
  Statement.fragment([Statement.literal(`${number}`)])
)

const byCode: ReadonlyArray<State> = State.literals.toSorted((a, b) => codes[a] - codes[b])

/** The state of a number, if it is one of a state. */
export const stateOfCode = (value: unknown): State | undefined =>
  typeof value === "number" ? byCode[value] : undefined

/** A state as its number in a row. */
export const StateCode = Schema.Union(byCode.map((state) => Schema.Literal(codes[state]).transform(state)))
