/** How a statement is put together, and how it runs. */
import type { PgClient } from "@effect/sql-pg"
import { Effect } from "effect"
import { type SqlError, Statement } from "effect/sql"
import type { Reason } from "../../StoreError.ts"
import type { Borrowing } from "./Borrowing.ts"
import * as Isolation from "./Isolation.ts"
import type { Transactions } from "./Transactions.ts"
import type { Watch } from "./Watch.ts"

/** The part of a statement that it takes to run it. */
export type Runnable = Pick<Statement.Statement<unknown>, "compile">

/** Runs one statement on some connection, and returns its rows. */
export type Query = (statement: Runnable) => Effect.Effect<ReadonlyArray<unknown>, Reason>

/** A template of a statement: its text, and which of its parts are parameters. */
interface Template {
  readonly text: string
  readonly parameters: ReadonlyArray<number>
}

/** Puts a template together once, and remembers it by the place in the program where it stands. */
export const fixedBy = (sql: PgClient.PgClient) => {
  const templates = new WeakMap<TemplateStringsArray, Template>()
  return (strings: TemplateStringsArray, ...parts: ReadonlyArray<unknown>): Runnable => {
    let template = templates.get(strings)
    if (template === undefined) {
      // The driver looks its prepared statements up by their text, and goes through the text each time.
      const short = strings.map((string) => string.replaceAll(/\s+/g, " "))
      const [text] = sql(Object.assign(short, { raw: strings.raw }), ...parts).compile()
      template = { text, parameters: [...parts.keys()].filter((place) => !Statement.isFragment(parts[place])) }
      templates.set(strings, template)
    }
    const { parameters, text } = template
    return { compile: () => [text, parameters.map((place) => parts[place])] }
  }
}

/**
 * Runs a statement in the caller's transaction if there is one, else on a connection that it borrows, and with READ
 * COMMITTED.
 */
export const queryOn =
  (
    { current, execute }: Transactions,
    borrow: Borrowing["borrow"],
    isolated: Isolation.Run,
    notice: Watch["notice"],
    reasonOf: (error: SqlError.SqlError) => Reason
  ): Query =>
  (statement) =>
    Effect.withFiber((fiber) => {
      const [text, parameters] = statement.compile()
      const transaction = current(fiber.context)
      if (transaction === undefined) {
        return Effect.mapError(
          borrow((connection) => isolated(connection, text, parameters)),
          reasonOf
        )
      }
      // The application may have begun the transaction.
      notice(transaction[0])
      return Effect.mapError(execute(transaction, Isolation.withoutCondition(text), parameters), reasonOf)
    })
