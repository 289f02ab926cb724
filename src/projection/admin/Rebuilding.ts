/** Builds a read model anew: in its place, or beside the copy that is served. */
import { type Duration, Effect, Option, Stream, Struct } from "effect"
import { EventStore } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { named } from "../../internal/Named.ts"
import { isTransient } from "../../internal/Transient.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { Transactor } from "../../Transactor.ts"
import { ByName, checked, type Projection, type Services, Settings } from "../Definition.ts"
import { RebuildRefused } from "../Errors.ts"
import {
  Control,
  controlId,
  controlOf,
  failureId,
  forget,
  holdAll,
  lastReadId,
  records,
  shardId,
  skippedId
} from "../Records.ts"
import { expectShards, register } from "../Registration.ts"
import { runBy, type RunError } from "../run/ProjectionRunner.ts"
import { otherSlot, type Slot } from "../Slot.ts"
import { change, remove, reset } from "./Operating.ts"
import {
  delayBeforeLook,
  offsetsMoved,
  offsetsMovedForever,
  type Progress,
  progress,
  progressTo,
  untilDatabaseAnswers
} from "./Progress.ts"

/** Which copy of the read model is served: the one to read from. */
export const slot = Effect.fnUntraced(
  function* (name: string) {
    yield* check(ByName, "Projection", "slot", { name })
    return (yield* controlOf(name)).value.slot
  },
  Effect.mapError(named("Projection", "slot"))
)

/** The name under which the other copy is built: `pause`, `resume` and `status` take this name. */
export const rebuildOf = (name: string) => `${name} (rebuild)`

export interface Rebuild<E, R> {
  /** Empties a copy of the read model, in the transaction in which its building begins. */
  readonly clear: (slot: Slot) => Effect.Effect<unknown, E, R>
  /**
   * `"in place"`: the read model is emptied, and the processes that run the projection fill it again. `"beside"`: the process
   * that runs this stream fills the other copy, while the live copy is served and kept up to date; then they are switched.
   */
  readonly mode: "in place" | "beside"
}

/** Gives a shard the records of the other copy's shard: the events that the copy has parked or skipped are now its own. */
const adoptRecords = Effect.fnUntraced(function* (name: string, shadow: string, shard: number) {
  const record = yield* records
  const { value } = yield* record.shard.read(shardId(shadow, shard))
  yield* record.shard.modify(shardId(name, shard), () => value)
  const last = yield* record.lastRead.read(lastReadId(shadow, shard))
  if (last.value.version > 0n) yield* record.lastRead.write(lastReadId(name, shard), last.value.version, last.value)
  const failure = yield* record.failure.read(failureId(shadow, shard))
  yield* record.failure.modify(failureId(name, shard), () => failure.value)
  for (let index = 0; index < value.skipped; index++) {
    const skipped = yield* record.failure.read(skippedId(shadow, shard, index))
    yield* record.failure.modify(skippedId(name, shard, index), () => skipped.value)
  }
})

/**
 * Puts the other copy in the place of the live one, in one transaction, if it has handled every event that the live one has.
 * Returns whether the copies are switched, now or before.
 */
const switchCopies = Effect.fnUntraced(function* (name: string, shadow: string) {
  const offsets = yield* OffsetStore
  const { withWatchedTransaction } = yield* Transactor
  const { control } = yield* records
  return yield* Effect.gen(function* () {
    const live = yield* holdAll(name)
    const built = new Map((yield* holdAll(shadow)).map(({ shardNumber, value }) => [shardNumber, value]))
    const { value: target } = yield* controlOf(shadow)
    if (live.some(({ shardNumber, value }) => (built.get(shardNumber) ?? -1n) < value)) return false
    yield* forget(name, live.length)
    for (const offset of live) {
      const { shardNumber, value: from } = offset
      yield* offsets.advanceOffset(offset, { from: Option.some(from), to: built.get(shardNumber) ?? from })
      yield* adoptRecords(name, shadow, shardNumber)
    }
    yield* control.modify(controlId(name), (current) => new Control({ ...current, slot: target.slot }))
    yield* remove(shadow)
    return true
  }).pipe(
    withWatchedTransaction,
    Effect.catchTag("OffsetConflict", () => Effect.succeed(false)),
    // The database was gone or busy: the next attempt is soon enough.
    Effect.catchIf(isTransient, () => Effect.succeed(false)),
    // Another process has switched them.
    Effect.catchTag("UnknownProjection", () => Effect.succeed(true))
  )
})

const rebuildError = named("Projection", "rebuild")

/** Runs the transaction that empties a copy. A failure of the caller's `clear` keeps its own name. */
const emptying = <E, R, A, E2, R2>(
  clear: Rebuild<E, R>["clear"],
  transaction: (clear: Rebuild<E, R>["clear"]) => Effect.Effect<A, E2, R2>
) =>
  Effect.suspend(() => {
    let own: unknown
    const observed = (slot: Slot) =>
      Effect.tapError(clear(slot), (error) =>
        Effect.sync(() => {
          own = error
        })
      )
    return Effect.mapError(transaction(observed), (error) => (error === own ? error : rebuildError(error)))
  })

