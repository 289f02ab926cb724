/** The transactions of a memory database, and the statements that run in them. */
import { Cause, Clock, Context, Duration, Effect, Option } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { isReason, type Reason, Unexpected } from "../StoreError.ts"
import * as Transactor from "../Transactor.ts"
import { Locks } from "./Locks.ts"
import { Transaction } from "./Transaction.ts"

class CurrentTransaction extends Context.Service<CurrentTransaction, readonly [Transaction, depth: number]>()(
  "effect-strata/memory/CurrentTransaction"
) {}

/** What stores and tests do with the transactions. */
export interface Transactions {
  /**
   * Runs one statement: in the caller's transaction if there is one, else in its own. It fails as a statement on Postgres
   * does, with the transaction ended if the failure is a `Reason`.
   */
  readonly statement: <A, E = never>(
    body: (transaction: Transaction) => Effect.Effect<A, E | Reason>
  ) => Effect.Effect<A, E | Reason>

  readonly transactor: Transactor.Transactor["Service"]

  /** Whether the caller is in a transaction. */
  readonly inTransaction: Effect.Effect<boolean>

  /** Makes the next statements of the stores fail with this reason, so that programs can test what they do then. */
  readonly failNext: (reason: Reason, options?: { readonly times?: number }) => Effect.Effect<void>

  /** Makes each commit of a transaction that has written something take this long from now on, by `Clock`. */
  readonly delayCommits: (delay: Duration.Input) => Effect.Effect<void>

  /** How many transactions are open right now. */
  readonly open: Effect.Effect<number>

  /** How many transactions wait for a row of another one right now. */
  readonly waiting: Effect.Effect<number>
}

// Errors

const ended = new Unexpected({
  message: "this transaction has ended, at the latest with an earlier error; start again with a new one"
})

const sqlError = (cause: Reason) => new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause }) })

const reasonOf = ({ reason }: SqlError.SqlError): Reason =>
  isReason(reason.cause) ? reason.cause : new Unexpected({ message: reason.message, cause: reason.cause })

/** A domain error is a result of a statement; anything else ends the transaction. */
const isDomainError = (cause: Cause.Cause<unknown>) =>
  Option.exists(Cause.findErrorOption(cause), (error) => !isReason(error))

// Transaction control

/** As on Postgres, a transaction obeys only a rollback after an error. */
const unlessAborted = (transaction: Transaction, effect: Effect.Effect<void>) =>
  Effect.suspend(() => (transaction.aborted ? Effect.fail(sqlError(ended)) : effect))

interface Control {
  readonly begin: Effect.Effect<Transaction>
  readonly commit: (transaction: Transaction) => Effect.Effect<void>
  readonly rollback: (transaction: Transaction) => Effect.Effect<void>
}

const withTransactionOf = ({ begin, commit, rollback }: Control) =>
  SqlClient.makeWithTransaction({
    transactionService: CurrentTransaction,
    spanAttributes: [["db.system.name", "memory"]],
    acquireConnection: () => begin,
    begin: () => Effect.void,
    savepoint: (transaction) =>
      unlessAborted(
        transaction,
        Effect.sync(() => transaction.save())
      ),
    releaseSavepoint: (transaction) =>
      unlessAborted(
        transaction,
        Effect.sync(() => transaction.releaseSavepoint())
      ),
    rollbackSavepoint: (transaction) => Effect.sync(() => transaction.rollbackSavepoint()),
    commit: (transaction) =>
      Effect.tapError(unlessAborted(transaction, commit(transaction)), () => rollback(transaction)),
    rollback
  })

/** The context without the transaction, for an effect that runs after its end. */
const outside = <R>(context: Context.Context<R>): Context.Context<R> =>
  Context.makeUnsafe<R>(Context.omit(CurrentTransaction)(context).mapUnsafe)

const inTransaction = Effect.map(Effect.serviceOption(CurrentTransaction), Option.isSome)

