/**
 * The run of a shard: one process that runs one shard, and the transactions in which it moves the shard's offset.
 *
 * **Details**
 *
 * A transaction first moves the offset. That is the fence: a run fails there with `Outdated` if the offset is not where the
 * run has left it, and another run that wants to move it waits for the end of the transaction. Then the transaction checks
 * that the control record is the one with which the run began. Only then events are handled. The backend ends a transaction
 * whose process has stopped, so that other runs do not wait for it for ever.
 */
import { Cause, Effect, Option } from "effect"
import { type DurableState, DurableStateStore, type State } from "../../DurableStateStore.ts"
import type { StoredEvent } from "../../EventStore.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { StoreError } from "../../StoreError.ts"
import { Transactor } from "../../Transactor.ts"
import type { Projection, Settings } from "../Definition.ts"
import { HandlerFailed, Outdated } from "../Errors.ts"
import { type Control, controlId, LastRead, lastReadId, records } from "../Records.ts"
import { shardOfEvent } from "../Shards.ts"
import type { Slot } from "../Slot.ts"
import * as Contention from "./Contention.ts"
import * as FailureRecords from "./FailureRecords.ts"
import type { Batch } from "./Feed.ts"
import * as Metrics from "./Metrics.ts"

/** The least time between two records of what was read, where a shard only passes events of others. */
const millisBetweenRecords = 1000

/** Where a run begins. */
export interface Start {
  readonly offset: bigint
  readonly control: State<Control>
  /** The id of the event with a version that the run moves the offset to, if it is known. */
  readonly idOf: (version: bigint) => string | undefined
  /** Is told where the offset is. */
  readonly onMove: (to: bigint) => void
}

/** Whether a time limit of the backend has ended the transaction. */
export const isTimeout = (error: unknown): error is StoreError =>
  error instanceof StoreError && error.reason._tag === "Timeout"

type RunFailure = Outdated | InvalidInput | StoreError

export interface ShardRun<R> {
  readonly settings: Settings
  readonly shard: number
  /** The copy of the read model that the handler fills. */
  readonly slot: Slot
  readonly failures: FailureRecords.FailureRecords
  readonly handle: (events: ReadonlyArray<StoredEvent>) => Effect.Effect<void, HandlerFailed, R>
  /** The offset of the shard, as this run has left it. */
  readonly offset: () => bigint
  /** When this run last moved the offset, by `monotonicMillis`. */
  readonly movedAt: () => number
  /** Whether the shard handles the event. */
  readonly isOwn: (event: StoredEvent) => boolean
  /** Moves the offset past versions that do not concern the shard. */
  readonly pass: (to: bigint) => Effect.Effect<void, RunFailure>
  /**
   * Moves the offset and runs `body`, both or neither. It is tried again while others are in the way. A time limit that ends
   * the transaction once `body` has begun is a failure of `body`: it would run out again.
   */
  readonly transaction: <A, E, R2>(to: bigint, body: Effect.Effect<A, E, R2>) => Effect.Effect<A, E | RunFailure, R2>
  /** Handles the events of a batch and moves the offset, or returns the failure of the handler: then nothing has happened. */
  readonly attempt: (batch: Batch) => Effect.Effect<HandlerFailed | undefined, RunFailure, R>
}

/** A run that begins at the offset, under the control record. */
export const make = Effect.fnUntraced(function* <R>(
  projection: Pick<Projection<R>, "handle" | "shardBy">,
  settings: Settings,
  shard: number,
  start: Start
) {
  const { name } = settings
  const offsets = yield* OffsetStore
  const states = yield* DurableStateStore
  const { withWatchedTransaction } = yield* Transactor
  const metrics = Metrics.make(name, shard)
  const contention = Contention.make(name, shard)
  const id = { projectionName: name, shardNumber: shard }
  const { lastRead } = yield* records
  const { slot } = start.control.value
  const shardOf = shardOfEvent(settings, projection.shardBy)
  let recordedAt = Number.NEGATIVE_INFINITY
  let offset = start.offset
  let movedAt = Number.NEGATIVE_INFINITY

  /** Fails unless the control record is the one with which the run began. */
  const check = (control: Pick<DurableState, "versionNumber"> | undefined) =>
    control?.versionNumber === start.control.versionNumber ? Effect.void : Effect.fail(new Outdated())

  const move = (to: bigint) =>
    Effect.catchTag(offsets.advanceOffset(id, { from: Option.some(offset), to }), "OffsetConflict", () =>
      Effect.fail(new Outdated())
    )

  const moved = (to: bigint) =>
    Effect.map(monotonicMillis, (now) => {
      offset = to
      movedAt = now
      start.onMove(to)
    })

  /** What is kept of the event with the version of the offset, to be compared with the log when the shard is run again. */
  const lastReadAt = (to: bigint) =>
    Effect.map(monotonicMillis, (now) => {
      recordedAt = now
      const id = start.idOf(to)
      return id === undefined ? undefined : new LastRead({ version: to, id })
    })

  const record = (to: bigint) =>
    Effect.flatMap(lastReadAt(to), (read) =>
      read === undefined ? Effect.void : lastRead.write(lastReadId(name, shard), to, read)
    )

  /** Checks the control record, and keeps what was read last: in one statement. */
  const checkAndRecord = (to: bigint) =>
    Effect.flatMap(lastReadAt(to), (read) =>
      read === undefined
        ? Effect.flatMap(states.getLatestState(controlId(name)), (stored) => check(Option.getOrUndefined(stored)))
        : Effect.flatMap(lastRead.writeAndGet(lastReadId(name, shard), to, read, [controlId(name)]), ([stored]) =>
            check(stored)
          )
    )

  const pass = Effect.fnUntraced(function* (to: bigint) {
    const isRecorded = (yield* monotonicMillis) - recordedAt < millisBetweenRecords
    yield* isRecorded
      ? move(to)
      : withWatchedTransaction(Effect.andThen(move(to), record(to)), { beginsWithStore: true })
    yield* moved(to)
  })

  const handle: ShardRun<R>["handle"] = (events) => projection.handle(events, slot)

  const transaction: ShardRun<R>["transaction"] = (to, body) => {
    let hasBegun = false
    const begun = Effect.suspend(() => {
      hasBegun = true
      return body
    })
    const attempt = Effect.suspend(() => {
      hasBegun = false
      const all = move(to).pipe(Effect.andThen(checkAndRecord(to)), Effect.andThen(begun))
      return withWatchedTransaction(all, { beginsWithStore: true })
    })
    return Effect.tap(
      contention.untilWon(attempt, (error) => isTimeout(error) && !hasBegun),
      () => moved(to)
    )
  }

  const run: ShardRun<R> = {
    settings,
    shard,
    slot,
    failures: yield* FailureRecords.make(name, shard),
    handle,
    isOwn: (event) => shardOf(event) === shard,
    offset: () => offset,
    movedAt: () => movedAt,
    pass,
    transaction,
    attempt: ({ events, upTo }) =>
      transaction(upTo, handle(events)).pipe(
        Effect.as(undefined),
        Effect.catchIf(isTimeout, (error) => Effect.fail(new HandlerFailed(Cause.fail(error), undefined))),
        Effect.catchTag("HandlerFailed", (failure) => Effect.as(metrics.failed, failure)),
        metrics.batch(events)
      )
  }
  return run
})
