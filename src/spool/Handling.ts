/** What becomes of a message: how it is handed to its handler, and what follows when that fails. */
import { Cause, Data, Effect, Exit, Metric, Option, Tracer } from "effect"
import { isTraced } from "../internal/Operation.ts"
import { type Lease, type Outcome, type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import { Transactor } from "../Transactor.ts"
import { backoff, delayAfter, type Policy } from "./Policy.ts"
import { parentOf } from "./Trace.ts"
import type { Handling } from "./Worker.ts"

// Failures

const longest = 2000

/** An error in a few words, fit for a column of text. */
export const textOf = (error: unknown): string => {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  return text.replaceAll("\0", "").slice(0, longest).toWellFormed()
}

/** An error that no further attempt can mend: see `permanent`. */
export class Permanent extends Data.TaggedError("Permanent")<{ readonly cause: unknown }> {
  override get message(): string {
    return textOf(this.cause)
  }
}

/** Makes a message bounce at once, when its handler fails with this. */
export const permanent = (error: unknown): Permanent => new Permanent({ cause: error })

const attemptsMade = Metric.counter("strata_spool_attempts", {
  description: "Attempts to handle a message, by what came of it",
  incremental: true
})

/** The part of a queue's definition that handling needs. */
export interface Queue {
  readonly name: string
  readonly policies: Readonly<Record<string, Policy>>
  readonly onSuccess: "delete" | "archive"
  readonly onBounce: "keep" | "archive" | "delete"
}

/** How the messages of one run are handled. */
export interface Handlers<A, E, RD, R, R2> {
  readonly decode: (payload: unknown) => Effect.Effect<A, unknown, RD>
  readonly handler: (payload: A, message: SpoolMessage) => Effect.Effect<unknown, E, R>
  readonly bounced: ((message: SpoolMessage, reason: string) => Effect.Effect<unknown, unknown, R2>) | undefined
  readonly transactional: boolean
}

/** Finds policies by their names. One that is not known is warned of once, and the default takes its place. */
export const policyFinder = ({ name, policies }: Queue) => {
  const unknownPolicies = new Set<string>()
  const fallback = policies["default"] ?? backoff()
  return (policy: string) =>
    Effect.suspend(() => {
      if (policy === "" || policy === "default") return Effect.succeed(fallback)
      const found = Object.hasOwn(policies, policy) ? policies[policy] : undefined
      if (found !== undefined) return Effect.succeed(found)
      const known = unknownPolicies.has(policy)
      unknownPolicies.add(policy)
      return Effect.as(
        known
          ? Effect.void
          : Effect.logWarning(`queue "${name}" has no policy "${policy}": its messages use the default`),
        fallback
      )
    })
}

export const make = <A, E, RD, R, R2>(
  { name, onBounce, onSuccess, policyOf }: Queue & { readonly policyOf: ReturnType<typeof policyFinder> },
  { bounced, decode, handler, transactional }: Handlers<A, E, RD, R, R2>
): Effect.Effect<Handling<RD | R | R2>, never, SpoolStore | Transactor> =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore
    const { withTransaction } = yield* Transactor
    const counters = new Map<string, Metric.Metric<number, unknown>>()
    const count = (outcome: string) => {
      let counter = counters.get(outcome)
      if (counter === undefined) {
        counter = Metric.withAttributes(attemptsMade, { queue: name, outcome })
        counters.set(outcome, counter)
      }
      return Metric.update(counter, 1)
    }

    const delivered = (lease: typeof Lease.Type): Outcome =>
      onSuccess === "archive" ? { outcome: "archived", ...lease } : { outcome: "done", ...lease }

    const undeliverable = (lease: typeof Lease.Type, error: string): Outcome => {
      switch (onBounce) {
        case "keep":
          return { outcome: "bounced", ...lease, error }
        case "archive":
          return { outcome: "archived", ...lease, error }
        case "delete":
          return { outcome: "done", ...lease }
      }
    }

    /** Settles in the caller's transaction, which fails if the lease is lost. */
    const settleHere = (outcome: Outcome) =>
      Effect.flatMap(spool.settle([outcome]), ([lost]) => (lost === undefined ? Effect.void : Effect.fail(lost)))

    const onBounced = (message: SpoolMessage, reason: string) =>
      bounced === undefined
        ? Effect.void
        : bounced(message, reason).pipe(
            Effect.asVoid,
            Effect.catchCause((cause) =>
              Effect.logError(`the handler of bounced messages of queue "${name}" has failed`, cause)
            )
          )

    const bounce = Effect.fnUntraced(function* (message: SpoolMessage, lease: typeof Lease.Type, reason: string) {
      yield* count("bounced")
      yield* onBounced(message, reason)
      return undeliverable(lease, reason)
    })

    const fail = Effect.fnUntraced(function* (
      message: SpoolMessage,
      lease: typeof Lease.Type,
      cause: Cause.Cause<unknown>
    ) {
      const error = Cause.squash(cause)
      const reason = error instanceof Permanent ? error.message : textOf(error)
      if (error instanceof Permanent || message.attempts >= message.maxAttempts) {
        return yield* bounce(message, lease, reason)
      }
      const delay = yield* Effect.flatMap(policyOf(message.retryPolicyName), (policy) =>
        delayAfter(policy, message.attempts)
      ).pipe(
        Effect.catchCause((cause) =>
          Effect.as(
            Effect.logError(`the policy of message "${message.id}" of queue "${name}" has failed`, cause),
            Option.none()
          )
        )
      )
      if (Option.isNone(delay)) return yield* bounce(message, lease, reason)
      yield* count("failed")
      const outcome: Outcome = { outcome: "deferred", ...lease, delay: delay.value, error: reason }
      return outcome
    })

    /** In a span. Where nobody collects spans, only to pass on the context of the enqueuer's. */
    const handle = (payload: A, message: SpoolMessage) => {
      const { parent } = parentOf(message)
      const handling = Effect.suspend(() => handler(payload, message))
      const spanned = () =>
        Effect.useSpan(
          "Spool.handle",
          {
            ...(parent === undefined ? {} : { parent }),
            kind: "consumer",
            attributes: { queue: name, attempt: message.attempts }
          },
          (span) => Effect.provideService(handling, Tracer.ParentSpan, span)
        )
      return Effect.withFiber((fiber) => (parent === undefined && !isTraced(fiber) ? handling : spanned()))
    }

    const attempt = Effect.fnUntraced(function* (message: SpoolMessage, lease: typeof Lease.Type) {
      if (message.attempts > message.maxAttempts) {
        return yield* bounce(message, lease, message.lastError || "it has had all its attempts")
      }
      const payload = yield* Effect.exit(decode(message.payload))
      if (Exit.isFailure(payload)) {
        return yield* bounce(message, lease, `the payload does not fit: ${textOf(Cause.squash(payload.cause))}`)
      }
      const handled = handle(payload.value, message)
      const exit = yield* Effect.exit(
        transactional ? withTransaction(Effect.andThen(handled, settleHere(delivered(lease)))) : handled
      )
      if (Exit.isFailure(exit)) return yield* fail(message, lease, exit.cause)
      yield* count("delivered")
      return transactional ? undefined : delivered(lease)
    })

    // What bounces because its last worker has died: in one transaction, so that nobody forgets to tell of it.
    const recover = withTransaction(
      Effect.gen(function* () {
        const recovered = yield* spool.recover({ queue: name })
        for (const message of recovered) {
          if (message.state !== "bounce") continue
          yield* count("bounced")
          // A savepoint: a failure of the application's SQL ends no more than that.
          yield* Effect.catch(withTransaction(onBounced(message, message.lastError)), (error) =>
            Effect.logError(error.message)
          )
          // Unless the handler has seen to it: requeued it, or deleted it.
          const dispose = Effect.gen(function* () {
            if (onBounce === "archive") yield* spool.moveToState(message.id, "bounce", "archived")
            if (onBounce === "delete") {
              // Only if it is one still.
              yield* spool.moveToState(message.id, "bounce", "bounce")
              yield* spool.deleteMeta(message.id)
            }
          })
          yield* Effect.catchTag(dispose, ["MessageNotFound", "StateConflict"], () => Effect.void)
        }
        return recovered.length
      })
    )

    return { attempt, recover }
  })
