/**
 * Messages that wait to be delivered, retried, held or bounced.
 *
 * The table `retryspool_messages` is the one of RetrySpool's Postgres store. A message is stored in the transaction of its
 * sender, and nobody sees it before that commits. Whoever delivers it claims it under a lease, by the store's own clock, and
 * settles it afterwards: one who has lost the lease cannot change it any more.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { SpoolStore } from "effect-strata"
 *
 * export const deliver = Effect.gen(function* () {
 *   const spool = yield* SpoolStore.SpoolStore
 *   yield* spool.storeMeta({ id: "mail-1", payload: { to: "anna@example.org" } })
 *
 *   const owner = "worker-1/claim-1"
 *   const messages = yield* spool.claim({ limit: 10, lease: "30 seconds", owner })
 *   // .. deliver them ..
 *   const lost = yield* spool.settle(
 *     messages.map(({ attempts, id }) => ({ outcome: "done", id, owner, attempt: attempts }))
 *   )
 *   return lost.map(({ message }) => message)
 * })
 * ```
 */
import { Context, type Duration, Effect, type Option, Predicate, Schema, SchemaParser, type Stream } from "effect"
import { Time, TimeSpan } from "./internal/Fields.ts"
import type { InvalidInput } from "./InvalidInput.ts"
import {
  Changes,
  Count,
  Lease,
  type LeaseLost,
  type MessageExists,
  MessageId,
  type MessageNotFound,
  NewMessage,
  Outcome,
  Owner,
  QueueName,
  type SpoolMessage,
  State,
  type StateConflict,
  type UpdateConflict
} from "./SpoolMessage.ts"
import type { StoreError } from "./StoreError.ts"

export * from "./SpoolMessage.ts"

// Arguments

const Batch = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 }))

const distinct = Schema.makeFilter((items: ReadonlyArray<{ readonly id: string }>) =>
  new Set(items.map(({ id }) => id)).size === items.length ? undefined : "Expected each id once"
)

export class ById extends Schema.Class<ById>("effect-strata/SpoolStore/ById")({ id: MessageId }) {}

export class Messages extends Schema.Class<Messages>("effect-strata/SpoolStore/Messages")({
  messages: Schema.Array(NewMessage).check(distinct)
}) {}

export class Update extends Schema.Class<Update>("effect-strata/SpoolStore/Update")({
  id: MessageId,
  changes: Changes,
  ifUpdated: Schema.optionalKey(Time)
}) {}

export class Move extends Schema.Class<Move>("effect-strata/SpoolStore/Move")({
  id: MessageId,
  from: Schema.Array(State),
  to: State,
  changes: Changes
}) {}

/** One queue, or the messages that are in none. */
export class Selection extends Schema.Class<Selection>("effect-strata/SpoolStore/Selection")({
  queue: Schema.optionalKey(QueueName)
}) {}

/** A page of a list. */
export class List extends Schema.Class<List>("effect-strata/SpoolStore/List")({
  state: State,
  /** Of all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  /** How many at most: 100. */
  limit: Count.pipe(Schema.withConstructorDefault(Effect.succeed(100))),
  offset: Count.pipe(Schema.withConstructorDefault(Effect.succeed(0))),
  sortBy: Schema.Literals(["created", "updated", "priority", "attempts"]).pipe(
    Schema.withConstructorDefault(Effect.succeed("created"))
  ),
  sortOrder: Schema.Literals(["asc", "desc"]).pipe(Schema.withConstructorDefault(Effect.succeed("asc"))),
  /** Only those that have been stored or changed at this time or later. */
  since: Schema.optionalKey(Time),
  /** Whether to count all that match. */
  total: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))
}) {}

