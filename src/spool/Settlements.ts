/**
 * Stores what has become of handled messages, in batches: an outcome is stored until the store answers, and a message keeps
 * its lease until then.
 */
import { Effect, Latch } from "effect"
import type { InvalidInput } from "../InvalidInput.ts"
import { type Outcome, SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import { forget, type Leased, type LeasedMessages, warnOfLoss } from "./Leased.ts"
import { untilStoreAnswers } from "./StoreRetry.ts"

/** How many messages are settled in one statement. */
const batchSize = 1000

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
export const make = (queue: string, messages: LeasedMessages): Effect.Effect<Settlements, never, SpoolStore> =>
  Effect.map(SpoolStore, (spool) => {
    /** One outcome for each id: a message is settled, or lost, before the worker gets it again. */
    const outcomes = new Set<Outcome>()
    const hasOutcomes = Latch.makeUnsafe()
    const warn = warnOfLoss(queue)

    /** Settles a batch, and returns the leases that were lost before. */
    const settleBatch = Effect.gen(function* () {
      const batch = [...outcomes].slice(0, batchSize)
      const lost = yield* untilStoreAnswers(spool.settle(batch))
      for (const outcome of batch) {
        outcomes.delete(outcome)
        const leased = messages.get(outcome.id)
        if (leased?.outcome === outcome) forget(messages, leased)
      }
      return lost
    })

    const settleBatches = <E>(batch: Effect.Effect<unknown, E>): Effect.Effect<void, E> =>
      Effect.whileLoop({ while: () => outcomes.size > 0, body: () => batch, step: () => {} })

    const settleAndWarn = Effect.flatMap(settleBatch, (lost) => Effect.forEach(lost, warn, { discard: true }))

    return {
      add: (leased, outcome) => {
        leased.outcome = outcome
        outcomes.add(outcome)
        hasOutcomes.openUnsafe()
      },
      withdraw: ({ outcome }) => {
        if (outcome !== undefined) outcomes.delete(outcome)
      },
      settleForever: Effect.forever(
        Effect.andThen(
          hasOutcomes.await,
          Effect.suspend(() => {
            hasOutcomes.closeUnsafe()
            return settleBatches(settleAndWarn)
          })
        )
      ),
      // A lost lease is no reason for a warning here: the batch that was interrupted may be stored, and has ended its leases.
      settleRest: settleBatches(settleBatch)
    }
  })
