/** How far a projection has come, and how to wait for it. */
import { Duration, Effect, Option, Schedule, Schema, Stream } from "effect"
import { type Cursor, EventStore, Version } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { named } from "../../internal/Named.ts"
import { isTransient, transientDelays } from "../../internal/Transient.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import type { StoreError } from "../../StoreError.ts"
import { compare } from "../Agreement.ts"
import { At, ByName } from "../Definition.ts"
import { AwaitTimeout } from "../Errors.ts"
import { controlOf, records } from "../Records.ts"
import { isRunning } from "../Running.ts"

/** Waits for a database that cannot be used, as a run of the projection does. */
export const untilDatabaseAnswers = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.retry(effect, { schedule: transientDelays, while: isTransient })

/** The longest time between two looks at offsets, for changes that no wake-up has told of. */
const longestWait = Duration.seconds(1)

/** Emits whenever offsets may have moved, in any process: at a wake-up, and each second. */
export const offsetsMoved = Stream.unwrap(
  OffsetStore.use((offsets) => Effect.succeed(Stream.merge(offsets.changes, Stream.tick(longestWait))))
)

/** The same, but the stream waits for a database that cannot be used. */
export const offsetsMovedForever = Stream.unwrap(
  OffsetStore.use(({ changes }) => {
    const retried = Stream.retry(
      changes,
      Schedule.while(transientDelays, ({ input }) => isTransient(input))
    )
    return Effect.succeed(Stream.merge(retried, Stream.tick(longestWait)))
  })
)

/** The time from a wake-up to the look at the offsets, and so the least time between two steps of a progress. */
export const delayBeforeLook = Duration.millis(100)

/** The offset of the slowest shard, if there is one. */
const lowestOffset = (name: string) =>
  OffsetStore.use((offsets) =>
    Effect.map(Stream.runCollect(offsets.listOffsets(name)), (all) =>
      Option.fromUndefinedOr(
        all.reduce<bigint | undefined>((low, { value }) => (low === undefined || value < low ? value : low), undefined)
      )
    )
  )

/** The event before which a shard has stopped that is not at the version yet: the projection does not get there by itself. */
const stoppedBefore = Effect.fnUntraced(function* (name: string, version: bigint) {
  // A run that has just begun takes back what an earlier one has left. If it stops, too, it says so then. One that was only
  // just forked begins now.
  yield* Effect.yieldNow
  if (yield* isRunning(name)) return undefined
  const offsets = yield* OffsetStore
  const { stops } = yield* records
  const all = yield* Stream.runCollect(offsets.listOffsets(name))
  const behind = new Map(
    all.flatMap(({ shardNumber, value }) => (value < version ? [[shardNumber, value] as const] : []))
  )
  const found = yield* stops(name, [...behind.keys()])
  // An offset that was moved past the event by hand goes on.
  return found.find((stop) => stop.version <= version && stop.version > (behind.get(stop.shardNumber) ?? version))
})

/**
 * Waits until the projection has handled every event up to this version, or up to this event, in whichever process: what is
 * read from its read model after that contains them.
 *
 * **Details**
 *
 * A wake-up follows each move of an offset, in any process; a look each second finds a move without one. `awaitVersion`
 * also waits for a version that is not there yet, and for a projection that has not run yet. Events that were skipped or
 * parked count as handled. With a stored event, or `{ version, id }`, it fails with `LogReplaced` where the log has lost that
 * event: no read model will ever contain it. Where the projection has stopped before an event on the way, it fails with
 * `ProjectionFailed` at once, as the run has: its `cause` is the error of the handler, in words.
 */
export const awaitVersion = Effect.fnUntraced(
  function* (name: string, event: bigint | Cursor, timeout: Duration.Input) {
    const { id, version } = typeof event === "bigint" ? { version: event, id: undefined } : event
    yield* check(At, "Projection", "awaitVersion", { name, version })
    const isThere = id === undefined ? Effect.void : compare({ version, id })
    yield* isThere
    const handled = offsetsMoved.pipe(
      Stream.mapEffect(() => lowestOffset(name)),
      Stream.filter(Option.exists((at) => at >= version)),
      Stream.take(1),
      Stream.runDrain
    )
    // No wake-up tells of a stop. The first look comes at once, and each takes one statement.
    const stopped = Stream.tick(longestWait).pipe(
      Stream.mapEffect(() => stoppedBefore(name, version)),
      Stream.mapEffect((stop) => (stop === undefined ? Effect.void : Effect.fail(stop))),
      Stream.runDrain,
      Effect.andThen(Effect.never)
    )
    const done = yield* Effect.timeoutOption(Effect.raceFirst(handled, stopped), timeout)
    yield* isThere
    if (Option.isNone(done)) {
      return yield* new AwaitTimeout({ projectionName: name, version, reached: yield* lowestOffset(name) })
    }
  },
  Effect.mapError(named("Projection", "awaitVersion"))
)

/** How far a projection has come on its way to the version that was the last one when it was asked for. */
export class Progress extends Schema.Class<Progress>("effect-strata/Projection/Progress")({
  /** The version that every shard has passed. */
  done: Version,
  total: Version,
  /** How many versions in a second it has passed since then. */
  rate: Schema.Finite,
  /** The time that is left at that rate; none where nothing has moved yet. */
  remaining: Schema.Option(Schema.Duration)
}) {}

/** The progress from one version to another, after so many milliseconds. */
const progressOf = (range: { readonly from: bigint; readonly to: bigint }, at: bigint, elapsed: number): Progress => {
  const { from, to: total } = range
  const rate = elapsed === 0 ? 0 : Number(at - from) / (elapsed / 1000)
  const done = at < total ? at : total
  const left = Number(total - done)
  const isKnown = left === 0 || rate > 0
  const remaining = isKnown ? Option.some(Duration.seconds(left === 0 ? 0 : left / rate)) : Option.none()
  return new Progress({ done, total, rate, remaining })
}

/** The progress of a projection to this version. It ends when all shards have passed it, or when there is no shard any more. */
export const progressTo = (
  name: string,
  total: bigint
): Stream.Stream<Progress, InvalidInput | StoreError, OffsetStore> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const offset = untilDatabaseAnswers(
        Effect.map(
          lowestOffset(name),
          Option.getOrElse(() => total)
        )
      )
      const range = { from: yield* offset, to: total }
      const began = yield* monotonicMillis
      const look = Effect.gen(function* () {
        return progressOf(range, yield* offset, (yield* monotonicMillis) - began)
      })
      return offsetsMovedForever.pipe(
        Stream.mapEffect(() => Effect.delay(look, delayBeforeLook)),
        Stream.changesWith((a, b) => a.done === b.done),
        Stream.takeUntil(({ done }) => done >= total)
      )
    })
  )

/** How far the projection is on its way to the event that is the last one now. It ends there. */
export const progress = (name: string) =>
  Stream.unwrap(
    Effect.gen(function* () {
      yield* check(ByName, "Projection", "progress", { name })
      yield* untilDatabaseAnswers(controlOf(name))
      return progressTo(name, yield* untilDatabaseAnswers((yield* EventStore).latestVersion))
    })
  ).pipe(Stream.mapError(named("Projection", "progress")))
