/**
 * A queue of messages that are retried until they are delivered, and the workers that deliver them.
 *
 * A sender stores a message, in its transaction if there is one. One worker at a time handles it, in whatever process, under a
 * lease that is renewed while the handler runs. A message whose handler fails is tried again by a policy, and bounces in the
 * end. The queue runs on every backend of `SpoolStore`.
 *
 * ```ts
 * import { Console, Effect, Schema } from "effect"
 * import { Spool } from "effect-strata"
 *
 * class Mail extends Schema.Class<Mail>("Mail")({ to: Schema.String, subject: Schema.String }) {}
 *
 * const mails = Spool.make({ name: "mails", payload: Mail })
 *
 * export const send = mails.enqueue(new Mail({ to: "anna@example.org", subject: "Hello" }), { delay: "10 minutes" })
 *
 * export const worker = mails.run((mail) => Console.log(`delivering to ${mail.to}`), { concurrency: 10 })
 * ```
 *
 * **How often a message is handled**
 *
 * At least once: the message of a worker that dies between the handler's end and the settlement is handled again. With
 * `transactional: true` what the handler writes to the stores, and with the application's own SQL, commits together with the
 * message's settlement: exactly once. What leaves the database, such as a mail, can still happen twice.
 */
import { type DateTime, Duration, Effect, Layer, Metric, Option, Schema, type Scope } from "effect"
import { notSchemas } from "./events/FunctionIssues.ts"
import { check } from "./internal/Arguments.ts"
import { TimeSpan } from "./internal/Fields.ts"
import { TimeLimit, timeLimitOf } from "./internal/HandlerTimeout.ts"
import { idGenerator } from "./internal/Ids.ts"
import { named } from "./internal/Named.ts"
import { encodingIssues } from "./internal/PlainObject.ts"
import { InvalidInput } from "./InvalidInput.ts"
import { cleanForever } from "./spool/Cleaning.ts"
import * as Gauges from "./spool/Gauges.ts"
import * as Handling from "./spool/Handling.ts"
import { type Policy, policyFinder } from "./spool/Policy.ts"
import { traceHeaders } from "./spool/Trace.ts"
import * as Worker from "./spool/Worker.ts"
import {
  IdConflict,
  type MessageNotFound,
  type NewMessage,
  type SpoolMessage,
  SpoolStore,
  type State,
  type StateConflict
} from "./SpoolStore.ts"
import type { StoreError } from "./StoreError.ts"
import { type Options as SupervisorOptions, Supervisor } from "./Supervisor.ts"
import type { Transactor } from "./Transactor.ts"

export { HandlerTimeout } from "./internal/HandlerTimeout.ts"
export { Permanent, permanent } from "./spool/Permanent.ts"
export { backoff, fixed, preview } from "./spool/Policy.ts"
export type { Policy } from "./spool/Policy.ts"

// Model

/** What `Spool.make` takes: what a queue is, for those who enqueue and for those who work. */
export interface Options<A, RD, RE, Policies extends string = never> {
  /** The name of the queue, at most 255 characters. */
  readonly name: string
  /** The schema of the payloads. They are stored as JSON. */
  readonly payload: Schema.Codec<A, unknown, RD, RE>
  /** Policies by the names that messages keep. `default` is for messages without a name: `Spool.backoff()` unless given. */
  readonly policies?: Readonly<Record<Policies, Policy>>
  /** How often a message without `maxAttempts` is tried before it bounces: 10 unless given. */
  readonly maxAttempts?: number
  /** What becomes of messages that were delivered: `"delete"` unless given. */
  readonly onSuccess?: "delete" | "archive"
  /** What becomes of messages that bounce: unless given `"keep"`, which leaves them in the state `bounce`. */
  readonly onBounce?: "keep" | "archive" | "delete"
  /**
   * For how long the id that a sender has given to a message stays taken after the message was delivered and deleted: 24 hours
   * unless given. Workers forget older ones.
   */
  readonly rememberIds?: Duration.Input
  /** How long archived messages are kept: for ever unless given. Workers delete older ones. */
  readonly retention?: Duration.Input
}

