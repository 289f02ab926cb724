/**
 * Messages that wait to be delivered, retried, held or bounced.
 *
 * A message is stored in the transaction of its sender, and nobody sees the message before that transaction commits. A worker
 * claims the message under a lease, which ends by the store's own clock, delivers it, and settles it. A worker that has lost
 * the lease cannot change the message any more.
 *
 * A message has an id in its queue: the same id in two queues is two messages. A message in no queue is one of RetrySpool's,
 * whose Postgres store shares the table `retryspool_messages` with these messages. Go never sees the messages of queues.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { SpoolStore } from "effect-strata"
 *
 * export const deliver = Effect.gen(function* () {
 *   const spool = yield* SpoolStore.SpoolStore
 *   yield* spool.storeMeta({ queue: "mails", id: "order-1", payload: { to: "anna@example.org" } })
 *
 *   const owner = "worker-1/claim-1"
 *   const messages = yield* spool.claim({ queue: "mails", limit: 10, lease: "30 seconds", owner })
 *   // .. deliver them ..
 *   const lost = yield* spool.settle(
 *     messages.map((message) => ({ outcome: "done", ...SpoolStore.leaseOf(message, owner) }))
 *   )
 *   return lost.map(({ message }) => message)
 * })
 *
 * export const hold = (mail: SpoolStore.MessageKey) =>
 *   SpoolStore.SpoolStore.use((spool) => spool.moveToState(mail, ["incoming", "deferred"], "hold"))
 * ```
 */
import { Context, type Duration, Effect, type Option, type Scope, type Stream } from "effect"
import type { LargeIntegers } from "./internal/ExactJson.ts"
import * as Operation from "./internal/Operation.ts"
import type { InvalidInput } from "./InvalidInput.ts"
import {
  Claim,
  ExactMessages,
  ExactMove,
  ExactUpdate,
  Heartbeat,
  Forget,
  Iterate,
  List,
  Messages,
  Move,
  Purge,
  Recover,
  Remove,
  Selection,
  Settle,
  Update
} from "./SpoolArguments.ts"
import {
  type IdConflict,
  type LeaseLost,
  type MessageExists,
  type MessageNotFound,
  type StateConflict,
  type Unsettled,
  type UpdateConflict
} from "./SpoolErrors.ts"
import {
  type Changes,
  type Counts,
  Key,
  keyOf,
  type MessageKey,
  NewExactMessage,
  NewMessage,
  type Page,
  type QueueOverview,
  type SpoolMessage,
  type State
} from "./SpoolMessage.ts"
import type { Reason, StoreError } from "./StoreError.ts"

export {
  IdConflict,
  LeaseLost,
  MessageExists,
  MessageLocked,
  MessageNotFound,
  StateConflict,
  type Unsettled,
  UpdateConflict
} from "./SpoolErrors.ts"
export {
  type Counts,
  Headers,
  Lease,
  MessageId,
  type MessageKey,
  NewMessage,
  Outcome,
  type Page,
  Priority,
  QueueName,
  type QueueOverview,
  SpoolMessage,
  State,
  leaseOf,
  maxHeadersBytes,
  maxPayloadBytes,
  maxTextLength
} from "./SpoolMessage.ts"

// Service

/** What a message to store is made of. */
type NewMessageInput = (typeof NewMessage)["~type.make.in"]

/** The options of an operation: its arguments without the positional ones. */
type Options<Input, Positional extends keyof Input> = Omit<Input, Positional>

