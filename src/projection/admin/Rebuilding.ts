/** A read model anew: in its place, or beside the one that is served. */
import { Duration, Effect, Option, Schedule, Schema, Stream } from "effect"
import { EventStore, Version } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import type { StoreError } from "../../StoreError.ts"
import { Transactor } from "../../Transactor.ts"
import { ByName, isTransient, otherSlot, type Projection, type Services, Settings, type Slot } from "../Definition.ts"
import { Control, controlId, controlOf, failureId, holdAll, records, shardId, skippedId } from "../Records.ts"
import { expectShards, patience, register, runBy, type RunError } from "../run/Running.ts"
import { evenly } from "../run/Sharing.ts"
import { forget, remove, reset } from "./Operating.ts"
import { lowest } from "./Status.ts"

/** How far a projection has come on its way to the version that was the last one when it was asked. */
export class Progress extends Schema.Class<Progress>("effect-strata/Projection/Progress")({
  /** What every shard has passed. */
  done: Version,
  total: Version,
  /** Versions in a second, since it was asked. */
  rate: Schema.Finite,
  /** At that rate; none where nothing has moved yet. */
  remaining: Schema.Option(Schema.Duration)
}) {}

/** How often progress is told, at most. */
const pace = "100 millis"

/** Waits for a database that cannot be reached, as those do who run the projection. */
const persistent = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.retry(effect, { schedule: patience, while: isTransient })

/** Whenever offsets may have moved. */
const hints = Stream.unwrap(
  OffsetStore.use((offsets) =>
    Effect.succeed(
      Stream.merge(
        Stream.retry(
          offsets.changes,
          Schedule.while(patience, ({ input }) => isTransient(input))
        ),
        Stream.tick("1 second")
      )
    )
  )
)

/** Ends when all shards have passed the version, or where there is none any more. */
const follow = (name: string, total: bigint): Stream.Stream<Progress, InvalidInput | StoreError, OffsetStore> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const offsets = yield* OffsetStore
      const place = persistent(
        Effect.map(Stream.runCollect(offsets.listOffsets(name)), (all) => Option.getOrElse(lowest(all), () => total))
      )
      const begin = yield* place
      const began = yield* monotonicMillis
      const look = Effect.gen(function* () {
        const done = yield* place
        const elapsed = ((yield* monotonicMillis) - began) / 1000
        const rate = elapsed === 0 ? 0 : Number(done - begin) / elapsed
        const left = done < total ? Number(total - done) : 0
        const remaining =
          left === 0
            ? Option.some(Duration.zero)
            : rate > 0
              ? Option.some(Duration.seconds(left / rate))
              : Option.none<Duration.Duration>()
        return new Progress({ done: done < total ? done : total, total, rate, remaining })
      })
      return hints.pipe(
        Stream.mapEffect(() => Effect.delay(look, pace)),
        Stream.changesWith((a, b) => a.done === b.done),
        Stream.takeUntil(({ done }) => done >= total)
      )
    })
  )

/** How far the projection is on its way to what is the last version now. It ends there. */
export const progress = (name: string) =>
  Stream.unwrap(
    Effect.gen(function* () {
      yield* check(ByName, "Projection", "progress", { name })
      yield* persistent(controlOf(name))
      return follow(name, yield* persistent((yield* EventStore).latestVersion))
    })
  )

/** Which copy of the read model is served: the one to read from. */
export const slot = Effect.fnUntraced(function* (name: string) {
  yield* check(ByName, "Projection", "slot", { name })
  return (yield* controlOf(name)).value.slot
})

/** The name under which the other copy is built: it can be paused, resumed and asked for its status by that. */
export const rebuildOf = (name: string) => `${name} (rebuild)`

export interface Rebuild<E, R> {
  /** Empties a copy of the read model, in the transaction in which its building begins. */
  readonly clear: (slot: Slot) => Effect.Effect<unknown, E, R>
  /**
   * `"in place"`: the read model is emptied, and filled again by those who run the projection. `"beside"`: the other copy is
   * filled by whoever runs this stream, while the live one is served and kept up to date; then they are switched.
   */
  readonly mode: "in place" | "beside"
}

