/** Runs a projection in this process: as many of its shards as are this process's share. */
import { Effect, Option, Schedule, Stream } from "effect"
import type { State } from "../../DurableStateStore.ts"
import type { StoredEvent } from "../../EventStore.ts"
import { check } from "../../internal/Arguments.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import type { StoreError } from "../../StoreError.ts"
import { Transactor } from "../../Transactor.ts"
import {
  DuplicateProjection,
  isTransient,
  type Projection,
  type ProjectionFailed,
  type Services,
  Settings,
  ShardCountMismatch,
  type Slot,
  type UnknownProjection
} from "../Definition.ts"
import { Control, controlId, controlOf, records } from "../Records.ts"
import { shardOf } from "../Shards.ts"
import * as Feed from "./Feed.ts"
import * as ShardRunner from "./ShardRunner.ts"
import type { Sharing } from "./Sharing.ts"

/** What ends a projection, unless it is interrupted. */
export type RunError =
  | ProjectionFailed
  | ShardCountMismatch
  | DuplicateProjection
  | UnknownProjection
  | InvalidInput
  | StoreError

/** Which projections run on a store of this process. */
const running = new WeakMap<OffsetStore["Service"], Set<string>>()

/** Nobody else in this process runs a projection of this name until the scope is closed. */
const claim = Effect.fnUntraced(function* (name: string) {
  const offsets = yield* OffsetStore
  yield* Effect.acquireRelease(
    Effect.suspend(() => {
      const names = running.get(offsets) ?? new Set()
      if (names.has(name)) return Effect.fail(new DuplicateProjection({ projectionName: name }))
      running.set(offsets, names.add(name))
      return Effect.succeed(names)
    }),
    (names) => Effect.sync(() => names.delete(name))
  )
})

/** Gives a shard an offset, if it has none. */
const begin = (projectionName: string, shardNumber: number) =>
  OffsetStore.use((offsets) =>
    Effect.catchTag(
      offsets.advanceOffset({ projectionName, shardNumber }, { from: Option.none(), to: 0n }),
      "OffsetConflict",
      () => Effect.void
    )
  )

/** A projection keeps to the number of shards that it began with. */
export const expectShards = (projectionName: string, { shards: recorded }: Control, requested: number) =>
  recorded === requested ? Effect.void : Effect.fail(new ShardCountMismatch({ projectionName, recorded, requested }))

/** Records the projection where it has never run, as one that fills this copy of its read model. */
export const register = Effect.fnUntraced(function* ({ name, shards }: Settings, slot: Slot = "blue") {
  const { withTransaction } = yield* Transactor
  const { control } = yield* records
  const { value } = yield* control.read(controlId(name))
  if (value.shards > 0) return yield* expectShards(name, value, shards)
  yield* Effect.gen(function* () {
    for (let shard = 0; shard < shards; shard++) yield* begin(name, shard)
    yield* control.modify(controlId(name), (now) =>
      now.shards === 0
        ? Effect.succeed(new Control({ ...now, shards, slot }))
        : Effect.as(expectShards(name, now, shards), now)
    )
  }).pipe(withTransaction)
})

/** What a runner goes by. */
interface Situation {
  readonly control: State<Control>
  readonly shards: ReadonlyArray<number>
}

const isSame = (a: Situation, b: Situation) =>
  a.control.versionNumber === b.control.versionNumber && a.shards.join() === b.shards.join()

/** Between two looks at what has changed. */
const pace = "50 millis"

/** Between two attempts to reach the database, in milliseconds. */
const shortestPause = 100
const longestPause = 5000

/** For how long a database that cannot be reached is waited for, each time. */
export const patience = Schedule.min([Schedule.exponential(shortestPause), Schedule.spaced(longestPause)]).pipe(
  Schedule.jittered
)

/** Runs the shards that `sharing` gives this process. */
export const runBy =
  (sharing: Sharing) =>
  <R>(projection: Projection<R>): Effect.Effect<never, RunError, R | Services> =>
    Effect.gen(function* () {
      const settings = yield* check(Settings, "Projection", "run", projection.settings)
      const { batchSize, heartbeat, name } = settings
      const offsets = yield* OffsetStore
      yield* claim(name)
      yield* Effect.retry(register(settings), { schedule: patience, while: isTransient })
      const { keep, share } = yield* sharing(settings)

      const look = Effect.all({ control: controlOf(name), shards: share.shards })

      const hints = Stream.mergeAll([offsets.changes, share.changes, Stream.tick(heartbeat)], {
        concurrency: "unbounded"
      })
      const changed = (now: Situation) =>
        hints.pipe(
          Stream.mapEffect(() => Effect.delay(look, pace)),
          Stream.filter((next) => !isSame(now, next)),
          Stream.take(1),
          Stream.runDrain
        )

      const types = settings.eventTypes && new Set(settings.eventTypes)
      const aggregates = settings.aggregateIds && new Set(settings.aggregateIds)
      const shardOfEvent = ({ aggregateId, eventType }: StoredEvent) =>
        (types?.has(eventType) ?? true) && (aggregates?.has(aggregateId) ?? true)
          ? shardOf(aggregateId, settings.shards)
          : undefined

      /** Until something has changed, or fails. */
      const session = Effect.fnUntraced(function* ({ control, shards }: Situation) {
        const stored = yield* Stream.runCollect(offsets.listOffsets(name))
        const places = new Map(stored.map(({ shardNumber, value }) => [shardNumber, value]))
        const starts = new Map(shards.map((shard) => [shard, places.get(shard) ?? 0n]))
        for (const shard of shards) if (!places.has(shard)) yield* begin(name, shard)
        const { feeds, read } = Feed.make(starts, Math.max(2 * batchSize, 1000), shardOfEvent)
        const handling = [...feeds].map(([shard, feed]) =>
          ShardRunner.run(projection, settings, shard, { offset: feed.upTo, control }, feed)
        )
        return yield* Effect.all([read, ...handling], { concurrency: "unbounded", discard: true })
      })

      const round = Effect.gen(function* () {
        const now = yield* look
        const isResting = now.control.value.paused || now.shards.length === 0
        yield* isResting ? changed(now) : Effect.raceFirst(session(now), changed(now))
      })

      let pause = shortestPause
      const rounds = Effect.gen(function* () {
        const began = yield* monotonicMillis
        yield* round.pipe(
          Effect.catchTag("Outdated", () => Effect.delay(share.refresh, pace)),
          Effect.catchIf(
            isTransient,
            Effect.fnUntraced(function* (error) {
              const lasted = (yield* monotonicMillis) - began
              pause = lasted > longestPause ? shortestPause : Math.min(pause * 2, longestPause)
              yield* Effect.logWarning(`projection "${name}" goes on in ${pause} ms: ${error.message}`)
              yield* Effect.sleep(pause)
            })
          )
        )
      })
      return yield* Effect.raceFirst(keep, Effect.forever(rounds))
    }).pipe(
      Effect.scoped,
      // Whoever forks it may never look at its end.
      Effect.tapErrorTag("ProjectionFailed", ({ cause, message }) => Effect.logError(message, cause))
    )
