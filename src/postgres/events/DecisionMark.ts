/**
 * A version up to which the log is settled, for the conditions of decisions: the youngest that could be had without waiting.
 *
 * **Details**
 *
 * Any older mark is as right: a condition names the matches above it one by one. So no decision waits for a younger one. It is
 * looked for beside them, once conditions have become long, or the mark is old. `events/Hole` has the rule. Where a transaction
 * may still fill a hole, the next look asks whether it has ended, instead of waiting for it.
 */
import { Effect, FiberSet } from "effect"
import * as Hole from "../../events/Hole.ts"
import type * as LastSeen from "../../events/LastSeen.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as LockHolders from "./LockHolders.ts"

/** How many versions above the mark conditions may have together before a younger mark is looked for. */
const longEnough = 32

/**
 * How old a mark may be when a decision reads. The check of a condition goes through all events of its tags above the mark, also
 * through those that do not match: where a tag gets 2,000 events a second, that takes it less than 100 us.
 */
const oldestMillis = 20

/** How old it may be where the last looks have found nothing new: each look is two statements. */
const oldestAtRestMillis = 320

export interface DecisionMark {
  readonly version: bigint
  /** The id of the event at the mark. */
  readonly id: string | undefined
  /** The server that has it. Any server has the mark 0. */
  readonly server: string | undefined
}

/** What may become the mark, once its holders have ended. */
interface Candidate {
  readonly id: string | undefined
  readonly state: Hole.Waits
}

/** The mark of any log. */
export const start: DecisionMark = { version: 0n, id: undefined, server: undefined }

/** `atEnd` gives the last event of the log. */
export const make = Effect.fnUntraced(function* (atEnd: Effect.Effect<LastSeen.Seen, Reason>) {
  const { query, withoutTransaction } = yield* PostgresDatabase
  const { look } = yield* LockHolders.make
  // A look is in no transaction: what one has written itself may still be rolled back.
  const fork = yield* withoutTransaction(FiberSet.makeRuntime<never, unknown, never>())
  let mark = start
  let candidate: Candidate | undefined
  let isLooking = false
  let counted = 0
  let lookedAt = Number.NEGATIVE_INFINITY
  let oldest = oldestMillis

  /** Takes the holders of now: the candidate becomes the mark if none is left that may fill a hole below it. */
  const askHolders = Effect.fnUntraced(function* (
    state: Hole.AsksHolders | Hole.Waits,
    id: string | undefined
  ): Effect.fn.Return<void, Reason> {
    const next = Hole.seeHolders(state, yield* look(query))
    candidate = next.ask === "wait" ? { id, state: next } : undefined
    if (next.ask === "page" && next.mark !== undefined) mark = { ...next.mark, id }
  })

  /** The questions in their order: first the end of the log, then the holders. */
  const advance = Effect.gen(function* () {
    if (candidate !== undefined) yield* askHolders(candidate.state, candidate.id)
    if (candidate !== undefined) return
    const { events, server, version } = yield* atEnd
    if (server === undefined) return
    const runs = [{ first: version, last: version }]
    const before = mark.server === server ? mark.version : 0n
    const state = Hole.seePage(Hole.begin(before), { server, runs, isFull: false })
    const id = events.at(-1)?.id
    if (state.ask === "holders") yield* askHolders(state, id)
    else if (state.after > before) mark = { version: state.after, id, server }
  })

  return {
    /** The mark of now. */
    current: (): DecisionMark => mark,

    /** Says how many versions above the mark a condition has. */
    counted: (above: number): void => {
      counted += above
      const now = performance.now()
      if (isLooking || (counted < longEnough && now - lookedAt < oldest)) return
      isLooking = true
      lookedAt = now
      counted = 0
      const before = mark
      fork(
        Effect.ensuring(
          Effect.ignore(advance, { log: "Debug" }),
          Effect.sync(() => {
            isLooking = false
            const isAtRest = mark.version === before.version && candidate === undefined
            oldest = isAtRest ? Math.min(2 * oldest, oldestAtRestMillis) : oldestMillis
          })
        )
      )
    }
  }
})