const afterCommit = <R>(effect: Effect.Effect<void, never, R>) =>
  Effect.contextWith((context: Context.Context<R>) =>
    Option.match(Context.getOption(context, CurrentTransaction), {
      onNone: () => effect,
      onSome: ([transaction]) =>
        Effect.sync(() => transaction.onCommit(Effect.provideContext(effect, outside(context))))
    })
  )

// The transactions

/** `onEnd` is called for each transaction once it has committed or rolled back. */
export const make = (onEnd: (transaction: Transaction) => void): Transactions => {
  const locks = new Locks<Transaction>()
  const faults: Array<Reason> = []
  let commitDelay = Duration.zero
  let open = 0

  const beginAt = (now: number) => {
    open++
    return new Transaction(locks, now, (transaction) => {
      open--
      onEnd(transaction)
    })
  }

  const begin = Effect.map(Clock.currentTimeMillis, beginAt)

  /** Commits, and gives what is left to do after the commit. */
  const commitNow = (transaction: Transaction): Effect.Effect<void> | undefined => {
    const callbacks = transaction.commit()
    return callbacks.length === 0
      ? undefined
      : Effect.forEach(
          callbacks,
          Effect.ignoreCause({ log: "Unhandled", message: "Unhandled error in a callback of afterCommit" }),
          { discard: true }
        )
  }

  const commit = (transaction: Transaction): Effect.Effect<void> | undefined =>
    transaction.hasWritten && !Duration.isZero(commitDelay)
      ? Effect.andThen(
          Effect.sleep(commitDelay),
          Effect.suspend(() => commitNow(transaction) ?? Effect.void)
        )
      : commitNow(transaction)

  const rollback = (transaction: Transaction) => Effect.sync(() => transaction.rollback())

  /** Runs the body, unless a test has asked for a failure. */
  const unlessFault = <A, E>(
    transaction: Transaction,
    body: (transaction: Transaction) => Effect.Effect<A, E | Reason>
  ): Effect.Effect<A, E | Reason> => {
    const fault = faults.shift()
    return fault === undefined ? body(transaction) : Effect.fail(fault)
  }

  /** A statement by itself. It goes without effects that add nothing: they would cost more than the statement. */
  const alone = <A, E>(now: number, body: (transaction: Transaction) => Effect.Effect<A, E | Reason>) => {
    const transaction = beginAt(now)
    return Effect.onExitPrimitive(
      Effect.suspend(() => unlessFault(transaction, body)),
      (exit) => {
        if (exit._tag === "Success") return commit(transaction)
        transaction.rollback()
        return undefined
      }
    )
  }

  const inside = <A, E>(
    transaction: Transaction,
    body: (transaction: Transaction) => Effect.Effect<A, E | Reason>
  ): Effect.Effect<A, E | Reason> =>
    transaction.turn.withPermit(
      Effect.suspend(() =>
        transaction.aborted
          ? Effect.fail(ended)
          : Effect.onError(unlessFault(transaction, body), (cause) =>
              Effect.sync(() => (isDomainError(cause) ? undefined : transaction.abort()))
            )
      )
    )

  const statement: Transactions["statement"] = (body) =>
    Effect.withFiber((fiber) => {
      const current = Context.getOrUndefined(fiber.context, CurrentTransaction)
      return current === undefined
        ? alone(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(), body)
        : inside(current[0], body)
    })

  return {
    statement,
    inTransaction,
    transactor: Transactor.fromSqlClient(
      {
        withTransaction: withTransactionOf({
          begin,
          commit: (transaction) => Effect.suspend(() => commit(transaction) ?? Effect.void),
          rollback
        }),
        afterCommit,
        inTransaction
      },
      reasonOf
    ),
    failNext: (reason, { times = 1 } = {}) =>
      Effect.sync(() => {
        faults.push(...Array.from({ length: times }, () => reason))
      }),
    delayCommits: (delay) =>
      Effect.sync(() => {
        commitDelay = Duration.fromInputUnsafe(delay)
      }),
    open: Effect.sync(() => open),
    waiting: Effect.sync(() => locks.waiting)
  }
}
