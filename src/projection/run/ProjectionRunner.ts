/** Runs a projection in this process: the log is read once for the shards that are this process's share. */
import { Cause, Duration, Effect, FiberMap, Option, Queue, Stream } from "effect"
import type { State } from "../../DurableStateStore.ts"
import type { LogReplaced } from "../../EventStore.ts"
import { prettyOf } from "../../internal/FailureLog.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { named } from "../../internal/Named.ts"
import * as Outage from "../../internal/Outage.ts"
import { realSleep } from "../../internal/RealTime.ts"
import { isTransient, transientDelays } from "../../internal/Transient.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import type { StoreError } from "../../StoreError.ts"
import { placesOf } from "../Agreement.ts"
import { checked, filterOf, type Projection, type Services, type Settings } from "../Definition.ts"
import {
  type DuplicateProjection,
  type LogSetBack,
  type ProjectionFailed,
  type ShardCountMismatch,
  UnknownProjection
} from "../Errors.ts"
import type { Control } from "../Records.ts"
import { addShard, register } from "../Registration.ts"
import { runOnce } from "../Running.ts"
import { shardOfEvent } from "../Shards.ts"
import * as AskedRebuild from "./AskedRebuild.ts"
import * as Feed from "./Feed.ts"
import * as Gauges from "./Gauges.ts"
import * as Register from "./Register.ts"
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

/** The time until a shard that another process has moved is looked at again, so that those two do not race for it. */
const delayBeforeLook = Duration.millis(50)

/** How long to wait, in milliseconds, after a session has ended because the database could not be used. */
const shortestPauseMillis = 100
const longestPauseMillis = 1000

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

/** What this process has for a projection, from one session to the next. */
interface Here {
  readonly membership: Register.Membership
  readonly register: Register.Register
  readonly past: Past
  readonly outage: Outage.Outage
}

/** The shards of a projection that run in this process, each in a fiber of its own, while they come and go. */
const makeShards = Effect.fnUntraced(function* <R>(
  projection: Projection<R>,
  settings: Settings,
  control: State<Control>,
  { past, register }: Here
) {
  const { batchSize, name } = settings
  const offsets = yield* OffsetStore
  const reading = yield* Feed.make({
    capacity: Math.max(batchesAhead * batchSize, leastEventsAhead),
    filter: filterOf(settings),
    shardOf: shardOfEvent(settings, projection.shardBy)
  })
  const running = yield* FiberMap.make<number, void, RunError | LogSetBack>()
  const outdated = yield* Queue.unbounded<number>()

  const placed = Effect.fnUntraced(function* (shards: ReadonlyArray<number>) {
    const stored = yield* Stream.runCollect(offsets.listOffsets(name))
    const offsetOf = new Map(stored.map(({ shardNumber, value }) => [shardNumber, value]))
    for (const shard of shards) if (!offsetOf.has(shard)) yield* addShard(name, shard)
    const starts = yield* placesOf(name, shards, (shard) => offsetOf.get(shard) ?? 0n)
    for (const [shard, { version }] of starts) yield* past.compare(shard, version, control.versionNumber)
    return starts
  })

  const run = (shard: number, feed: Feed.Feed) =>
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
    ).pipe(
      Effect.catchTag("Outdated", () => Effect.asVoid(Queue.offer(outdated, shard))),
      Effect.ensuring(Effect.sync(() => reading.remove(shard)))
    )

  return {
    /** Ends the shards that are not among these, and begins those that do not run yet. The others just go on. */
    become: Effect.fnUntraced(function* (shards: ReadonlyArray<number>) {
      const now = new Set(shards)
      const gone = [...running].flatMap(([shard]) => (now.has(shard) ? [] : [shard]))
      yield* Effect.forEach(gone, (shard) => FiberMap.remove(running, shard), {
        discard: true,
        concurrency: "unbounded"
      })
      const coming = shards.filter((shard) => !FiberMap.hasUnsafe(running, shard))
      if (coming.length === 0) return
      const starts = yield* register.beginning(placed(coming))
      for (const [shard, feed] of reading.add(starts)) yield* FiberMap.run(running, shard, run(shard, feed))
    }),
    /** Shards whose offset another process has moved, or whose projection was given an order. They do not run any more. */
    outdated: Stream.fromQueue(outdated),
    /** Fails where the reading or a shard does. */
    failed: Effect.raceFirst(
      Effect.andThen(reading.run, Effect.never),
      Effect.andThen(FiberMap.join(running), Effect.never)
    )
  }
})

