/**
 * The engine of a worker: claims messages as there is room for them, has them handled, and settles them in batches, while it
 * renews their leases.
 */
import {
  Deferred,
  Duration,
  Effect,
  Exit,
  type Fiber,
  FiberSet,
  Latch,
  Metric,
  Option,
  Schedule,
  type Scope,
  Stream
} from "effect"
import { monotonicMillis } from "../internal/Monotonic.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import { type Lease, type Outcome, type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"

/** The longest time between two looks into the store, for messages that nothing has told of. */
const poll = Duration.minutes(1)

/** How long to wait for the next message to be told of before asking the store when there will be one. */
const lull = Duration.millis(50)

/** How long to leave alone what is ready and cannot be had: other transactions hold it. */
const pause = Duration.seconds(1)

/** How many messages are settled in one statement. */
const batch = 1000

const claimLatency = Metric.timer("strata_spool_claim_latency", {
  description: "How long messages were ready before they were claimed, by the store's clock"
})
const leasesLost = Metric.counter("strata_spool_leases_lost", {
  description: "Claimed messages that somebody else has moved or recovered",
  incremental: true
})

export interface Settings {
  readonly queue: string
  /** How many messages are handled at a time. */
  readonly concurrency: number
  /** How many more are claimed ahead. */
  readonly buffer: number
  readonly lease: Duration.Duration
  /** How long handlers may take to finish after the worker has been told to stop. */
  readonly shutdownTimeout: Duration.Duration
  /** A name that no other worker has. */
  readonly name: string
}

/** A message that is claimed and not settled. */
interface Held {
  readonly lease: typeof Lease.Type
  readonly message: SpoolMessage
  fiber: Fiber.Fiber<unknown> | undefined
  /** What is to become of it, once that is known. */
  outcome: Outcome | undefined
  lost: boolean
}

export interface Handling<R> {
  /** Handles a message, and says what becomes of it: nothing if that is settled already. */
  readonly attempt: (message: SpoolMessage, lease: typeof Lease.Type) => Effect.Effect<Outcome | undefined, never, R>
  /** Gives up claims of workers that are no more, and returns how many. */
  readonly recover: Effect.Effect<number, InvalidInput | StoreError, R>
}

type Failure = InvalidInput | StoreError

const isRetryable = (error: Failure) => error._tag === "StoreError" && error.isRetryable

const backOff = Schedule.jittered(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("5 seconds")]))

/** Tries until it works, or cannot work. */
const persistent = <A, R>(effect: Effect.Effect<A, Failure, R>): Effect.Effect<A, Failure, R> =>
  effect.pipe(
    Effect.tapError((error) =>
      isRetryable(error) ? Effect.logWarning(`${error.message}; trying again`) : Effect.void
    ),
    Effect.retry({ schedule: backOff, while: isRetryable })
  )

