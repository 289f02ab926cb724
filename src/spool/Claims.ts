/**
 * When a worker claims messages, and how many: whenever a wake-up, a due time or the worker's own room says that a claim can
 * bring some, and once a minute where nothing does. An idle worker asks the store at most twice a minute, unless the store has
 * no other way to wake it.
 */
import { Duration, Effect, Latch, Metric, Option, Stream } from "effect"
import { monotonicMillis } from "../internal/Monotonic.ts"
import * as Telemetry from "../internal/Telemetry.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import { type SpoolMessage, SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import type { Dispatch } from "./Dispatch.ts"
import type { UntilStoreAnswers } from "./StoreRetry.ts"

/** The longest time between two looks into the store, for messages that no wake-up has told of. */
const longestWait = Duration.minutes(1)

/** After a claim: how long to wait for the next wake-up before the store is asked when a message will be ready. */
const waitBeforeAsking = Duration.millis(50)

/** How long to leave messages alone that are ready and cannot be claimed: other transactions hold them. */
const waitForOthers = Duration.seconds(1)

/** A due time of the store is finer than a millisecond: a claim after exactly so many milliseconds could come too early. */
const rounding = Duration.millis(1)

const claimLatency = Telemetry.timer("strata_spool_claim_latency")

/** For how long a message that was just claimed had been ready, by the store's clock. */
const readyFor = ({ attempts, created, nextRetry, updated }: SpoolMessage): Duration.Duration => {
  const since = attempts > 1 ? nextRetry : created
  return Duration.millis(Math.max(0, updated.epochMilliseconds - since.epochMilliseconds))
}

export interface Settings {
  readonly queue: string
  readonly lease: Duration.Duration
  /** A name that no other worker has. */
  readonly name: string
}

/** Claims messages for ever, and hands them to `dispatch`. Claims of dead workers are recovered once in the time of a lease. */
export const claimForever = <R>(
  { lease, name, queue }: Settings,
  dispatch: Dispatch,
  recover: Effect.Effect<number, InvalidInput | StoreError, R>,
  untilStoreAnswers: UntilStoreAnswers
): Effect.Effect<never, InvalidInput | StoreError, SpoolStore | R> =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore
    // Straight to the metric, without an effect for each message.
    const metrics = yield* Effect.context<never>()
    const latency = Metric.withAttributes(claimLatency, { queue })
    /** Open when a message may have become ready. */
    const wakeUps = Latch.makeUnsafe(true)
    let claims = 0
    let recoveredAt = Number.NEGATIVE_INFINITY

    const recoverNow = Effect.gen(function* () {
      recoveredAt = yield* monotonicMillis
      return yield* untilStoreAnswers(recover)
    })

    /** Claims as much as there is room for, and returns how much that was and whether there may be more. */
    const claim = Effect.gen(function* () {
      const limit = dispatch.capacity
      const owner = `${name}/${++claims}`
      // Half of the claim is for incoming messages; of claims for one message, every other claim is.
      const reserved = (limit + (claims % 2)) >> 1
      const messages = yield* untilStoreAnswers(spool.claim({ queue, limit, lease, owner, reserved }))
      for (const message of messages) latency.updateUnsafe(readyFor(message), metrics)
      dispatch.add(messages, owner)
      return { claimed: messages.length, isMore: messages.length === limit }
    })

    /** Waits until a claim may bring a message. */
    const untilReady = Effect.gen(function* () {
      while (true) {
        const ready = yield* untilStoreAnswers(spool.untilReady(queue))
        const wait = Option.getOrElse(ready, () => longestWait)
        if (Duration.isZero(wait)) {
          if ((yield* recoverNow) === 0) yield* Effect.timeoutOption(wakeUps.await, waitForOthers)
          return
        }
        const isDue = Duration.isLessThan(wait, longestWait)
        const woken = yield* Effect.timeoutOption(wakeUps.await, isDue ? Duration.sum(wait, rounding) : longestWait)
        if (Option.isSome(woken) || isDue) return
      }
    })

    const round = Effect.gen(function* () {
      yield* dispatch.room.await
      // The latch closes before the claim: a wake-up that comes while the claim is under way asks for the next one.
      wakeUps.closeUnsafe()
      if ((yield* monotonicMillis) - recoveredAt >= Duration.toMillis(lease)) yield* recoverNow
      const { claimed, isMore } = yield* claim
      if (isMore) return
      const woken = claimed === 0 ? Option.none() : yield* Effect.timeoutOption(wakeUps.await, waitBeforeAsking)
      if (Option.isNone(woken)) yield* untilReady
    })

    const listen = Stream.runForEach(spool.changes, () => Effect.sync(() => wakeUps.openUnsafe())).pipe(
      Effect.catch((error) =>
        Effect.logWarning(
          `queue "${queue}" hears of no new messages: ${error.message}; it looks for them once a minute`
        )
      ),
      Effect.andThen(Effect.never)
    )

    return yield* Effect.raceFirst(Effect.forever(round), listen)
  })