/** The spool of messages: see the module's documentation. */
export class SpoolStore extends Context.Service<
  SpoolStore,
  {
    /**
     * Stores a message. Of any number of concurrent callers with the same id in a queue, exactly one succeeds; the others get
     * `MessageExists`, or `IdConflict` if their payload is another one.
     */
    readonly storeMeta: (
      message: NewMessageInput
    ) => Effect.Effect<void, MessageExists | IdConflict | InvalidInput | StoreError>

    /**
     * Stores the messages whose ids are not taken yet, in one statement, and returns an error for each of the others: to
     * store a message again does nothing. Messages of the same time and priority are claimed in the order of the argument.
     * Either all of them are in queues, or none is.
     */
    readonly storeMany: (
      messages: ReadonlyArray<NewMessageInput>
    ) => Effect.Effect<ReadonlyArray<MessageExists | IdConflict>, InvalidInput | StoreError>

    /** The message with this key, with its payload. */
    readonly getMeta: (message: MessageKey) => Effect.Effect<SpoolMessage, MessageNotFound | InvalidInput | StoreError>

    /**
     * Changes parts of a message, whatever its state, and returns the message as it is now. With `ifUpdated` it does so only
     * if the message has not changed since it was read: of any number of concurrent callers with the same `ifUpdated`,
     * exactly one succeeds.
     *
     * **Gotchas**
     *
     * Senders do not know of a changed payload: one that stores the message again, as it was, gets `IdConflict`.
     *
     * A change of the attempts of an active message takes its lease away. RetrySpool sets `updated` by its own clock:
     * `ifUpdated` notices such a change only if it sets another millisecond.
     */
    readonly updateMeta: (
      message: MessageKey,
      changes: (typeof Changes)["~type.make.in"],
      options?: { readonly ifUpdated?: SpoolMessage["updated"] }
    ) => Effect.Effect<SpoolMessage, MessageNotFound | UpdateConflict | InvalidInput | StoreError>

    /**
     * Deletes the message, whatever its state. Its id is free again, unless `rememberId` keeps the id taken as a delivery would.
     */
    readonly deleteMeta: (
      message: MessageKey,
      options?: Options<(typeof Remove)["~type.make.in"], "id" | "queue">
    ) => Effect.Effect<void, MessageNotFound | InvalidInput | StoreError>

    /**
     * Moves the message from one state, or one of several, to another, with changes to it if there are any. Of any
     * number of concurrent callers that move it away from a state, exactly one succeeds.
     *
     * **Details**
     *
     * The worker that has claimed the message loses its lease. A message that is moved to `active` has no lease, as if
     * RetrySpool had claimed it: `recover` gives it up after its `grace`.
     */
    readonly moveToState: (
      message: MessageKey,
      from: State | ReadonlyArray<State>,
      to: State,
      changes?: (typeof Changes)["~type.make.in"]
    ) => Effect.Effect<void, MessageNotFound | StateConflict | InvalidInput | StoreError>

    /**
     * A page of the messages in a state, without their payloads, in a stable order: messages that are equal in `sortBy` are
     * in the order of their ids (by code point).
     *
     * **Gotchas**
     *
     * A message that changes its place between two pages is on both, or on neither: with `iterate` neither happens. To count
     * for `total` reads the index entries of all messages that match.
     */
    readonly listMessages: (
      state: State,
      options?: Options<(typeof List)["~type.make.in"], "state">
    ) => Effect.Effect<Page, InvalidInput | StoreError>

    /**
     * Every message in a state, without its payload, from the oldest on, in batches. A message that is in the state
     * throughout appears exactly once, whatever happens to the others.
     */
    readonly iterate: (
      state: State,
      options?: Options<(typeof Iterate)["~type.make.in"], "state">
    ) => Stream.Stream<SpoolMessage, InvalidInput | StoreError>

    /** How many messages are in each state, in one queue or in all queues. Each message's index entry is read. */
    readonly countByState: (queue?: string) => Effect.Effect<Counts, InvalidInput | StoreError>

    /**
     * Claims messages of a queue, or messages that are in no queue, and returns them in order of priority, then age. They
     * are active, and no other claim gets them until the lease ends by the store's clock. Each claim counts as an attempt.
     *
     * **Details**
     *
     * A claim skips messages that another transaction is changing, and does not wait for it. Deferred messages that are due
     * go before incoming ones, except for the share that is `reserved` for incoming ones: a storm of retries does not hold up
     * new messages. A claim in a transaction that rolls back is undone.
     *
     * **Gotchas**
     *
     * A message is claimed however many attempts it has had: settle it as `bounced` if they are too many. A message that
     * another program has written, and that does not fit the model, becomes a `bounce` with the reason, and is not returned.
     */
    readonly claim: (
      options: (typeof Claim)["~type.make.in"]
    ) => Effect.Effect<ReadonlyArray<SpoolMessage>, InvalidInput | StoreError>

    /**
     * Settles claimed messages, and returns an error for each message whose lease is lost: that message stays as it is, the
     * others are settled. `leaseOf` makes the lease of a message.
     *
     * **Details**
     *
     * A lease that has run out is lost only once the message is recovered. What no other transaction has locked is settled at
     * once, in one statement. Then the call waits for the transactions that have locked the rest, without a limit unless the
     * session has a `lock_timeout`: a worker of your own should use `trySettle`, which does not wait. In a transaction of the
     * caller's it is one statement, which waits.
     */
    readonly settle: (
      outcomes: (typeof Settle)["~type.make.in"]["outcomes"]
    ) => Effect.Effect<ReadonlyArray<LeaseLost>, InvalidInput | StoreError>

    /**
     * The same without waiting: settles the messages that no other transaction has locked, in one statement, and returns an
     * error for each of the others. On Postgres a warning says which transaction has had them locked for more than a second.
     */
    readonly trySettle: (
      outcomes: (typeof Settle)["~type.make.in"]["outcomes"]
    ) => Effect.Effect<Unsettled, InvalidInput | StoreError>

    /**
     * Renews leases in one statement, so that they last this long from now on, and returns an error for each lease that is
     * lost. It never waits: a message that another transaction is changing keeps the lease it has. On Postgres a warning says
     * which transaction has had it locked for more than a second.
     */
    readonly heartbeat: (
      leases: (typeof Heartbeat)["~type.make.in"]["leases"],
      lease: Duration.Input
    ) => Effect.Effect<ReadonlyArray<LeaseLost>, InvalidInput | StoreError>

    /**
     * Gives up the claims whose lease has run out, of all workers, and returns the messages as they are then: incoming, or in
     * `bounce` if they have had all their attempts. So a message that kills each worker that delivers it ends in `bounce`. It
     * never waits for a message that another transaction has locked.
     */
    readonly recover: (
      options?: (typeof Recover)["~type.make.in"]
    ) => Effect.Effect<ReadonlyArray<SpoolMessage>, InvalidInput | StoreError>

    /**
     * Deletes messages in a state that have not changed for a time, and returns how many. If it has deleted fewer than
     * `limit`, none is left, but for those that another transaction is changing. An id whose `rememberId` is not over since the
     * message changed last stays taken until then.
     */
    readonly purge: (options: (typeof Purge)["~type.make.in"]) => Effect.Effect<number, InvalidInput | StoreError>

    /**
     * Forgets ids of messages that were delivered, once the time is over for which they were to be remembered, and returns how
     * many. If these are fewer than `limit`, none is left. An id is free again on time whether it is forgotten or not.
     */
    readonly forgetIds: (options?: (typeof Forget)["~type.make.in"]) => Effect.Effect<number, InvalidInput | StoreError>

    /**
     * How long until there is something to claim or to recover in a queue, or among the messages in no queue, if nothing is
     * stored or changed until then: zero if there is something now, `None` if there will be nothing.
     */
    readonly untilReady: (queue?: string) => Effect.Effect<Option.Option<Duration.Duration>, InvalidInput | StoreError>

    /** For how long the oldest message of a queue, or of those in no queue, has been ready to be claimed. */
    readonly oldestReady: (queue?: string) => Effect.Effect<Option.Option<Duration.Duration>, InvalidInput | StoreError>

    /**
     * What waits in each queue that has messages other than archived ones, and in none, by the names of the queues. On Postgres
     * it takes as long beside a million messages as beside thousands: where there are too many to be counted, a part of them
     * stands for all, and `estimated` says so. `countByState` counts them all.
     *
     * **Details**
     *
     * It is one statement, and two more where there are too many, which read some 40,000 messages at most: look now and then, not
     * before each message. For how long the oldest one has waited is exact.
     */
    readonly overview: Effect.Effect<ReadonlyArray<QueueOverview>, StoreError>

    /**
     * Emits once it listens, and then a wake-up whenever messages may have become ready by a commit, in whichever process.
     *
     * **Gotchas**
     *
     * A wake-up is a hint, and one can be lost: look for messages now and then without one. There is none when the time of a
     * deferred message comes: ask `untilReady`.
     */
    readonly changes: Stream.Stream<void, StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>
  }
