/** Runs a projection in this process: the log is read once for the shards that are this process's share. */
import { Cause, Duration, Effect, Option, Stream } from "effect"
import type { State } from "../../DurableStateStore.ts"
import type { LogReplaced } from "../../EventStore.ts"
import { prettyOf } from "../../internal/FailureLog.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { named } from "../../internal/Named.ts"
import { isTransient, makeOutage, transientDelays } from "../../internal/Transient.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import type { StoreError } from "../../StoreError.ts"
import { placesOf } from "../Agreement.ts"
import { checked, type Projection, type Services, type Settings } from "../Definition.ts"
import type { DuplicateProjection, ProjectionFailed, ShardCountMismatch, UnknownProjection } from "../Errors.ts"
import { type Control, controlOf } from "../Records.ts"
import { addShard, register } from "../Registration.ts"
import { runOnce } from "../Running.ts"
import { shardOfEvent } from "../Shards.ts"
import * as AskedRebuild from "./AskedRebuild.ts"
import * as Feed from "./Feed.ts"
import * as Gauges from "./Gauges.ts"
import type { Share, ShardDivision } from "./ShardDivision.ts"
import * as ShardRunner from "./ShardRunner.ts"

/** What ends a projection, unless it is interrupted. */
export type RunError =
  | ProjectionFailed
  | ShardCountMismatch
  | DuplicateProjection
  | UnknownProjection
  | LogReplaced
  | InvalidInput
  | StoreError

/** What a session obeys: the session ends when its assignment has changed. */
interface Assignment {
  readonly control: State<Control>
  readonly shards: ReadonlyArray<number>
}

const isSame = (a: Assignment, b: Assignment) =>
  a.control.versionNumber === b.control.versionNumber && a.shards.join() === b.shards.join()

/** The time from a wake-up to the look at what has changed: wake-ups that come together cost one look. */
const delayBeforeLook = Duration.millis(50)

/** How many batches of events are read ahead for each shard, and how many events at least. */
const batchesAhead = 2
const leastEventsAhead = 1000

/** Where this process has left the offsets, to say so if they are lower although nobody has given an order to move them. */
const makePast = (name: string) => {
  const known = new Map<number, { readonly offset: bigint; readonly control: bigint }>()
  const set = (shard: number, offset: bigint, control: bigint) => known.set(shard, { offset, control })
  return {
    set,
    compare: (shard: number, offset: bigint, control: bigint) =>
      Effect.suspend(() => {
        const before = known.get(shard)
        set(shard, offset, control)
        return before === undefined || offset >= before.offset || control > before.control
          ? Effect.void
          : Effect.logWarning(
              `shard ${shard} of projection "${name}" was at version ${before.offset}, and is at version ${offset}: the database ` +
                "was set back, and the projection together with the log; it goes on from there"
            )
      })
  }
}
type Past = ReturnType<typeof makePast>

const filterOf = ({ aggregateIds, eventTypes }: Settings) => ({
  ...(aggregateIds === undefined ? {} : { aggregateIds }),
  ...(eventTypes === undefined ? {} : { eventTypes })
})

/** Runs the shards of the assignment, from their offsets on, until one fails. */
const session = Effect.fnUntraced(function* <R>(
  projection: Projection<R>,
  settings: Settings,
  { control, shards }: Assignment,
  past: Past
) {
  const { batchSize, name } = settings
  const offsets = yield* OffsetStore
  const stored = yield* Stream.runCollect(offsets.listOffsets(name))
  const offsetOf = new Map(stored.map(({ shardNumber, value }) => [shardNumber, value]))
  for (const shard of shards) if (!offsetOf.has(shard)) yield* addShard(name, shard)
  const starts = yield* placesOf(name, shards, (shard) => offsetOf.get(shard) ?? 0n)
  for (const [shard, { version }] of starts) yield* past.compare(shard, version, control.versionNumber)
  const { feeds, read } = Feed.make(
    starts,
    Math.max(batchesAhead * batchSize, leastEventsAhead),
    filterOf(settings),
    shardOfEvent(settings, projection.shardBy)
  )
  const runs = [...feeds].map(([shard, feed]) =>
    ShardRunner.run(
      projection,
      settings,
      shard,
      {
        offset: feed.upTo,
        control,
        idOf: (version) => feed.idOf(version),
        onMove: (to) => past.set(shard, to, control.versionNumber)
      },
      feed
    )
  )
  return yield* Effect.all([read, ...runs], { concurrency: "unbounded", discard: true })
})