/** The other copy takes the place of the live one, if it is as far. Says whether it has, now or before. */
const switchOver = Effect.fnUntraced(function* (name: string, shadow: string) {
  const offsets = yield* OffsetStore
  const { withTransaction } = yield* Transactor
  const record = yield* records
  return yield* Effect.gen(function* () {
    const live = yield* holdAll(name)
    const built = new Map((yield* holdAll(shadow)).map(({ shardNumber, value }) => [shardNumber, value]))
    const { value: target } = yield* controlOf(shadow)
    if (live.some(({ shardNumber, value }) => (built.get(shardNumber) ?? -1n) < value)) return false
    yield* forget(name, live.length)
    for (const offset of live) {
      const { shardNumber, value: from } = offset
      yield* offsets.advanceOffset(offset, { from: Option.some(from), to: built.get(shardNumber) ?? from })
      // What the other copy has not handled is now what the projection has not.
      const { value } = yield* record.shard.read(shardId(shadow, shardNumber))
      yield* record.shard.modify(shardId(name, shardNumber), () => value)
      const failure = yield* record.failure.read(failureId(shadow, shardNumber))
      yield* record.failure.modify(failureId(name, shardNumber), () => failure.value)
      for (let index = 0; index < value.skipped; index++) {
        const skipped = yield* record.failure.read(skippedId(shadow, shardNumber, index))
        yield* record.failure.modify(skippedId(name, shardNumber, index), () => skipped.value)
      }
    }
    yield* record.control.modify(controlId(name), (control) => new Control({ ...control, slot: target.slot }))
    yield* remove(shadow)
    return true
  }).pipe(
    withTransaction,
    Effect.catchTag("OffsetConflict", () => Effect.succeed(false)),
    // The next attempt is soon enough.
    Effect.catchIf(isTransient, () => Effect.succeed(false)),
    // Somebody else has done it.
    Effect.catchTag("UnknownProjection", () => Effect.succeed(true))
  )
})

const beside = Effect.fnUntraced(function* <R, E, R2>(
  projection: Projection<R>,
  settings: Settings,
  clear: Rebuild<E, R2>["clear"]
) {
  const { name } = settings
  const { latestVersion } = yield* EventStore
  const { withTransaction } = yield* Transactor
  const record = yield* records
  const shadow = rebuildOf(name)
  const shadowSettings = new Settings({ ...settings, name: shadow })

  // One that has begun before, here or elsewhere, goes on where it was.
  yield* Effect.gen(function* () {
    // Nobody switches the copies meanwhile.
    yield* holdAll(name)
    const { value: live } = yield* controlOf(name)
    yield* expectShards(name, live, settings.shards)
    const target = otherSlot(live.slot)
    if ((yield* record.control.read(controlId(shadow))).value.shards > 0) return
    yield* register(shadowSettings, target)
    yield* clear(target)
  }).pipe(withTransaction, persistent)

  const run = runBy(evenly)({ ...projection, name: shadow, settings: shadowSettings })
  const finish = hints.pipe(
    Stream.mapEffect(() => Effect.delay(switchOver(name, shadow), pace)),
    Stream.takeUntil((isDone) => isDone),
    Stream.runDrain
  )
  return Stream.concat(follow(shadow, yield* persistent(latestVersion)), Stream.drain(Stream.fromEffect(finish))).pipe(
    // It is removed when it has taken the place of the live one.
    Stream.interruptWhen(Effect.catchTag(run, "UnknownProjection", () => Effect.never))
  )
})

const inPlace = Effect.fnUntraced(function* <E, R>(name: string, clear: Rebuild<E, R>["clear"]) {
  const { withTransaction } = yield* Transactor
  // First what holds the offsets: whoever fills the model holds them before it writes.
  yield* persistent(withTransaction(Effect.andThen(reset(name), Effect.flatMap(slot(name), clear))))
  return progress(name)
})

/**
 * Builds the read model anew, and tells how far it is: the stream ends when the new one is complete, and served.
 *
 * **Details**
 *
 * In place, those who run the projection do it, and it goes on if this stream is interrupted: `progress` tells how far it
 * is. Beside the live one, the handler is given the other `slot`, in this process, and in every other one that runs this
 * stream meanwhile. It begins where it was if it has been interrupted, also in another process. At the end the new copy has
 * handled all that the live one has, and both `slot` and the offsets change in one transaction: from then on the live
 * projection keeps the new one up to date. Bounded memory, however many events there are. A connection that is lost is
 * waited for, as by `run`.
 *
 * **Gotchas**
 *
 * Readers ask `slot` each time. The copy that has been replaced stays as it is until the next rebuild clears it, so those
 * who have just asked still find it complete.
 */
export const rebuild = <R, E, R2>(
  projection: Projection<R>,
  { clear, mode }: Rebuild<E, R2>
): Stream.Stream<Progress, E | RunError, R | R2 | Services> => {
  const checked = check(Settings, "Projection", "rebuild", projection.settings)
  return mode === "beside"
    ? Stream.unwrap(Effect.flatMap(checked, (settings) => beside(projection, settings, clear)))
    : Stream.unwrap(Effect.flatMap(checked, ({ name }) => inPlace(name, clear)))
}