/** How a message is enqueued. `Policies` are the names of the queue's policies. */
export interface EnqueueOptions<Policies extends string = never> {
  /**
   * A message with an id is stored once, however often it is enqueued: until it was delivered, and for `rememberIds` from then
   * on. The id is one of this queue. A message without one gets a UUIDv7.
   */
  readonly id?: string
  /** What is said beside the payload: none unless given. */
  readonly headers?: Readonly<Record<string, string>>
  /** From 1, the most urgent, to 10: 5 unless given. */
  readonly priority?: number
  /** After what delay the message is handled, by the store's clock: at once unless given. */
  readonly delay?: Duration.Input
  /** The time from which on the message is handled, by the store's clock, instead of a delay. */
  readonly at?: DateTime.Utc
  /** The name of the queue's policy by which the message is tried again: `"default"` unless given. */
  readonly policy?: Policies | "default"
  /** How often the message is tried before it bounces: as the queue says unless given. */
  readonly maxAttempts?: number
}

/** How a worker works: what `run` and `layer` of a queue take. */
export interface RunOptions<R = never> {
  /** How many messages are handled at a time: 10 unless given. */
  readonly concurrency?: number
  /**
   * How many more are claimed ahead: 4 for each that is handled at a time, unless given. A larger buffer makes claims cheaper,
   * and leaves less to other workers.
   */
  readonly buffer?: number
  /** How long a message stays with a worker that has died: 30 seconds unless given. */
  readonly lease?: Duration.Input
  /** Whether one transaction has both what the handler writes and the message's settlement: `false` unless given. */
  readonly transactional?: boolean
  /** How long handlers may go on once the worker is interrupted: 10 seconds unless given. Then they are interrupted, too. */
  readonly shutdownTimeout?: Duration.Input
  /**
   * How long a handler may take with a message: as long as it wants unless given. Then it is interrupted, and has failed with
   * `HandlerTimeout`: the message is tried again by its policy.
   */
  readonly timeout?: Duration.Input
  /** Runs before a message bounces. If it fails, the failure is logged, and the message bounces all the same. */
  readonly bounced?: (message: SpoolMessage, reason: string) => Effect.Effect<unknown, unknown, R>
}

export interface Stats {
  readonly counts: Readonly<Record<State, number>>
  /** For how long the oldest message that could be handled has waited; none if there is no such message. */
  readonly oldestReady: Option.Option<Duration.Duration>
}

/**
 * One queue. `Policies` are the names of its policies besides `default`: a queue with more of them fits where fewer are asked
 * for.
 */
export interface Spool<A, RD = never, RE = never, Policies extends string = never> {
  readonly name: string

  /**
   * Stores a message, in the caller's transaction if there is one, and returns its id. Workers see it after the commit. The
   * same message can be enqueued again with the same id: the second time nothing happens, whatever the headers and the other
   * options are. With another payload it is an `IdConflict`.
   */
  readonly enqueue: (
    payload: A,
    options?: EnqueueOptions<Policies>
  ) => Effect.Effect<string, IdConflict | InvalidInput | StoreError, SpoolStore | RE>

  /**
   * Stores messages in one statement, and returns their ids in their order. If it fails with an `IdConflict`, the messages
   * without a conflict are stored.
   */
  readonly enqueueAll: (
    messages: ReadonlyArray<EnqueueOptions<Policies> & { readonly payload: A }>
  ) => Effect.Effect<ReadonlyArray<string>, IdConflict | InvalidInput | StoreError, SpoolStore | RE>

  /**
   * Works until it is interrupted: claims messages, handles and settles them.
   *
   * **Details**
   *
   * A handler that fails, or dies, has made an attempt: the message is due again after the delay that its policy says. It
   * bounces after the last attempt, and at once after `Spool.permanent(error)` or if its payload does not fit the schema. When
   * the lease is lost, because the message was moved or the store could not be reached for too long, the handler is
   * interrupted. Another worker gets the messages of a process that was killed, after their lease. Attempts count when they
   * begin, so a message that kills its workers bounces in the end.
   *
   * A worker waits for a store that is gone. A worker that is interrupted claims no more, gives back messages whose handlers
   * have not begun, and lets the others finish, up to `shutdownTimeout`. An idle worker asks the store once a minute; behind a
   * pooler in transaction mode, which passes no wake-up on, once a second, and each 5 seconds once it has been idle for a while.
   * The process also looks at all queues every 15 seconds, for the gauges: see `Health`.
   */
  readonly run: <E, R, R2 = never>(
    handler: (payload: A, message: SpoolMessage) => Effect.Effect<unknown, E, R>,
    options?: RunOptions<R2>
  ) => Effect.Effect<never, InvalidInput | StoreError, SpoolStore | Transactor | RD | R | R2>

  /** Puts a message on hold: it is not handled. A handler that has begun with it is interrupted. */
  readonly hold: (
    id: string,
    reason: string
  ) => Effect.Effect<void, MessageNotFound | StateConflict | InvalidInput | StoreError, SpoolStore>