/** One session, until its assignment has changed. A projection that is paused, or has no shard here, just waits for that. */
const untilChanged = Effect.fnUntraced(function* <R>(
  projection: Projection<R>,
  settings: Settings,
  share: Share,
  past: Past
) {
  const offsets = yield* OffsetStore
  const look = Effect.all({ control: controlOf(settings.name), shards: share.shards })
  const now: Assignment = yield* look
  const changed = Stream.mergeAll([offsets.changes, share.changes, Stream.tick(settings.heartbeat)], {
    concurrency: "unbounded"
  }).pipe(
    Stream.mapEffect(() => Effect.delay(look, delayBeforeLook)),
    Stream.filter((next) => !isSame(now, next)),
    Stream.take(1),
    Stream.runDrain
  )
  if (now.control.value.rebuildAsked === true) return yield* AskedRebuild.begin(projection)
  const isResting = now.control.value.paused || now.shards.length === 0
  yield* isResting ? changed : Effect.raceFirst(session(projection, settings, now, past), changed)
})

const waiting = ({ name }: Settings, { message }: StoreError) =>
  `projection "${name}" goes on once the database can be used again: ${message}`

/** Registers the projection, as soon as the database can be used. */
const registered = (settings: Settings) => {
  const outage = makeOutage()
  return register(settings).pipe(
    Effect.tapError((error) =>
      isTransient(error) ? outage.warn(error.reason, waiting(settings, error)) : Effect.void
    ),
    Effect.retry({ schedule: transientDelays, while: isTransient })
  )
}

/** How long to wait, in milliseconds, after a session has ended because the database could not be used. */
const shortestPauseMillis = 100
const longestPauseMillis = 1000

/** Runs session after session, for ever, and waits for a database that cannot be used. */
const runSessions = <R>(projection: Projection<R>, settings: Settings, share: Share) => {
  let pause = shortestPauseMillis
  const outage = makeOutage()
  const past = makePast(settings.name)
  const round = Effect.gen(function* () {
    const began = yield* monotonicMillis
    yield* untilChanged(projection, settings, share, past).pipe(
      // The next session compares the offsets with the log, before anything is handled.
      Effect.catchTag("LogSetBack", ({ error }) =>
        Effect.delay(
          Effect.logWarning(`projection "${settings.name}" looks where it is: ${error.message}`),
          delayBeforeLook
        )
      ),
      Effect.catchTag("Outdated", () => Effect.delay(share.refresh, delayBeforeLook)),
      Effect.catchIf(
        isTransient,
        Effect.fnUntraced(function* (error) {
          const lasted = (yield* monotonicMillis) - began
          if (lasted > longestPauseMillis) outage.end()
          pause = lasted > longestPauseMillis ? shortestPauseMillis : Math.min(pause * 2, longestPauseMillis)
          yield* outage.warn(error.reason, waiting(settings, error))
          yield* Effect.sleep(pause)
        })
      )
    )
  })
  return Effect.forever(round)
}

/** What is logged of the end of a projection. */
const endOf = (name: string, cause: Cause.Cause<RunError>): string => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  // Why the event has failed is told already.
  if (error?._tag === "ProjectionFailed") return error.message
  return `projection "${name}" has ended: ${error?.message ?? prettyOf(cause)}`
}

/** Runs the shards that the division gives to this process. */
export const runBy =
  (division: ShardDivision) =>
  <R>(projection: Projection<R>): Effect.Effect<never, RunError, R | Services> =>
    Effect.gen(function* () {
      const settings = yield* checked(projection, "run")
      yield* runOnce(settings.name)
      yield* registered(settings)
      const share = yield* division(settings)
      yield* Gauges.feed
      return yield* Effect.raceFirst(share.keep, runSessions(projection, settings, share))
    }).pipe(
      Effect.scoped,
      Effect.mapError(named("Projection", "run")),
      // A caller that forks the projection may never look at its end.
      Effect.tapCause((cause) =>
        Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError(endOf(projection.name, cause))
      )
    )
