/** How a transaction of the application's client begins and ends, and whether the caller is in one. */
import type { PgClient } from "@effect/sql-pg"
import { Context, Effect, Exit } from "effect"
import type { SqlError } from "effect/sql"
import type { Connection } from "effect/sql/SqlConnection"
import * as Transactor from "../../Transactor.ts"
import type { Borrowing } from "./Borrowing.ts"
import { isReadOnlySession, reasonOf } from "./Reasons.ts"
import type { SilenceLimit } from "./SilenceLimit.ts"

/** What to run if the caller is in a transaction, and what otherwise. */
export interface Cases<A, E, R> {
  readonly inside: () => Effect.Effect<A, E, R>
  readonly outside: () => Effect.Effect<A, E, R>
}

/** The connection of a transaction, and how many savepoints are around the caller. */
type Open = readonly [connection: Connection, savepoints: number]

/** Instead of the number of savepoints, on a connection where the client is to begin a transaction. */
const notBegun = -1

/** What is called before each statement, and with the error of each that fails. */
interface Observer {
  readonly before: () => void
  readonly failed: (error: SqlError.SqlError) => void
}

/** The same connection, whose statements are observed, unless they give a stream. */
const observed = (connection: Connection, { before, failed }: Observer): Connection => {
  const observe = <A>(statement: () => Effect.Effect<A, SqlError.SqlError>): Effect.Effect<A, SqlError.SqlError> => {
    before()
    return Effect.tapError(statement(), (error) => Effect.sync(() => failed(error)))
  }
  const methods: Omit<Connection, "executeStream"> = {
    execute: (...statement) => observe(() => connection.execute(...statement)),
    executeRaw: (...statement) => observe(() => connection.executeRaw(...statement)),
    executeUnprepared: (...statement) => observe(() => connection.executeUnprepared(...statement)),
    executeValues: (...statement) => observe(() => connection.executeValues(...statement)),
    executeValuesUnprepared: (...statement) => observe(() => connection.executeValuesUnprepared(...statement))
  }
  return Object.assign(Object.create(connection), methods)
}

interface Parts extends Pick<Borrowing, "takeOut" | "putBack"> {
  readonly silence: SilenceLimit
}

export const make = (sql: PgClient.PgClient, { putBack, silence, takeOut }: Parts) => {
  const current = (context: Context.Context<never>) => Context.getOrUndefined(context, sql.transactionService)

  /**
   * Has the client begin its transaction on this connection. The client looks for it where it finds that of a transaction which
   * is open, in the context of the fiber. What runs after the commit must not find it there, so the context has it only until
   * BEGIN is sent.
   */
  const beginOn = <A, E, R>(
    connection: Connection,
    transaction: Effect.Effect<A, E, R>,
    failed: Observer["failed"]
  ): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber) => {
      const before = () => {
        if (current(fiber.context) === offered) fiber.setContext(Context.omit(sql.transactionService)(fiber.context))
      }
      const offered: Open = [observed(connection, { before, failed }), notBegun]
      return Effect.updateContext(transaction, (context: Context.Context<R>) =>
        Context.add(context, sql.transactionService, offered)
      )
    })

  const inTransaction = Effect.contextWith((context: Context.Context<never>) =>
    Effect.succeed(current(context) !== undefined)
  )

  const outermost = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError.SqlError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(takeOut(restore), (borrowed) => {
        // What the effect makes of the error of a statement is its own matter, and it may go on, and commit.
        let isRefused = false
        const failed = ({ reason }: SqlError.SqlError) => {
          if (isReadOnlySession(reason)) isRefused = true
        }
        const end = (exit: Exit.Exit<unknown, unknown>) => putBack(borrowed, exit, isRefused)
        // What runs after the commit may need the connection.
        const body = Effect.andThen(sql.afterCommit(Effect.suspend(() => end(Exit.void))), effect)
        const transaction = beginOn(borrowed.connection, restore(sql.withTransaction(body)), failed)
        return Effect.onExitPrimitive(transaction, end)
      })
    )

  /**
   * That of the client, on a connection that is watched before BEGIN is sent: a BEGIN cannot be interrupted, and would wait for
   * a connection that is silently dead until TCP gives up.
   */
  const withTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError.SqlError, R> =>
    Effect.flatMap(inTransaction, (inside) => (inside ? sql.withTransaction(effect) : outermost(effect)))

  const withoutTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.updateContext(effect, (context: Context.Context<R>) =>
      Context.makeUnsafe<R>(Context.omit(sql.transactionService)(context).mapUnsafe)
    )

  const watch = (): Transactor.Watch => {
    const { during, silence: reason } = silence.watch()
    return {
      during: (body, beginsWithStore) =>
        Effect.withFiber((fiber) => {
          const [connection, savepoints] = current(fiber.context) ?? []
          // A transaction inside another one ends with it. PGlite is in this process, and stops with it.
          return connection === undefined || savepoints !== 0 || sql.driver === "pglite"
            ? body
            : during(connection, body, beginsWithStore)
        }),
      silence: reason
    }
  }

  return {
    /** The connection of the caller's transaction, if there is one. */
    current,
    /** Runs a statement in a transaction. */
    execute: (
      [connection, savepoints]: Open,
      text: string,
      parameters: ReadonlyArray<unknown>
    ): Effect.Effect<ReadonlyArray<unknown>, SqlError.SqlError> =>
      savepoints === 0
        ? silence.execute(connection, text, parameters)
        : connection.execute(text, parameters, undefined),
    inTransaction,
    withTransaction,
    withoutTransaction,
    whether: <A, E, R>({ inside, outside }: Cases<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.withFiber((fiber) => (current(fiber.context) === undefined ? outside() : inside())),
    transactor: Transactor.fromSqlClient(
      { withTransaction, afterCommit: sql.afterCommit, inTransaction, watch },
      reasonOf
    )
  }
}

export type Transactions = ReturnType<typeof make>