/** Runs the shards that are this process's, until an order is given. */
const session = Effect.fnUntraced(function* <R>(
  projection: Projection<R>,
  settings: Settings,
  { control }: Register.Assignment,
  here: Here
) {
  const { membership, outage } = here
  const shards = yield* makeShards(projection, settings, control, here)
  // It has read its offsets. Where it cannot go on from there all the same, it fails at once.
  const goesOn = Effect.forkScoped(Effect.andThen(realSleep(longestPauseMillis), outage.end))
  const again = Stream.mapEffect(shards.outdated, () =>
    Effect.andThen(Effect.delay(membership.refresh, delayBeforeLook), membership.assignment)
  )
  const obey = Stream.merge(membership.assignments, again).pipe(
    Stream.filter((now) => now !== undefined),
    Stream.takeUntil((now) => now.control.versionNumber !== control.versionNumber, { excludeLast: true }),
    Stream.runForEach((now) => Effect.andThen(shards.become(now.shards), goesOn))
  )
  yield* Effect.raceFirst(obey, shards.failed)
}, Effect.scoped)

/** One session. A projection that is paused just waits for the end of that. */
const untilChanged = Effect.fnUntraced(function* <R>(projection: Projection<R>, settings: Settings, here: Here) {
  const { membership, outage } = here
  const [now] = yield* Stream.runCollect(Stream.take(membership.assignments, 1))
  if (now === undefined) return
  const { value, versionNumber } = now.control
  if (value.shards === 0) return yield* new UnknownProjection({ projectionName: settings.name })
  if (value.rebuildAsked === true) {
    yield* AskedRebuild.begin(projection)
    return yield* membership.refresh
  }
  if (!value.paused) return yield* session(projection, settings, now, here)
  yield* outage.end
  yield* membership.assignments.pipe(
    Stream.filter(({ control }) => control.versionNumber !== versionNumber),
    Stream.take(1),
    Stream.runDrain
  )
})

/** Registers the projection, as soon as the database can be used. */
const registered = (settings: Settings, outage: Outage.Outage) =>
  register(settings).pipe(
    Effect.tapError((error) => (isTransient(error) ? outage.warn(error.reason) : Effect.void)),
    Effect.retry({ schedule: transientDelays, while: isTransient })
  )

/** Runs session after session, for ever, and waits for a database that cannot be used. */
const runSessions = <R>(projection: Projection<R>, settings: Settings, here: Here) => {
  let pause = shortestPauseMillis
  const round = Effect.gen(function* () {
    const began = yield* monotonicMillis
    yield* untilChanged(projection, settings, here).pipe(
      // The next session compares the offsets with the log, before anything is handled.
      Effect.catchTag("LogSetBack", ({ error }) =>
        Effect.delay(
          Effect.logWarning(`projection "${settings.name}" looks where it is: ${error.message}`),
          delayBeforeLook
        )
      ),
      Effect.catchIf(
        isTransient,
        Effect.fnUntraced(function* (error) {
          const lasted = (yield* monotonicMillis) - began
          pause = lasted > longestPauseMillis ? shortestPauseMillis : Math.min(pause * 2, longestPauseMillis)
          yield* here.outage.warn(error.reason)
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

/**
 * Runs the shards that are this process's: those that the division of all projections among all processes gives to it, or
 * those that something else has `placed` here.
 */
export const runBy =
  (placed?: Register.Joining["placed"]) =>
  <R>(projection: Projection<R>): Effect.Effect<never, RunError, R | Services> =>
    Effect.gen(function* () {
      const settings = yield* checked(projection, "run")
      yield* runOnce(settings.name)
      const register = yield* Register.open
      const outage = Outage.make({
        waits: `projection "${settings.name}" waits for the database`,
        next: Outage.untilItSucceeds,
        over: `projection "${settings.name}" goes on`
      })
      yield* register.beginning(registered(settings, outage))
      const membership = yield* register.join({ settings, ...(placed === undefined ? {} : { placed }) })
      yield* Gauges.feed
      return yield* Effect.raceFirst(
        membership.failed,
        runSessions(projection, settings, { membership, register, past: makePast(settings.name), outage })
      )
    }).pipe(
      Effect.scoped,
      Effect.mapError(named("Projection", "run")),
      // A caller that forks the projection may never look at its end.
      Effect.tapCause((cause) =>
        Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError(endOf(projection.name, cause))
      )
    )