  /** Lets a message that was on hold be handled. */
  readonly release: (
    id: string,
    reason?: string
  ) => Effect.Effect<void, MessageNotFound | StateConflict | InvalidInput | StoreError, SpoolStore>

  /** Lets a message that has bounced be handled, with all its attempts again. */
  readonly requeue: (
    id: string
  ) => Effect.Effect<void, MessageNotFound | StateConflict | InvalidInput | StoreError, SpoolStore>

  /** How many messages there are in each state, and how old the oldest ready one is. Sets the gauges of the metrics, too. */
  readonly stats: Effect.Effect<Stats, InvalidInput | StoreError, SpoolStore>
}

/**
 * Works on the queue in the background, for as long as the layer lives. The `Supervisor` watches over the worker:
 * `Supervisor.launch` ends the process when the worker ends, unless `options` say otherwise.
 */
export const layer = <A, RD, RE, E, R, R2 = never>(
  spool: Spool<A, RD, RE>,
  handler: (payload: A, message: SpoolMessage) => Effect.Effect<unknown, E, R>,
  { onEnd, restart, ...options }: RunOptions<R2> & SupervisorOptions = {}
): Layer.Layer<never, never, Exclude<R | R2 | RD, Scope.Scope> | SpoolStore | Transactor | Supervisor> =>
  Layer.effectDiscard(
    Supervisor.use((supervisor) =>
      supervisor.run(`the worker of "${spool.name}"`, spool.run(handler, options), {
        ...(onEnd === undefined ? {} : { onEnd }),
        ...(restart === undefined ? {} : { restart })
      })
    )
  )

// Stats

const statsOf = Effect.fnUntraced(function* (queue: string) {
  const spool = yield* SpoolStore
  const counts = yield* spool.countByState(queue)
  const oldestReady = yield* spool.oldestReady(queue)
  for (const [state, messages] of Object.entries(counts)) {
    yield* Metric.update(Metric.withAttributes(Gauges.depth, { queue, state }), messages)
  }
  const age = Option.match(oldestReady, { onNone: () => 0, onSome: Duration.toSeconds })
  yield* Metric.update(Metric.withAttributes(Gauges.oldest, { queue }), age)
  return { counts, oldestReady }
})

// Working

class Settings extends Schema.Class<Settings>("effect-strata/Spool/Settings")({
  concurrency: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5000 })),
  buffer: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5000 })),
  lease: TimeSpan.check(
    Schema.makeFilter((lease) =>
      Duration.isGreaterThanOrEqualTo(Duration.fromInputUnsafe(lease), Duration.seconds(1))
        ? undefined
        : "Expected at least 1 second"
    )
  ),
  shutdownTimeout: TimeSpan,
  timeout: Schema.optionalKey(TimeLimit),
  retention: Schema.optionalKey(TimeSpan)
}) {}

// Spool

/** The arguments of the operations by the fields of messages that they become. */
const fields = { retryPolicyName: "policy", nextRetry: "at", rememberId: "rememberIds", "changes.lastError": "reason" }
const enqueueError = named("Spool", "enqueue", fields)
const enqueueAllError = named("Spool", "enqueueAll", fields)

/** What is wrong with one of several messages. */
const inMessage = ({ issues }: InvalidInput, index: number) =>
  new InvalidInput({
    store: "Spool",
    operation: "enqueueAll",
    issues: issues.map(({ field, message }) => ({ field: `messages.${index}.${field}`.replace(/\.$/, ""), message }))
  })

const newId = Effect.flatMap(idGenerator, (random) => random.uuidV7())

