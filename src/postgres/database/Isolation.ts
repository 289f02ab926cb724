/**
 * Sees to it that a statement outside of a transaction runs with READ COMMITTED, whatever the session's default is.
 *
 * With REPEATABLE READ or SERIALIZABLE a statement that waits for the lock of a table has a snapshot from before the wait.
 * After an `ALTER TABLE` that rewrites the table it finds no rows at all, and a reader would take that for the end of the log:
 * 9,000 of 10,001 events were lost. With READ COMMITTED it takes its snapshot after the wait.
 *
 * **Details**
 *
 * Roles, databases and start-up options set the default, and only the server knows it. So each statement carries a condition
 * that fails where the isolation is another one, before anything is read or written. Where it has failed once, each statement
 * gets a transaction of its own, of READ COMMITTED: three round trips instead of one. The session's settings stay as they
 * are, as the pool is the application's.
 */
import { Effect, Exit, Predicate } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"

const refusal = "effect-strata wants READ COMMITTED, not "

const isolation = "current_setting('transaction_isolation')"

/**
 * A condition for statements that would pass over rows with an old snapshot, and say so to nobody: an `UPDATE` or `DELETE`
 * finds fewer rows. Statements that only read, or call a function, get the condition by themselves. In a transaction of the
 * caller's it is always true. A comparison costs nothing that can be measured; with LIKE, reading a state took 15% longer.
 */
export const readCommitted = `CASE ${isolation} WHEN 'read committed' THEN true ELSE ('${refusal}' || ${isolation})::boolean END`

/**
 * Has the transactions that an effect begins be READ COMMITTED, whatever the session's default is: each statement sees what
 * others have committed while it waited for a lock.
 */
export const beginReadCommitted = Effect.provideService(
  SqlClient.BeginTransaction,
  "BEGIN ISOLATION LEVEL READ COMMITTED"
)

/** Statements that can stand in a subquery. */
const onlyReads = /^\s*(?:SELECT\b|WITH\b(?!.*\b(?:INSERT|UPDATE|DELETE)\b))/is

/** Statements with the condition, by their texts. The driver looks a text up by its hash, which a new string has to make anew. */
const conditioned = new Map<string, string>()

const withCondition = (text: string): string => {
  let known = conditioned.get(text)
  if (known === undefined) {
    known = onlyReads.test(text) ? `SELECT * FROM (${text}) AS statement WHERE ${readCommitted}` : text
    conditioned.set(text, known)
  }
  return known
}

/** The text for a transaction, which has the isolation that it was begun with. */
export const withoutCondition = (text: string): string => text.replaceAll(readCommitted, "true")

/** The SQLSTATE with which a hot standby refuses any statement of a session that is SERIALIZABLE by default. */
const notSupported = "0A000"

const isRefused = ({ reason: { cause } }: SqlError.SqlError): boolean =>
  (Predicate.hasProperty(cause, "message") && String(cause.message).includes(refusal)) ||
  (Predicate.hasProperty(cause, "code") &&
    cause.code === notSupported &&
    Predicate.hasProperty(cause, "detail") &&
    String(cause.detail).includes("default_transaction_isolation"))

/** What it takes of a connection to run a statement on it. */
export type Executing = Pick<Connection, "execute">

type Rows = Effect.Effect<ReadonlyArray<unknown>, SqlError.SqlError>

const inTransaction = (connection: Executing, text: string, parameters: ReadonlyArray<unknown>): Rows => {
  const say = (statement: string) => connection.execute(statement, [], undefined)
  return say("BEGIN ISOLATION LEVEL READ COMMITTED").pipe(
    Effect.andThen(connection.execute(withoutCondition(text), parameters, undefined)),
    Effect.onExit((exit) => (Exit.isSuccess(exit) ? say("COMMIT") : Effect.ignore(say("ROLLBACK"))))
  )
}

/** Runs a statement outside of a transaction, on a connection that nothing else uses meanwhile. */
export type Run = (connection: Executing, text: string, parameters: ReadonlyArray<unknown>) => Rows

export const make = (): Run => {
  let isOtherByDefault = false

  const warning = Effect.suspend(() => {
    if (isOtherByDefault) return Effect.void
    isOtherByDefault = true
    return Effect.logWarning(
      "sessions of this pool have another isolation level than READ COMMITTED by default: each statement of the stores takes " +
        "a transaction of its own, which is three round trips instead of one; set default_transaction_isolation of the role"
    )
  })

  return (connection, text, parameters) =>
    isOtherByDefault
      ? inTransaction(connection, text, parameters)
      : Effect.catch(connection.execute(withCondition(text), parameters, undefined), (error) => {
          if (isRefused(error)) return Effect.andThen(warning, inTransaction(connection, text, parameters))
          // READ COMMITTED waits for a concurrent change and goes on, where the others fail.
          return error.reason._tag === "SerializationError"
            ? inTransaction(connection, text, parameters)
            : Effect.fail(error)
        })
}
