/** What becomes of a message: how it is handed to its handler, and what follows when the handler fails. */
import { Cause, type Duration, Effect, Exit, Metric, Option, Schedule, Schema, SchemaIssue, Tracer } from "effect"
import { makeTelling, prettyOf, retryTime } from "../internal/FailureLog.ts"
import { withinLimit } from "../internal/HandlerTimeout.ts"
import { isTraced } from "../internal/Operation.ts"
import * as Telemetry from "../internal/Telemetry.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import * as Origin from "../Origin.ts"
import { MessageLocked, type Outcome, type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import { Transactor } from "../Transactor.ts"
import { type Bounced, failureOf, fateOf, type OnBounce, outcomeOf, tellerOf } from "./Bounces.ts"
import type { Lease } from "./Leased.ts"
import { Permanent, textOf } from "./Permanent.ts"
import { delayAfter, type Policy } from "./Policy.ts"
import { recover } from "./Recovery.ts"
import { enqueuedBy } from "./Trace.ts"

/** How the messages of one run are handled. */
export interface Options<A, E, RD, R, R2> {
  readonly queue: string
  readonly onSuccess: "delete" | "archive"
  readonly onBounce: OnBounce
  readonly policyOf: (name: string) => Effect.Effect<Policy>
  readonly decode: (payload: unknown) => Effect.Effect<A, unknown, RD>
  readonly handler: (payload: A, message: SpoolMessage) => Effect.Effect<unknown, E, R>
  readonly bounced: Bounced<R2> | undefined
  /** Whether a message is settled in the transaction of its handler. */
  readonly transactional: boolean
  /** How long the handler may take; for ever unless given. */
  readonly timeout: Duration.Duration | undefined
}

export interface Handling<R> {
  /** Handles a message, and says what becomes of it: nothing if that is settled already. */
  readonly attempt: (message: SpoolMessage, lease: Lease) => Effect.Effect<Outcome | undefined, never, R>
  /** Gives up claims of workers that are dead, and returns how many. */
  readonly recover: Effect.Effect<number, InvalidInput | StoreError, R>
}

const attempts = Telemetry.counter("strata_spool_attempts")

/**
 * How the transaction of a handler waits for another one that has locked the message: for 5 seconds. Others change a message
 * in milliseconds. A transaction that has locked it for longer may never end, and would keep this one open, too.
 */
const lockedDelays = Schedule.min([Schedule.exponential("10 millis"), Schedule.spaced("500 millis")]).pipe(
  Schedule.upTo({ duration: "5 seconds" })
)

const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

/** Where a payload does not fit. What stands there is not for the log. */
const misfitOf = (error: unknown): string => {
  const issues = Schema.isSchemaError(error) ? issuesOf(error.issue).issues : []
  const places = issues.map(({ path }) => (path ?? []).map(String).join(".")).filter((place) => place !== "")
  return places.length === 0
    ? "its payload does not fit the schema"
    : `its payload does not fit the schema at ${places}`
}

/** Runs the handler in a span. Without a collector of spans it makes one only to pass on the trace of the sender. */
const inSpan = <A, E, R>(queue: string, message: SpoolMessage, handled: Effect.Effect<A, E, R>) => {
  const parent = enqueuedBy(message)
  const spanned = () =>
    Effect.useSpan(
      "Spool.handle" satisfies Telemetry.SpanName,
      {
        ...(parent === undefined ? {} : { parent }),
        kind: "consumer",
        attributes: { queue, attempt: message.attempts }
      },
      (span) => Effect.provideService(handled, Tracer.ParentSpan, span)
    )
  return Effect.withFiber<A, E, R>((fiber) => (parent === undefined && !isTraced(fiber) ? handled : spanned()))
}

/** The handling of one run's messages. */
export const make = <A, E, RD, R, R2>({
  bounced,
  decode,
  handler,
  onBounce,
  onSuccess,
  policyOf,
  queue,
  timeout,
  transactional
}: Options<A, E, RD, R, R2>): Effect.Effect<
  Handling<RD | R | R2 | SpoolStore | Transactor>,
  never,
  SpoolStore | Transactor
> =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore
    const { withWatchedTransaction } = yield* Transactor
    const countOf = (outcome: string) => Metric.update(Metric.withAttributes(attempts, { queue, outcome }), 1)
    const countDelivered = countOf("delivered")
    const countFailed = countOf("failed")
    const tellOfBounce = tellerOf(queue, countOf("bounced"), bounced)
    const errorText = makeTelling()

    const tell = (message: SpoolMessage, next: string, why: string) =>
      Effect.logWarning(failureOf(queue, message, next, why))

    const delivered = (lease: Lease): Outcome => ({ outcome: onSuccess === "archive" ? "archived" : "done", ...lease })

    /** `text` is what the log says of the reason. */
    const bounce = (message: SpoolMessage, lease: Lease, reason: string, text = reason) =>
      tell(message, fateOf[onBounce], text).pipe(
        Effect.andThen(tellOfBounce(message, reason)),
        Effect.map((): Outcome => outcomeOf(onBounce, lease, reason))
      )

    /** Settles the message in the caller's transaction, which fails if the lease is lost, or the message stays locked. */
    const settleHere = (outcome: Outcome) =>
      spool.trySettle([outcome]).pipe(
        Effect.flatMap(({ locked, lost }) => {
          const [error] = [...lost, ...locked]
          return error === undefined ? Effect.void : Effect.fail(error)
        }),
        Effect.retry({ schedule: lockedDelays, while: (error) => error instanceof MessageLocked })
      )

    /** The delay before the next attempt; none if the policy gives up, or fails. */
    const delayOf = ({ attempts, id, retryPolicyName }: SpoolMessage) =>
      Effect.flatMap(policyOf(retryPolicyName), (policy) => delayAfter(policy, attempts)).pipe(
        Effect.catchCause((cause) =>
          Effect.as(
            Effect.logError(`the policy of message "${id}" of queue "${queue}" has failed`, cause),
            Option.none()
          )
        )
      )

    const fail = Effect.fnUntraced(function* (message: SpoolMessage, lease: Lease, cause: Cause.Cause<unknown>) {
      const error = Cause.squash(cause)
      const reason = error instanceof Permanent ? error.message : textOf(error)
      const isLast = error instanceof Permanent || message.attempts >= message.maxAttempts
      const delay = isLast ? Option.none() : yield* delayOf(message)
      const text = yield* errorText(prettyOf(error instanceof Permanent ? Cause.fail(error.cause) : cause))
      if (Option.isNone(delay)) return yield* bounce(message, lease, reason, text)
      yield* countFailed
      yield* tell(message, `it is tried again ${retryTime(delay.value)}`, text)
      const outcome: Outcome = { outcome: "deferred", ...lease, delay: delay.value, error: reason }
      return outcome
    })

    const attempt = Effect.fnUntraced(function* (message: SpoolMessage, lease: Lease) {
      if (message.attempts > message.maxAttempts) {
        return yield* bounce(message, lease, message.lastError || "it has had all its attempts")
      }
      const payload = yield* Effect.exit(decode(message.payload))
      if (Exit.isFailure(payload)) {
        const error = Cause.squash(payload.cause)
        return yield* bounce(message, lease, `the payload does not fit: ${textOf(error)}`, misfitOf(error))
      }
      const handled = inSpan(
        queue,
        message,
        withinLimit(
          Effect.suspend(() => handler(payload.value, message)).pipe(
            Effect.provideService(Origin.Origin, Origin.of(message))
          ),
          timeout
        )
      )
      const exit = yield* Effect.exit(
        transactional ? withWatchedTransaction(Effect.andThen(handled, settleHere(delivered(lease)))) : handled
      )
      if (Exit.isFailure(exit)) {
        const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
        // The handler has not failed, and its transaction is rolled back: the message is handled again once it can be settled.
        if (transactional && error instanceof MessageLocked && error.id === message.id) {
          return { outcome: "released", ...lease } as const
        }
        return yield* fail(message, lease, exit.cause)
      }
      yield* countDelivered
      return transactional ? undefined : delivered(lease)
    })

    return { attempt, recover: recover(queue, onBounce, tellOfBounce) }
  })