/** Works until it is interrupted; then it finishes or releases what it holds. */
export const run = <R>(
  settings: Settings,
  { attempt, recover }: Handling<R>
): Effect.Effect<never, Failure, SpoolStore | R> =>
  Effect.scoped(
    Effect.gen(function* (): Effect.fn.Return<never, Failure, SpoolStore | R | Scope.Scope> {
      const { buffer, concurrency, lease, name, queue, shutdownTimeout } = settings
      const spool = yield* SpoolStore
      const fork = yield* FiberSet.makeRuntime<R>()
      const attributes = { queue }
      // Straight to the metric, without an effect for each message.
      const metrics = yield* Effect.context<never>()
      const latency = Metric.withAttributes(claimLatency, attributes)
      const lostLeases = Metric.withAttributes(leasesLost, attributes)

      /** Everything that is claimed and not settled, by its id. */
      const held = new Map<string, Held>()
      /** What has not begun. */
      const waiting: Array<Held> = []
      /** What is to be settled: one outcome for each id. */
      const outcomes = new Set<Outcome>()
      let running = 0
      let stopping = false
      /** Open when something may have become ready. */
      const news = yield* Latch.make(true)
      /** Open when there is room for another claim. */
      const room = yield* Latch.make(true)
      /** Open when something is to be settled. */
      const unsettled = yield* Latch.make()
      /** Open when nothing is being handled. */
      const quiet = yield* Latch.make(true)

      // Half of the buffer at a time: batches are what makes claims cheap.
      const hasRoom = () => waiting.length <= buffer / 2 && running + waiting.length < concurrency + buffer

      const settle = (one: Held, outcome: Outcome) => {
        one.outcome = outcome
        outcomes.add(outcome)
        unsettled.openUnsafe()
      }

      const forget = (one: Held) => {
        if (held.get(one.lease.id) === one) held.delete(one.lease.id)
      }

      let beginning = false
      const begin = () => {
        // A handler that ends at once comes back here: the loop below goes on with the next one.
        if (beginning) return
        beginning = true
        const take = () => (stopping || running === concurrency ? undefined : waiting.shift())
        for (let next = take(); next !== undefined; next = take()) {
          running++
          quiet.closeUnsafe()
          const one = next
          const fiber = fork(attempt(one.message, one.lease))
          one.fiber = fiber
          // Not in the fiber itself: one that is interrupted before its first step does not come to its own end.
          fiber.addObserver((exit) => end(one, exit))
        }
        beginning = false
        if (hasRoom()) room.openUnsafe()
        else room.closeUnsafe()
      }

      const end = (one: Held, exit: Exit.Exit<Outcome | undefined>) => {
        running--
        // Nothing interrupts a handler but the loss of its lease and the end of the worker.
        const outcome: Outcome | undefined = Exit.isSuccess(exit) ? exit.value : { outcome: "released", ...one.lease }
        if (outcome === undefined || one.lost) forget(one)
        else settle(one, outcome)
        begin()
        // Last, as whoever waits for it goes on at once.
        if (running === 0) quiet.openUnsafe()
      }

      // Leases

      const warn = ({ id }: { readonly id: string }) =>
        Effect.andThen(
          Metric.update(lostLeases, 1),
          Effect.logWarning(
            `message "${id}" of queue "${queue}" is no longer ours: somebody has moved it, or its lease ran out`
          )
        )

      /** Stops handling what somebody else may handle. */
      const drop = (one: Held) => {
        one.lost = true
        const place = waiting.indexOf(one)
        if (place !== -1) waiting.splice(place, 1)
        if (one.outcome !== undefined) outcomes.delete(one.outcome)
        forget(one)
        one.fiber?.interruptUnsafe()
      }

      /** Gives up leases that are lost. What is to be settled is not given up: settling will tell. */
      const lose = (lost: ReadonlyArray<{ readonly id: string; readonly owner: string }>) =>
        Effect.gen(function* () {
          for (const { id, owner } of lost) {
            const one = held.get(id)
            if (one === undefined || one.lease.owner !== owner || one.outcome !== undefined) continue
            drop(one)
            yield* warn(one.lease)
          }
          begin()
        })

      const renew = Effect.gen(function* () {
        let renewed = yield* monotonicMillis
        const interval = Duration.times(lease, 1 / 3)
        while (true) {
          yield* Effect.sleep(interval)
          const now = yield* monotonicMillis
          const mine = [...held.values()].map((one) => one.lease)
          if (mine.length === 0) {
            renewed = now
            continue
          }
          const result = yield* Effect.result(Effect.timeout(spool.heartbeat(mine, lease), interval))
          if (result._tag === "Success") {
            renewed = now
            yield* lose(result.success)
          } else if (now - renewed >= Duration.toMillis(lease)) {
            // By now others may have them, as far as anybody can tell from here.
            yield* lose(mine)
          }
        }
      })

      // Settling

      const settleSome = Effect.gen(function* () {
        const some = [...outcomes].slice(0, batch)
        const lost = yield* persistent(spool.settle(some))
        for (const outcome of some) {
          outcomes.delete(outcome)
          const one = held.get(outcome.id)
          if (one?.outcome === outcome) forget(one)
        }
        // While stopping, what was under way when the worker was interrupted is settled again.
        if (!stopping) yield* Effect.forEach(lost, warn)
      })

      const settleAll = Effect.forever(
        Effect.andThen(
          unsettled.await,
          Effect.suspend(() => {
            unsettled.closeUnsafe()
            return Effect.whileLoop({ while: () => outcomes.size > 0, body: () => settleSome, step: () => {} })
          })
        )
      )

      // Claiming

      let claims = 0
      let recovered = Number.NEGATIVE_INFINITY
      const recoverNow = Effect.gen(function* () {
        recovered = yield* monotonicMillis
        return yield* persistent(recover)
      })

      /** Claims as much as there is room for, and returns whether there may be more. */
      const claim = Effect.gen(function* () {
        const limit = concurrency + buffer - running - waiting.length
        const owner = `${name}/${++claims}`
        // Half of them for incoming messages, and for one message at a time every other claim.
        const reserved = (limit + (claims % 2)) >> 1
        const messages = yield* persistent(spool.claim({ queue, limit, lease, owner, reserved }))
        for (const message of messages) {
          const lease = { id: message.id, owner, attempt: message.attempts }
          const one: Held = { lease, message, fiber: undefined, outcome: undefined, lost: false }
          // We have lost it ourselves, without knowing, and got it again.
          const former = held.get(message.id)
          if (former !== undefined) drop(former)
          held.set(message.id, one)
          waiting.push(one)
          const since = message.attempts > 1 ? message.nextRetry : message.created
          const ready = Math.max(0, message.updated.epochMilliseconds - since.epochMilliseconds)
          latency.updateUnsafe(Duration.millis(ready), metrics)
        }
        begin()
        return { claimed: messages.length, more: messages.length === limit }
      })

      /** Waits until there is something to claim. */
      const idle = Effect.gen(function* () {
        while (true) {
          const ready = yield* persistent(spool.untilReady(queue))
          const wait = Option.getOrElse(ready, () => poll)
          if (Duration.isZero(wait)) {
            if ((yield* recoverNow) === 0) yield* Effect.timeoutOption(news.await, pause)
            return
          }
          const due = Duration.isLessThan(wait, poll)
          // A millisecond more, as the store's times are finer than these.
          const woken = yield* Effect.timeoutOption(news.await, due ? Duration.sum(wait, Duration.millis(1)) : poll)
          if (Option.isSome(woken) || due) return
        }
      })

      const claimAll = Effect.forever(
        Effect.gen(function* () {
          yield* room.await
          news.closeUnsafe()
          if ((yield* monotonicMillis) - recovered >= Duration.toMillis(lease)) yield* recoverNow
          const { claimed, more } = yield* claim
          if (more) return
          const woken = claimed === 0 ? Option.none() : yield* Effect.timeoutOption(news.await, lull)
          if (Option.isNone(woken)) yield* idle
        })
      )

      const listen = Stream.runForEach(spool.changes, () => Effect.sync(() => news.openUnsafe())).pipe(
        Effect.catch((error) => Effect.logWarning(`${error.message}; looking for messages once a minute`)),
        Effect.andThen(Effect.never)
      )

      // Stopping

      const stop = Effect.gen(function* () {
        for (const one of waiting.splice(0)) settle(one, { outcome: "released", ...one.lease })
        yield* Effect.timeoutOption(Effect.raceFirst(quiet.await, renew), shutdownTimeout)
        for (const { fiber } of held.values()) fiber?.interruptUnsafe()
        yield* quiet.await
        while (outcomes.size > 0) yield* settleSome
      })

      yield* Effect.addFinalizer(() =>
        Effect.interruptible(stop).pipe(
          Effect.timeoutOption(Duration.sum(shutdownTimeout, Duration.seconds(5))),
          Effect.catch((error) => Effect.logWarning(`${error.message}; what was claimed is recovered after its lease`))
        )
      )

      const failed = yield* Deferred.make<never, Failure>()
      yield* Effect.forEach([claimAll, settleAll, renew, listen], (loop) =>
        Effect.forkScoped(Effect.tapCause(loop, (cause) => Deferred.failCause(failed, cause)))
      )
      // First of all, before the loops have ended: nothing more is begun.
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          stopping = true
        })
      )
      return yield* Deferred.await(failed)
    })
  )
