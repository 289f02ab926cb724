/**
 * A database in memory that behaves like Postgres at READ COMMITTED, so that what passes on it means something there:
 * transactions interleave and see each other's rows only after the commit, a row that one has written makes the others
 * wait, a circle of waits is `Contention`, savepoints undo their part, an error ends the transaction, and numbers drawn
 * from a sequence are gone even if the transaction rolls back.
 *
 * **Details**
 *
 * Transactions are driven by `SqlClient.makeWithTransaction`, which drives them on Postgres too, so nesting, interruption
 * and rollback are the same by construction.
 */
import { Cause, Clock, Context, Duration, Effect, Layer, Option, SubscriptionRef } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import type { DurableState } from "../DurableStateStore.ts"
import type { ListenerStatus } from "../EventStore.ts"
import type { Offset } from "../OffsetStore.ts"
import { isReason, type Reason, Unexpected } from "../StoreError.ts"
import * as Transactor from "../Transactor.ts"
import { EventLog } from "./EventLog.ts"
import type { EventRow } from "./EventRow.ts"
import { Listener } from "./Listener.ts"
import { Locks } from "./Locks.ts"
import type { MessageRow } from "./spool/MessageRow.ts"
import { Table } from "./Table.ts"
import { Transaction } from "./Transaction.ts"

/** The memory backend's database: see the module's documentation. */
export class MemoryDatabase extends Context.Service<
  MemoryDatabase,
  {
    /** The stores' tables. */
    readonly tables: {
      readonly offsets: Table<Offset>
      readonly events: Table<EventRow>
      /** The version of each event by its id. */
      readonly eventIds: Table<bigint>
      readonly spool: Table<MessageRow>
      readonly states: Table<DurableState>
    }

    /**
     * Runs one statement: in the caller's transaction if there is one, else in its own. It fails as a statement on
     * Postgres does, with the transaction ended if the failure is a `Reason`.
     */
    readonly statement: <A, E = never>(
      body: (transaction: Transaction) => Effect.Effect<A, E | Reason>
    ) => Effect.Effect<A, E | Reason>

    /** The next number of a sequence, from 1. It is never given again, whatever becomes of the transaction. */
    readonly nextValue: (sequence: string) => Effect.Effect<bigint>

    /** The committed events in order, and which versions are not decided yet. */
    readonly log: EventLog

    /** How subscribers hear of new events. */
    readonly listener: Listener

    readonly transactor: Transactor.Transactor["Service"]

    /** Makes the next statements of the stores fail with this reason, so that programs can test what they do then. */
    readonly failNext: (reason: Reason, options?: { readonly times?: number }) => Effect.Effect<void>

    /** Makes every commit of something written take this long from now on, by `Clock`. */
    readonly delayCommits: (delay: Duration.Input) => Effect.Effect<void>

    /**
     * Cuts subscribers off from what is new, as a lost connection does, until it is restored: then they go on where they
     * were. Meanwhile they are `"reconnecting"`.
     */
    readonly cutListener: Effect.Effect<void>

    readonly restoreListener: Effect.Effect<void>

    /** Makes all subscriptions fail with this reason, as when their reconnect schedule ends. */
    readonly endListener: (reason: Reason) => Effect.Effect<void>

    /** How many transactions are open right now. */
    readonly open: Effect.Effect<number>

    /** How many transactions wait for a row of another one right now. */
    readonly waiting: Effect.Effect<number>
  }
>()("effect-strata/memory/MemoryDatabase") {}

class CurrentTransaction extends Context.Service<CurrentTransaction, readonly [Transaction, depth: number]>()(
  "effect-strata/memory/CurrentTransaction"
) {}

const spoiled = new Unexpected({
  message: "this transaction has ended, at the latest with an earlier error; start again with a new one"
})

const sqlError = (cause: Reason) => new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause }) })

const reasonOf = ({ reason }: SqlError.SqlError): Reason =>
  isReason(reason.cause) ? reason.cause : new Unexpected({ message: reason.message, cause: reason.cause })