/** Defines a queue. It does nothing by itself. */
export const make = <A, RD = never, RE = never, const Policies extends string = never>(
  definition: Options<A, RD, RE, Policies>
): Spool<A, RD, RE, Policies> => {
  const { maxAttempts = 10, name, onBounce = "keep", onSuccess = "delete", policies = {}, retention } = definition
  const { rememberIds = "24 hours" } = definition
  const issues = notSchemas(definition, { payload: definition.payload })
  // The compiler refuses it. There is nothing that such a queue could be.
  if (issues.length > 0) throw new InvalidInput({ store: "Spool", operation: "make", issues })
  const codec = Schema.toCodecJson(definition.payload)
  const encode = Schema.encodeEffect(codec)
  const decode = Schema.decodeUnknownEffect(codec)
  const policyOf = policyFinder(name, policies)

  const messageOf = Effect.fnUntraced(function* (
    payload: A,
    options: EnqueueOptions<Policies>,
    trace: Record<string, string>
  ) {
    const { at, delay, headers, id, policy, priority } = options
    const encoded = yield* Effect.mapErrorEager(
      encode(payload),
      ({ issue }) => new InvalidInput({ store: "Spool", operation: "enqueue", issues: encodingIssues(issue, payload) })
    )
    const message: (typeof NewMessage)["~type.make.in"] = {
      id: id ?? (yield* newId),
      queue: name,
      payload: encoded,
      headers: { ...trace, ...headers },
      maxAttempts: options.maxAttempts ?? maxAttempts,
      retryPolicyName: policy ?? "",
      ...(id === undefined ? {} : { rememberId: rememberIds }),
      ...(priority === undefined ? {} : { priority }),
      ...(delay === undefined ? {} : { delay }),
      ...(at === undefined ? {} : { nextRetry: at })
    }
    return message
  })

  const enqueue = Effect.fnUntraced(function* (payload: A, options: EnqueueOptions<Policies> = {}) {
    const spool = yield* SpoolStore
    const message = yield* messageOf(payload, options, yield* traceHeaders)
    yield* Effect.catch(spool.storeMeta(message), (error) =>
      error._tag === "MessageExists" ? Effect.void : Effect.fail(enqueueError(error))
    )
    return message.id
  })

  const enqueueAll = Effect.fnUntraced(function* (
    messages: ReadonlyArray<EnqueueOptions<Policies> & { readonly payload: A }>
  ) {
    const spool = yield* SpoolStore
    const trace = yield* traceHeaders
    const all = yield* Effect.forEach(messages, ({ payload, ...options }, index) =>
      Effect.mapError(messageOf(payload, options, trace), (error) => inMessage(error, index))
    )
    const stored = yield* Effect.mapError(spool.storeMany(all), enqueueAllError)
    const conflict = stored.find((error) => error instanceof IdConflict)
    if (conflict !== undefined) return yield* conflict
    return all.map(({ id }) => id)
  })

  const run = <E, R, R2>(
    handler: (payload: A, message: SpoolMessage) => Effect.Effect<unknown, E, R>,
    options: RunOptions<R2> = {}
  ) =>
    Effect.gen(function* () {
      const { bounced, concurrency = 10, transactional = false } = options
      const { buffer = concurrency * 4, lease = "30 seconds", shutdownTimeout = "10 seconds" } = options
      const kept = retention === undefined ? {} : { retention }
      const timeout = timeLimitOf(options.timeout)
      const limited = timeout === undefined ? {} : { timeout }
      const issues = typeof handler === "function" ? [] : [{ field: "handler", message: "Expected a function" }]
      if (issues.length > 0) return yield* new InvalidInput({ store: "Spool", operation: "run", issues })
      yield* check(Settings, "Spool", "run", { concurrency, buffer, lease, shutdownTimeout, ...limited, ...kept })
      const outcomes = { onSuccess, onBounce, policyOf, bounced, transactional, timeout }
      const handling = yield* Handling.make({ queue: name, decode, handler, ...outcomes })
      const settings: Worker.Settings = {
        queue: name,
        name: yield* newId,
        concurrency,
        buffer,
        lease: Duration.fromInputUnsafe(lease),
        shutdownTimeout: Duration.fromInputUnsafe(shutdownTimeout)
      }
      const worker = Worker.run(settings, handling)
      yield* Gauges.feed
      return yield* Effect.raceFirst(worker, cleanForever(name, retention))
    }).pipe(Effect.scoped, Effect.mapError(named("Spool", "run", fields)))

  const move = (
    operation: string,
    id: string,
    from: State | ReadonlyArray<State>,
    to: State,
    changes: { readonly lastError?: string; readonly attempts?: number }
  ) =>
    SpoolStore.use((spool) =>
      Effect.mapError(spool.moveToState({ queue: name, id }, from, to, changes), named("Spool", operation, fields))
    )

  return {
    name,
    enqueue,
    enqueueAll,
    run,
    hold: (id, reason) => move("hold", id, ["incoming", "deferred", "active"], "hold", { lastError: reason }),
    release: (id, reason = "") => move("release", id, "hold", "incoming", { lastError: reason }),
    requeue: (id) => move("requeue", id, "bounce", "incoming", { attempts: 0 }),
    stats: Effect.mapError(statsOf(name), named("Spool", "stats"))
  }
}
