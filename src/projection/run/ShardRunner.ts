/**
 * One shard of a projection: its batches, each with its offset in one transaction, and what happens to events that fail.
 *
 * **Details**
 *
 * A transaction first moves the offset, which is the fence: whoever is not where the offset is fails there, and whoever
 * wants it next waits for the end of the transaction. Then it sees whether the projection is still to be run as it was
 * when the shard began, then it handles the events.
 */
import { Cause, Clock, Effect, Exit, Option, Schedule } from "effect"
import { DurableStateStore, type State } from "../../DurableStateStore.ts"
import type { StoredEvent } from "../../EventStore.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { StoreError } from "../../StoreError.ts"
import { Transactor } from "../../Transactor.ts"
import { type HandlerFailed, Outdated, type Projection, ProjectionFailed, type Settings } from "../Definition.ts"
import { type Control, controlId, type ShardRecord } from "../Records.ts"
import * as Failures from "./Failures.ts"
import type { Feed } from "./Feed.ts"
import * as Metrics from "./Metrics.ts"
import * as ParkedRetry from "./ParkedRetry.ts"

/**
 * The least time between two moves of an offset past events that do not concern the shard, in milliseconds: longer where
 * there are so many shards that their moves would be a load.
 */
const paceOf = (shards: number): number => Math.max(100, 10 * shards)

/** Between two attempts at what a concurrent transaction was in the way of. */
const contention = Schedule.min([Schedule.exponential("10 millis"), Schedule.spaced("2 seconds")]).pipe(
  Schedule.jittered
)

/** It would not have happened without the others: the same again may succeed, and it is certain that nothing was stored. */
const isContention = (error: unknown): boolean =>
  error instanceof StoreError && (error.reason._tag === "Contention" || error.reason._tag === "Timeout")

const parkedIn = ({ parked }: ShardRecord): ReadonlySet<string> => new Set(parked.map(({ aggregateId }) => aggregateId))

/** Part of a batch: when it has been handled, the offset is moved up to there. */
interface Part {
  readonly events: ReadonlyArray<StoredEvent>
  readonly upTo: bigint
}

/** The parts to try one after the other, where the whole has failed. */
const split = ({ events, upTo }: Part, failed: number | undefined): ReadonlyArray<Part> => {
  // Where it is not known which event has failed, it is in one half or the other.
  const cuts = failed === undefined ? [events.length >> 1] : [failed, failed + 1]
  return [0, ...cuts].flatMap((start, index) => {
    const part = events.slice(start, cuts[index])
    const last = part.at(-1)
    if (last === undefined) return []
    return [{ events: part, upTo: cuts[index] === undefined || cuts[index] === events.length ? upTo : last.version }]
  })
}