/** Makes an empty database. Give it to several layers (`Memory.layerShared`) to keep its records across them. */
export const make: Effect.Effect<MemoryDatabase["Service"]> = Effect.gen(function* () {
  const listener = new Listener(yield* SubscriptionRef.make<ListenerStatus>("stopped"))
  const locks = new Locks<Transaction>()
  const sequences = new Map<string, bigint>()
  const events = new Table<EventRow>("events")
  const log = new EventLog()
  const faults: Array<Reason> = []
  let commitDelay = Duration.zero
  let open = 0

  const begin = Effect.map(Clock.currentTimeMillis, (now) => {
    open++
    return new Transaction(locks, now, (transaction) => {
      open--
      log.end(transaction, (version) => events.committedRow(String(version)))
      listener.wake()
    })
  })

  const commit = (transaction: Transaction) =>
    Effect.andThen(
      Effect.suspend(() =>
        transaction.hasWritten && !Duration.isZero(commitDelay) ? Effect.sleep(commitDelay) : Effect.void
      ),
      Effect.suspend(() =>
        Effect.forEach(
          transaction.commit(),
          Effect.ignoreCause({ log: "Unhandled", message: "Unhandled error in a callback of afterCommit" }),
          { discard: true }
        )
      )
    )
  const rollback = (transaction: Transaction) => Effect.sync(() => transaction.rollback())

  /** As on Postgres: after an error, only a rollback is obeyed. */
  const unlessAborted = (transaction: Transaction, effect: Effect.Effect<void>) =>
    Effect.suspend(() => (transaction.aborted ? Effect.fail(sqlError(spoiled)) : effect))

  const withTransaction = SqlClient.makeWithTransaction({
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

  const afterCommit = <R>(effect: Effect.Effect<void, never, R>) =>
    Effect.contextWith((context: Context.Context<R>) =>
      Option.match(Context.getOption(context, CurrentTransaction), {
        onNone: () => effect,
        onSome: ([transaction]) =>
          Effect.sync(() =>
            transaction.onCommit(
              Effect.provideContext(effect, Context.makeUnsafe<R>(Context.omit(CurrentTransaction)(context).mapUnsafe))
            )
          )
      })
    )

  const next = Effect.suspend(() => {
    const fault = faults.shift()
    return fault === undefined ? Effect.void : Effect.fail(fault)
  })

  const statement = <A, E = never>(body: (transaction: Transaction) => Effect.Effect<A, E | Reason>) =>
    Effect.flatMap(
      Effect.serviceOption(CurrentTransaction),
      Option.match({
        onNone: () =>
          Effect.flatMap(begin, (transaction) =>
            Effect.onExit(Effect.andThen(next, body(transaction)), (exit) =>
              exit._tag === "Success" ? commit(transaction) : rollback(transaction)
            )
          ),
        onSome: ([transaction]) =>
          transaction.turn.withPermit(
            Effect.suspend(() =>
              transaction.aborted
                ? Effect.fail(spoiled)
                : Effect.andThen(next, body(transaction)).pipe(
                    // Domain errors are results of a statement; anything else ends the transaction.
                    Effect.onError((cause) =>
                      Effect.sync(() => {
                        const domainError = Option.exists(Cause.findErrorOption(cause), (error) => !isReason(error))
                        if (!domainError) transaction.abort()
                      })
                    )
                  )
            )
          )
      })
    )

  return MemoryDatabase.of({
    tables: {
      offsets: new Table("offsets_store"),
      events,
      eventIds: new Table("events_id"),
      spool: new Table("retryspool_messages"),
      states: new Table("states_store")
    },
    log,
    listener,
    statement,
    nextValue: (sequence) =>
      Effect.sync(() => {
        const value = (sequences.get(sequence) ?? 0n) + 1n
        sequences.set(sequence, value)
        return value
      }),
    transactor: Transactor.fromSqlClient({ withTransaction, afterCommit }, reasonOf),
    failNext: (reason, { times = 1 } = {}) =>
      Effect.sync(() => {
        faults.push(...Array.from({ length: times }, () => reason))
      }),
    delayCommits: (delay) =>
      Effect.sync(() => {
        commitDelay = Duration.fromInputUnsafe(delay)
      }),
    cutListener: listener.cut,
    restoreListener: listener.restore,
    endListener: (reason) => listener.end(reason),
    open: Effect.sync(() => open),
    waiting: Effect.sync(() => locks.waiting)
  })
})

/** A fresh, empty database. */
export const layer: Layer.Layer<MemoryDatabase> = Layer.effect(MemoryDatabase, make)