export class Iterate extends Schema.Class<Iterate>("effect-strata/SpoolStore/Iterate")({
  state: State,
  queue: Schema.optionalKey(QueueName),
  batchSize: Batch.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

export class Claim extends Schema.Class<Claim>("effect-strata/SpoolStore/Claim")({
  queue: Schema.optionalKey(QueueName),
  limit: Batch,
  lease: TimeSpan,
  owner: Owner,
  /** How many of them are for incoming messages, if there are so many, before deferred ones: half unless given. */
  reserved: Schema.optionalKey(Count)
}) {}

const isPlain = (text: unknown) => typeof text === "string" && /^[\w./:@-]{1,255}$/.test(text)

/** Whether the schema has nothing to say about it: 0.2 us for each message, where the schema takes 1.1. Nearly all are these. */
const isPlainlyDone = (outcome: unknown): outcome is Outcome =>
  Predicate.isObject(outcome) &&
  outcome.outcome === "done" &&
  isPlain(outcome.id) &&
  isPlain(outcome.owner) &&
  typeof outcome.attempt === "number" &&
  Number.isInteger(outcome.attempt) &&
  outcome.attempt >= 0 &&
  outcome.attempt < 2 ** 31 &&
  Object.keys(outcome).length === 4

const checkOutcomes = SchemaParser.decodeUnknownEffect(Schema.toType(Schema.Array(Outcome)))

const Outcomes = Schema.declareConstructor<ReadonlyArray<Outcome>>()(
  [],
  () => (input, _self, options) =>
    Array.isArray(input) && input.every(isPlainlyDone) ? Effect.succeed(input) : checkOutcomes(input, options)
)

export class Settle extends Schema.Class<Settle>("effect-strata/SpoolStore/Settle")({
  outcomes: Outcomes.check(distinct)
}) {}

export class Heartbeat extends Schema.Class<Heartbeat>("effect-strata/SpoolStore/Heartbeat")({
  leases: Schema.Array(Lease).check(distinct),
  lease: TimeSpan
}) {}

export class Recover extends Schema.Class<Recover>("effect-strata/SpoolStore/Recover")({
  /** Of all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  limit: Batch.pipe(Schema.withConstructorDefault(Effect.succeed(1000))),
  /** How long after its last change an active message is given up that has no lease, as RetrySpool claims: 10 minutes. */
  grace: TimeSpan.pipe(Schema.withConstructorDefault(Effect.succeed("10 minutes")))
}) {}

export class Purge extends Schema.Class<Purge>("effect-strata/SpoolStore/Purge")({
  state: State,
  /** How long ago it must have changed last. */
  olderThan: TimeSpan,
  /** Of all queues unless given. */
  queue: Schema.optionalKey(QueueName),
  limit: Batch.pipe(Schema.withConstructorDefault(Effect.succeed(1000)))
}) {}

/** One page of messages. */
export interface Page {
  /** Without their payloads. */
  readonly messages: ReadonlyArray<SpoolMessage>
  /** Whether there are more after this page. */
  readonly hasMore: boolean
  /** How many there are on all pages, if it was asked for. */
  readonly total: Option.Option<number>
}

// Service

type NewMessageInput = (typeof NewMessage)["~type.make.in"]

/** Options of an operation: its argument without what is given beside them. */
type Options<Input, Beside extends keyof Input> = Omit<Input, Beside>

/** The spool of messages: see the module's documentation. */
export class SpoolStore extends Context.Service<
  SpoolStore,
  {
    /** Stores a message. Of any number of concurrent callers with the same id, exactly one succeeds. */
    readonly storeMeta: (message: NewMessageInput) => Effect.Effect<void, MessageExists | InvalidInput | StoreError>

    /**
     * Stores the messages whose ids are not stored yet, in one statement, and returns the others' errors: storing them
     * again does nothing. Messages of the same time and priority are claimed in this order.
     */
    readonly storeMany: (
      messages: ReadonlyArray<NewMessageInput>
    ) => Effect.Effect<ReadonlyArray<MessageExists>, InvalidInput | StoreError>

    /** The message with this id, payload and all. */
    readonly getMeta: (id: string) => Effect.Effect<SpoolMessage, MessageNotFound | InvalidInput | StoreError>

    /**
     * Changes parts of a message, whatever its state, and returns it as it is now. With `ifUpdated` only if it has not
     * changed since it was read: of any number of concurrent callers with the same `ifUpdated`, exactly one succeeds.
     *
     * **Gotchas**
     *
     * Whoever changes the attempts of an active message takes its lease away. RetrySpool, which sets `updated` by its own
     * clock, is noticed only if it writes in another millisecond.
     */
    readonly updateMeta: (
      id: string,
      changes: (typeof Changes)["~type.make.in"],
      options?: { readonly ifUpdated?: SpoolMessage["updated"] }
    ) => Effect.Effect<SpoolMessage, MessageNotFound | UpdateConflict | InvalidInput | StoreError>

    /** Deletes the message, whatever its state. */
    readonly deleteMeta: (id: string) => Effect.Effect<void, MessageNotFound | InvalidInput | StoreError>

    /**
     * Moves the message from one state, or one of several, to another, with changes to it if there are any. Of any
     * number of concurrent callers that move it away from a state, exactly one succeeds.
     *
     * **Details**
     *
     * Whoever has claimed the message loses its lease. One that is moved to `active` has none, as RetrySpool claims:
     * `recover` gives it up after its `grace`.
     */
    readonly moveToState: (
      id: string,
      from: State | ReadonlyArray<State>,
      to: State,
      changes?: (typeof Changes)["~type.make.in"]
    ) => Effect.Effect<void, MessageNotFound | StateConflict | InvalidInput | StoreError>

    /**
     * A page of the messages in a state, without their payloads, in a stable order: messages that are equal in `sortBy` are
     * in order of their ids (by code point).
     *
     * **Gotchas**
     *
     * A message that changes its place between two pages is on both, or on neither: `iterate` does not have that. Counting
     * for `total` reads an index of all that match.
     */
    readonly listMessages: (
      state: State,
      options?: Options<(typeof List)["~type.make.in"], "state">
    ) => Effect.Effect<Page, InvalidInput | StoreError>

    /**
     * Every message in a state, without its payload, from the oldest on, in batches. One that is in it throughout
     * appears exactly once, whatever happens to the others.
     */
    readonly iterate: (
      state: State,
      options?: Options<(typeof Iterate)["~type.make.in"], "state">
    ) => Stream.Stream<SpoolMessage, InvalidInput | StoreError>

    /** How many messages there are in each state, in one queue or in all. It reads an index of all of them. */
    readonly countByState: (queue?: string) => Effect.Effect<Readonly<Record<State, number>>, InvalidInput | StoreError>

    /**
     * Claims messages of a queue, or of those in none, and returns them in order of priority, then age: they are active
     * and nobody else has them until the lease ends, by the store's clock. Each claim counts as an attempt.
     *
     * **Details**
     *
     * Messages that another transaction has changed are skipped, not waited for. Deferred messages that are due go before
     * incoming ones, but for a share that is reserved: a storm of retries does not hold up new messages. In a transaction
     * the claim is undone with it.
     *
     * **Gotchas**
     *
     * A message is claimed however many attempts it has had: settle it as `bounced` if they are too many. One that
     * somebody else has written, and that does not fit the model, bounces with the reason, and is not among the claimed.
     */
    readonly claim: (
      options: (typeof Claim)["~type.make.in"]
    ) => Effect.Effect<ReadonlyArray<SpoolMessage>, InvalidInput | StoreError>

    /**
     * Settles claimed messages in one statement, and returns an error for each whose lease is lost: that one is left as
     * it is, the others are settled.
     *
     * **Details**
     *
     * A lease that has run out is not lost before somebody recovers the message.
     */
    readonly settle: (
      outcomes: (typeof Settle)["~type.make.in"]["outcomes"]
    ) => Effect.Effect<ReadonlyArray<LeaseLost>, InvalidInput | StoreError>

    /**
     * Makes leases last this long from now on, in one statement, and returns an error for each that is lost. It waits for
     * nobody: a message that another transaction is changing is left as it is.
     */
    readonly heartbeat: (
      leases: (typeof Heartbeat)["~type.make.in"]["leases"],
      lease: Duration.Input
    ) => Effect.Effect<ReadonlyArray<LeaseLost>, InvalidInput | StoreError>

    /**
     * Gives up claims whose lease has run out, whoever made them, and returns the messages as they are then: incoming, or
     * in `bounce` if they have had all their attempts. So a message that kills whoever delivers it ends there.
     */
    readonly recover: (
      options?: (typeof Recover)["~type.make.in"]
    ) => Effect.Effect<ReadonlyArray<SpoolMessage>, InvalidInput | StoreError>

    /** Deletes messages in a state that have not changed for a time, and returns how many: fewer than `limit` are all. */
    readonly purge: (options: (typeof Purge)["~type.make.in"]) => Effect.Effect<number, InvalidInput | StoreError>

    /**
     * How long until there is something to claim or to recover in a queue, or among the messages in none, if nothing is
     * stored or changed until then: zero if there is already, `None` if there will be nothing.
     */
    readonly untilReady: (queue?: string) => Effect.Effect<Option.Option<Duration.Duration>, InvalidInput | StoreError>

    /** For how long the oldest message of a queue, or of those in none, has been ready to be claimed. */
    readonly oldestReady: (queue?: string) => Effect.Effect<Option.Option<Duration.Duration>, InvalidInput | StoreError>

    /**
     * Emits once it listens, and then whenever messages may have become ready because somebody has committed them, in
     * whichever process.
     *
     * **Gotchas**
     *
     * A hint, and one can be lost: look by yourself now and then. It says nothing of messages whose time has come:
     * `untilReady` does.
     */
    readonly changes: Stream.Stream<void, StoreError>

    /** Succeeds if the store can be used now: the backend answers and the table can be read. */
    readonly ping: Effect.Effect<void, StoreError>
  }
>()("effect-strata/SpoolStore") {}