>()("effect-strata/SpoolStore") {}

// Driver

/**
 * A backend's implementation of the store, on checked values: each operation keeps the promise of the store's operation that
 * `fromDriver` makes of it. It fails with an error of the store's own or a bare `Reason`.
 */
export interface Driver {
  readonly store: (message: NewMessage) => Effect.Effect<void, MessageExists | IdConflict | Reason>
  readonly storeMany: (messages: Messages) => Effect.Effect<ReadonlyArray<MessageExists | IdConflict>, Reason>
  readonly get: (key: Key) => Effect.Effect<SpoolMessage, MessageNotFound | Reason>
  readonly update: (update: Update) => Effect.Effect<SpoolMessage, MessageNotFound | UpdateConflict | Reason>
  readonly remove: (remove: Remove) => Effect.Effect<void, MessageNotFound | Reason>
  readonly move: (move: Move) => Effect.Effect<void, MessageNotFound | StateConflict | Reason>
  readonly list: (list: List) => Effect.Effect<Page, Reason>
  readonly iterate: (iterate: Iterate) => Stream.Stream<SpoolMessage, Reason>
  readonly count: (selection: Selection) => Effect.Effect<Counts, Reason>
  readonly claim: (claim: Claim) => Effect.Effect<ReadonlyArray<SpoolMessage>, Reason>
  readonly settle: (settle: Settle) => Effect.Effect<ReadonlyArray<LeaseLost>, Reason>
  readonly trySettle: (settle: Settle) => Effect.Effect<Unsettled, Reason>
  readonly renew: (leases: Heartbeat) => Effect.Effect<ReadonlyArray<LeaseLost>, Reason>
  readonly recover: (recover: Recover) => Effect.Effect<ReadonlyArray<SpoolMessage>, Reason>
  readonly purge: (purge: Purge) => Effect.Effect<number, Reason>
  readonly forget: (forget: Forget) => Effect.Effect<number, Reason>
  readonly untilReady: (selection: Selection) => Effect.Effect<Option.Option<Duration.Duration>, Reason>
  readonly oldestReady: (selection: Selection) => Effect.Effect<Option.Option<Duration.Duration>, Reason>
  readonly overview: Effect.Effect<ReadonlyArray<QueueOverview>, Reason>
  /** Emits once it listens, and then after each change. `fromDriver` ends it with the scope. */
  readonly changes: Stream.Stream<void, Reason>
  readonly ping: Effect.Effect<void, Reason>
  /** What becomes of integers beyond 2^53 in payloads: see `Driver` of `EventStore`. */
  readonly largeIntegers?: LargeIntegers
}