/** Begins to build the other copy, unless a rebuild has begun before, here or elsewhere: then it goes on where it was. */
const beginBeside = Effect.fnUntraced(function* <E, R>(
  settings: Settings,
  shadow: Settings,
  clear: Rebuild<E, R>["clear"]
) {
  const { withWatchedTransaction } = yield* Transactor
  const { control } = yield* records
  yield* emptying(clear, (clear) =>
    Effect.gen(function* () {
      // While the offsets are held, no process switches the copies.
      yield* holdAll(settings.name)
      const { value: live } = yield* controlOf(settings.name)
      yield* expectShards(settings.name, live, settings.shards)
      const target = otherSlot(live.slot)
      if ((yield* control.read(controlId(shadow.name))).value.shards > 0) return
      yield* register(shadow, target)
      yield* clear(target)
    }).pipe(withWatchedTransaction)
  ).pipe(untilDatabaseAnswers)
})

/** The other copy is a projection of its own, the shadow, which is removed when it has taken the place of the live copy. */
const beside = Effect.fnUntraced(function* <R, E, R2>(
  projection: Projection<R>,
  settings: Settings,
  clear: Rebuild<E, R2>["clear"]
) {
  const { name } = settings
  const { latestVersion } = yield* EventStore
  const shadow = new Settings({ ...settings, name: rebuildOf(name) })
  yield* beginBeside(settings, shadow, clear)

  const run = runBy()({ ...projection, name: shadow.name, settings: shadow })
  const finish = offsetsMovedForever.pipe(
    Stream.mapEffect(() => Effect.delay(switchCopies(name, shadow.name), delayBeforeLook)),
    Stream.takeUntil((isDone) => isDone),
    Stream.runDrain
  )
  const end = yield* Effect.mapError(untilDatabaseAnswers(latestVersion), rebuildError)
  return Stream.concat(progressTo(shadow.name, end), Stream.drain(Stream.fromEffect(finish))).pipe(
    // The run of the shadow ends when the shadow is removed: the stream goes on, to its own end.
    Stream.interruptWhen(Effect.catchTag(run, "UnknownProjection", () => Effect.never)),
    Stream.mapError(rebuildError)
  )
})

const inPlace = Effect.fnUntraced(function* <E, R>(name: string, clear: Rebuild<E, R>["clear"]) {
  const { withWatchedTransaction } = yield* Transactor
  // The reset comes first, as it holds the offsets: a batch that fills the model holds them before it writes, too.
  const emptied = emptying(clear, (clear) =>
    withWatchedTransaction(Effect.andThen(reset(name), Effect.flatMap(slot(name), clear)))
  )
  yield* untilDatabaseAnswers(emptied)
  return Stream.mapError(progress(name), rebuildError)
})

/**
 * Builds the read model anew, and emits how far it is: the stream ends when the new read model is complete, and served.
 *
 * **Details**
 *
 * In place, the processes that run the projection build it, and go on if this stream is interrupted: `progress` says how far
 * they are. Beside the live copy, the handler is given the other `slot`, in this process and in every other one that runs this
 * stream meanwhile. A rebuild that was interrupted goes on where it was, also in another process. At the end the new copy has
 * handled every event that the live one has, and both `slot` and the offsets change in one transaction: from then on the live
 * projection keeps the new copy up to date. It takes bounded memory, however many events there are. The stream waits while
 * the connection is lost, as `run` does.
 *
 * **Gotchas**
 *
 * Readers must ask for the `slot` each time. The copy that was replaced stays as it is until the next rebuild clears it, so
 * a reader that has just asked still finds it complete.
 */
export const rebuild = <R, E, R2>(
  projection: Projection<R>,
  { clear, mode }: Rebuild<E, R2>
): Stream.Stream<Progress, E | RunError, R | R2 | Services> => {
  const settings = checked(projection, "rebuild")
  return mode === "beside"
    ? Stream.unwrap(Effect.flatMap(settings, (settings) => beside(projection, settings, clear)))
    : Stream.unwrap(Effect.flatMap(settings, ({ name }) => inPlace(name, clear)))
}

/**
 * Asks the processes that run the projection to build its read model anew, in place: one of them empties it with `clear` of the
 * projection, and all go on from the first event. Returns whether one has begun within the time; `progress` says how far they
 * are. If none has, the next one that runs begins. Any process may ask.
 *
 * **Details**
 *
 * It fails with `RebuildRefused` where the projection has no `clear`, or where that fails: then nothing has changed.
 */
export const askRebuild = Effect.fnUntraced(
  function* (name: string, timeout: Duration.Input) {
    yield* check(ByName, "Projection", "askRebuild", { name })
    yield* change(name, (control) =>
      Effect.succeed(new Control({ ...Struct.omit(control, ["rebuildFailure"]), rebuildAsked: true }))
    )
    const answered = offsetsMoved.pipe(
      Stream.mapEffect(() => controlOf(name)),
      Stream.filter(({ value }) => value.rebuildAsked !== true),
      Stream.runHead
    )
    const answer = Option.flatten(yield* Effect.timeoutOption(answered, timeout))
    if (Option.isNone(answer)) return false
    const { rebuildFailure: reason } = answer.value.value
    return reason === undefined ? true : yield* new RebuildRefused({ projectionName: name, reason })
  },
  Effect.mapError(named("Projection", "askRebuild"))
)
