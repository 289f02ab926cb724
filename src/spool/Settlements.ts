/**
 * Stores what has become of handled messages, in batches: an outcome is stored until the store answers, and a message keeps
 * its lease until then. A message that another transaction has locked holds up no other: it is tried again each second.
 */
import { Duration, Effect, Latch } from "effect"
import type { InvalidInput } from "../InvalidInput.ts"
import { type Outcome, SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import { forget, type Leased, type LeasedMessages, warnOfLoss } from "./Leased.ts"
import type { UntilStoreAnswers } from "./StoreRetry.ts"

/** How many messages are settled in one statement. */
const batchSize = 1000

/** How long to leave a message alone that another transaction has locked. */
const waitForLock = Duration.seconds(1)

export interface Settlements {
  /** Decides what becomes of the message: it is settled with the next batch. */
  readonly add: (leased: Leased, outcome: Outcome) => void
  /** Takes back what `add` has decided, unless it is stored already. */
  readonly withdraw: (leased: Leased) => void
  /** Settles the outcomes as they are added, for ever. It logs each lease that turns out to be lost. */
  readonly settleForever: Effect.Effect<never, InvalidInput | StoreError>
  /** Settles the outcomes that are left, after `settleForever` was interrupted. */
  readonly settleRest: Effect.Effect<void, InvalidInput | StoreError>
}

/** The settlements of one worker. Settled messages are removed from those that are leased. */
export const make = (
  queue: string,
  messages: LeasedMessages,
  untilStoreAnswers: UntilStoreAnswers
): Effect.Effect<Settlements, never, SpoolStore> =>
  Effect.map(SpoolStore, (spool) => {
    /** One outcome for each id: a message is settled, or lost, before the worker gets it again. */
    const outcomes = new Set<Outcome>()
    const hasOutcomes = Latch.makeUnsafe()
    /** The outcomes of messages that were locked by other transactions. */
    const locked = new Set<Outcome>()
    const hasLocked = Latch.makeUnsafe()
    const warn = warnOfLoss(queue)

    /** Settles a batch, and returns the leases that were lost before. */
    const settleBatch = Effect.gen(function* () {
      const batch = [...outcomes].slice(0, batchSize)
      const unsettled = yield* untilStoreAnswers(spool.trySettle(batch))
      const lockedIds = new Set(unsettled.locked.map(({ id }) => id))
      for (const outcome of batch) {
        // Withdrawn meanwhile: nothing is to become of it any more.
        if (!outcomes.delete(outcome)) continue
        if (lockedIds.has(outcome.id)) {
          locked.add(outcome)
          hasLocked.openUnsafe()
          continue
        }
        const leased = messages.get(outcome.id)
        if (leased?.outcome === outcome) forget(messages, leased)
      }
      return unsettled.lost
    })

    /** Has the messages tried again that were locked. */
    const tryLockedAgain = Effect.sync(() => {
      for (const outcome of locked) outcomes.add(outcome)
      locked.clear()
      hasLocked.closeUnsafe()
      hasOutcomes.openUnsafe()
    })

    const tryLockedForever = Effect.forever(
      hasLocked.await.pipe(Effect.andThen(Effect.sleep(waitForLock)), Effect.andThen(tryLockedAgain))
    )

    const settleBatches = <E>(batch: Effect.Effect<unknown, E>): Effect.Effect<void, E> =>
      Effect.whileLoop({ while: () => outcomes.size > 0, body: () => batch, step: () => {} })

    const settleAndWarn = Effect.flatMap(settleBatch, (lost) =>
      Effect.forEach(lost, (lease) => warn(lease), { discard: true })
    )

    // A lost lease is no reason for a warning here: the batch that was interrupted may be stored, and has ended its leases.
    const settleRest = Effect.gen(function* () {
      yield* tryLockedAgain
      yield* settleBatches(settleBatch)
      if (locked.size === 0) return
      yield* Effect.sleep(waitForLock)
      yield* tryLockedAgain
      yield* settleBatches(settleBatch)
      if (locked.size === 0) return
      yield* Effect.logWarning(
        `${locked.size} handled messages of queue "${queue}" remain unsettled: other transactions have locked them; ` +
          "they are handled again after their lease"
      )
    })

    return {
      add: (leased, outcome) => {
        leased.outcome = outcome
        outcomes.add(outcome)
        hasOutcomes.openUnsafe()
      },
      withdraw: ({ outcome }) => {
        if (outcome === undefined) return
        outcomes.delete(outcome)
        locked.delete(outcome)
      },
      settleForever: Effect.raceFirst(
        tryLockedForever,
        Effect.forever(
          Effect.andThen(
            hasOutcomes.await,
            Effect.suspend(() => {
              hasOutcomes.closeUnsafe()
              return settleBatches(settleAndWarn)
            })
          )
        )
      ),
      settleRest
    }
  })