const inQueue = (queue: string | undefined) => (queue === undefined ? {} : { queue })

/**
 * Makes the store of a driver: it shapes and checks the arguments, turns each `Reason` into a `StoreError`, and adds spans,
 * metrics and the end with the scope. `backend` is the name of the backend in spans and metrics.
 *
 * **Gotchas**
 *
 * Call it after everything that the driver needs has been acquired: scopes end in the opposite order, and operations must
 * be refused before what they need is gone.
 */
export const fromDriver = (backend: string, driver: Driver): Effect.Effect<SpoolStore["Service"], never, Scope.Scope> =>
  Effect.map(Operation.make("SpoolStore", backend), (operation) => {
    const isExact = driver.largeIntegers === "bigint"
    const storeMany = operation.fn("storeMany", isExact ? ExactMessages : Messages, driver.storeMany)
    const get = operation.fn("getMeta", Key, driver.get)
    const update = operation.fn("updateMeta", isExact ? ExactUpdate : Update, driver.update)
    const remove = operation.fn("deleteMeta", Remove, driver.remove)
    const move = operation.fn("moveToState", isExact ? ExactMove : Move, driver.move)
    const list = operation.fn("listMessages", List, driver.list)
    const iterate = operation.stream("iterate", Iterate, driver.iterate)
    const count = operation.fn("countByState", Selection, driver.count)
    const settle = operation.fn("settle", Settle, driver.settle)
    const trySettle = operation.fn("trySettle", Settle, driver.trySettle)
    const renew = operation.fn("heartbeat", Heartbeat, driver.renew)
    const recover = operation.fn("recover", Recover, driver.recover)
    const forget = operation.fn("forgetIds", Forget, driver.forget)
    const untilReady = operation.fn("untilReady", Selection, driver.untilReady)
    const oldestReady = operation.fn("oldestReady", Selection, driver.oldestReady)

    return SpoolStore.of({
      storeMeta: operation.fn("storeMeta", isExact ? NewExactMessage : NewMessage, driver.store),
      storeMany: (messages) => storeMany({ messages }),
      getMeta: (message) => get(keyOf(message)),
      updateMeta: (message, changes, options) => update({ ...keyOf(message), changes, ...options }),
      deleteMeta: (message, options) => remove({ ...options, ...keyOf(message) }),
      moveToState: (message, from, to, changes = {}) =>
        move({ ...keyOf(message), from: typeof from === "string" ? [from] : from, to, changes }),
      listMessages: (state, options) => list({ ...options, state }),
      iterate: (state, options) => iterate({ ...options, state }),
      countByState: (queue) => count(inQueue(queue)),
      claim: operation.fn("claim", Claim, driver.claim),
      settle: (outcomes) => settle({ outcomes }),
      trySettle: (outcomes) => trySettle({ outcomes }),
      heartbeat: (leases, lease) => renew({ leases, lease }),
      recover: (options = {}) => recover(options),
      purge: operation.fn("purge", Purge, driver.purge),
      forgetIds: (options = {}) => forget(options),
      untilReady: (queue) => untilReady(inQueue(queue)),
      oldestReady: (queue) => oldestReady(inQueue(queue)),
      overview: operation.effect("overview", driver.overview),
      changes: operation.endless("changes", driver.changes),
      ping: operation.effect("ping", driver.ping)
    })
  })