/** Runs the shard for ever, from the offset on. */
export const run = Effect.fnUntraced(function* <R>(
  { handle, retry }: Pick<Projection<R>, "handle" | "retry">,
  settings: Settings,
  shard: number,
  start: { readonly offset: bigint; readonly control: State<Control> },
  feed: Feed
) {
  const { batchSize, name, onFailure, shards } = settings
  const offsets = yield* OffsetStore
  const states = yield* DurableStateStore
  const { withTransaction } = yield* Transactor
  const failures = yield* Failures.make(name, shard)
  const observed = Metrics.make(name, shard)
  const id = { projectionName: name, shardNumber: shard }
  const { slot } = start.control.value
  let offset = start.offset
  let parked: ReadonlySet<string> = new Set()
  let movedAt = Number.NEGATIVE_INFINITY

  const unchanged = Effect.flatMap(states.getLatestState(controlId(name)), (stored) =>
    Option.exists(stored, ({ versionNumber }) => versionNumber === start.control.versionNumber)
      ? Effect.void
      : Effect.fail(new Outdated())
  )

  const move = (to: bigint) =>
    Effect.catchTag(offsets.advanceOffset(id, { from: Option.some(offset), to }), "OffsetConflict", () =>
      Effect.fail(new Outdated())
    )

  const moved = Effect.fnUntraced(function* (to: bigint) {
    offset = to
    movedAt = yield* monotonicMillis
  })

  /** The events and the offset, or nothing. */
  const transaction = <A, E, R2>(
    to: bigint,
    body: Effect.Effect<A, E, R2>
  ): Effect.Effect<A, E | Outdated | InvalidInput | StoreError, R2> =>
    withTransaction(move(to).pipe(Effect.andThen(unchanged), Effect.andThen(body))).pipe(
      Effect.retry({ schedule: contention, while: (error) => isContention(error) }),
      Effect.tap(() => moved(to))
    )

  /** Handles the events, or says why not: then nothing has happened. */
  const attempt = ({ events, upTo }: Part) =>
    transaction(upTo, handle(events, slot)).pipe(
      Effect.as(undefined),
      Effect.catchTag("HandlerFailed", (failure) => Effect.as(observed.failed, failure)),
      observed.batch(events)
    )

  /**
   * The last attempt, in the transaction that records its failure: so that a failure that only comes of a lost connection
   * is never recorded as one of the event.
   */
  const giveUp = ({ upTo }: Part, event: StoredEvent, policy: "skip" | "park") =>
    transaction(
      upTo,
      Effect.gen(function* () {
        const exit = yield* Effect.exit(withTransaction(handle([event], slot)))
        if (Exit.isSuccess(exit)) return parked
        const failure = yield* failures.describe(event, exit.cause)
        return parkedIn(yield* failures.record(failure, policy))
      })
    ).pipe(
      Effect.map((now) => {
        parked = now
      })
    )

  /** One event that has failed, by itself. */
  const insist = Effect.fnUntraced(function* (part: Part, event: StoredEvent, first: HandlerFailed) {
    const next = yield* Schedule.toStep(retry)
    let failed = first
    let attempts = 1
    while (true) {
      yield* failures.report(yield* failures.describe(event, failed.cause))
      const step = yield* Effect.exit(next(yield* Clock.currentTimeMillis, failed.cause))
      if (Exit.isFailure(step)) break
      yield* Effect.sleep(step.value[1])
      const again = yield* attempt(part)
      if (again === undefined) return
      failed = again
      attempts++
    }
    if (onFailure !== "stop") return yield* giveUp(part, event, onFailure)
    const { aggregateId, eventType, id: eventId, version } = event
    return yield* new ProjectionFailed({
      projectionName: name,
      shardNumber: shard,
      version,
      eventId,
      aggregateId,
      eventType,
      attempts,
      cause: Cause.squash(failed.cause)
    })
  })

  const handleAll = Effect.fnUntraced(function* (batch: Part) {
    const parts = [batch]
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
      const events = part.events.filter(({ aggregateId }) => !parked.has(aggregateId))
      const current = { events, upTo: part.upTo }
      const [event] = events
      if (event === undefined) {
        yield* transaction(part.upTo, Effect.void)
        continue
      }
      const failed = yield* attempt(current)
      if (failed === undefined) continue
      if (events.length === 1) yield* insist(current, event, failed)
      else parts.unshift(...split(current, failed.index))
    }
  })

  const held = <A, E, R2>(body: Effect.Effect<A, E, R2>) => transaction(start.offset, body)
  parked = parkedIn(yield* ParkedRetry.serve({ settings, shard, slot, offset, handle, failures, held }))
  while (true) {
    yield* feed.untilBeyond(offset)
    const { events, upTo } = feed.take(batchSize)
    if (events.length > 0) {
      yield* handleAll({ events, upTo })
      continue
    }
    // Nothing for this shard: its offset follows the log, at once if it has rested, but not with every event.
    const wait = movedAt + paceOf(shards) - (yield* monotonicMillis)
    if (wait > 0) yield* Effect.timeoutOption(feed.untilEvent, wait)
    if (feed.isEmpty) yield* Effect.andThen(move(feed.upTo), moved(feed.upTo))
  }
})
