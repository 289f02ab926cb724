/**
 * What all pages see as it goes on: one poll of the process looks at the database while somebody looks at a page, and every
 * half minute where nobody does.
 *
 * **Details**
 *
 * A pulse is one statement. The looks at projections and at queues take more, so they are made when the pulse says that
 * something has moved, and seldom where nothing moves: less than a statement a second then. A dear look, such as one at
 * projections with thousands of shards, waits until a hundred times its own time has passed. A page that is too slow for the
 * stream gets the newest moment next; the number of the look tells the page what it has missed.
 */
import { Context, DateTime, Effect, Layer, Option, Queue, Stream } from "effect"
import type { DurableStateStore } from "../DurableStateStore.ts"
import type { EventStore } from "../EventStore.ts"
import type * as Health from "../Health.ts"
import { ofProjection, ofQueue } from "../health/Limits.ts"
import { monotonicMillis } from "../internal/Monotonic.ts"
import type { OffsetStore } from "../OffsetStore.ts"
import { type ProjectionStatus, survey } from "../projection/Survey.ts"
import { type QueueOverview, SpoolStore } from "../SpoolStore.ts"
import type { History as HistorySchema, Moment, Problem } from "./api/OverviewApi.ts"
import { apiError } from "./Failures.ts"
import * as History from "./History.ts"
import { projectionOf } from "./ProjectionView.ts"
import * as Pulse from "./Pulse.ts"
import { Settings } from "./Settings.ts"
import { queueOf } from "./SpoolView.ts"

type Moment = typeof Moment.Type

/** The time between two pulses where something moves, and where nothing does. */
const busyPulseMillis = 1_000
const idlePulseMillis = 2_000

/** The time between two dear looks where something moves, and where nothing does. */
const busyLookMillis = 2_000
const idleLookMillis = 30_000

/** A look takes at most a hundredth of the time where nothing moves, and a twentieth where something does. */
const idleShare = 100
const busyShare = 20

/** How many places of the log a look at projections reads at which one is behind. */
const mostReads = 8

/** A dear look: what it has seen, when it was made, and how long it took. */
interface Look<A> {
  readonly at: DateTime.Utc
  readonly millis: number
  readonly seen: ReadonlyArray<A>
}

interface State {
  readonly look: number
  readonly pulse: Pulse.Pulse | undefined
  readonly holders: string | null
  readonly projections: Look<ProjectionStatus> | undefined
  readonly queues: Look<QueueOverview> | undefined
  readonly moment: Moment | undefined
  /** How long to wait before the next look. */
  readonly pauseMillis: number
  /** Whether somebody has just changed something here, so that all is looked at anew. */
  readonly isHurried: boolean
}

const begin: State = {
  look: 0,
  pulse: undefined,
  holders: null,
  projections: undefined,
  queues: undefined,
  moment: undefined,
  pauseMillis: 0,
  isHurried: false
}

/** Makes a dear look if it is due, and else gives the last one. */
const ifDue = Effect.fnUntraced(function* <A, E, R>(
  last: Look<A> | undefined,
  isBusy: boolean,
  look: Effect.Effect<ReadonlyArray<A>, E, R>
): Effect.fn.Return<Look<A>, E, R> {
  const at = yield* DateTime.now
  if (last !== undefined) {
    const [least, share] = isBusy ? [busyLookMillis, busyShare] : [idleLookMillis, idleShare]
    const due = last.at.epochMilliseconds + Math.max(least, last.millis * share)
    if (at.epochMilliseconds < due) return last
  }
  const began = yield* monotonicMillis
  const seen = yield* look
  return { at, seen, millis: (yield* monotonicMillis) - began }
})

const problemOf = (problem: Health.Problem, { showPayloads }: Settings): typeof Problem.Type => {
  const says = { problem: problem._tag, remedy: problem.remedy, projection: null, queue: null }
  const error = showPayloads && problem._tag === "ProjectionFailing" ? `: ${problem.error.split("\n", 1).join()}` : ""
  return {
    ...says,
    message: problem.message + error,
    ...("projectionName" in problem ? { projection: problem.projectionName } : {}),
    ...("queue" in problem ? { queue: problem.queue ?? "" } : {})
  }
}

const rateOf = (before: Pulse.Pulse | undefined, now: Pulse.Pulse): number | null => {
  if (before === undefined) return null
  const seconds = (now.at.epochMilliseconds - before.at.epochMilliseconds) / 1000
  const versions = Number(now.latestVersion - before.latestVersion)
  return seconds <= 0 || versions < 0 ? null : versions / seconds
}

const isMoving = (before: Pulse.Pulse | undefined, now: Pulse.Pulse): boolean =>
  before !== undefined &&
  (before.latestVersion !== now.latestVersion || before.offsets !== now.offsets || before.messages !== now.messages)

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const looks = yield* Pulse.make
  const { overview } = yield* SpoolStore

  const see = Effect.fnUntraced(function* (before: State) {
    const pulse = yield* looks.pulse
    const isBusy = isMoving(before.pulse, pulse)
    const last = before.isHurried ? { projections: undefined, queues: undefined } : before
    const holders = pulse.isHeld ? yield* looks.holders : null
    const projections = yield* ifDue(last.projections, isBusy, survey({ mostReads }))
    const queues = yield* ifDue(last.queues, isBusy, overview)
    const look = before.look + 1
    const moment: Moment = {
      look,
      at: pulse.at,
      failure: null,
      log: {
        latestVersion: pulse.latestVersion,
        latestAt: pulse.latestAt,
        rate: rateOf(before.pulse, pulse),
        holders,
        connections: pulse.connections
      },
      projections: { at: projections.at, all: projections.seen.map(projectionOf) },
      queues: { at: queues.at, all: queues.seen.map(queueOf) },
      problems: [
        ...projections.seen.flatMap((one) => ofProjection(one)),
        ...queues.seen.flatMap((one) => ofQueue(one))
      ].map((problem) => problemOf(problem, settings))
    }
    const state: State = {
      look,
      pulse,
      holders,
      projections,
      queues,
      moment,
      pauseMillis: isBusy || before.pulse === undefined ? busyPulseMillis : idlePulseMillis,
      isHurried: false
    }
    return state
  })

  /** What was seen last, and why there is nothing newer. */
  const failed = Effect.fnUntraced(function* (before: State, message: string) {
    const at = yield* DateTime.now
    const look = before.look + 1
    const nothing = { log: null, projections: null, queues: null, problems: [] }
    const moment: Moment = { ...nothing, ...before.moment, look, at, failure: message }
    const state: State = { ...before, look, moment, pulse: undefined, pauseMillis: idlePulseMillis }
    return state
  })

  const changed = yield* Queue.sliding<void>(1)

  /** Waits for the time of the next look, or until somebody has changed something. Says whether that was so. */
  const wait = (millis: number) =>
    Effect.raceFirst(Effect.as(Effect.sleep(millis), false), Effect.as(Queue.take(changed), true))

  const next = Effect.fnUntraced(function* (given: State) {
    const before = { ...given, isHurried: yield* wait(given.pauseMillis) }
    const state = yield* Effect.catch(see(before), (error) => failed(before, apiError(error).message))
    return [state.moment === undefined ? [] : [state.moment], Option.some(state)] as const
  })

  return { moments: Stream.paginate(begin, next), hurry: Effect.asVoid(Queue.offer(changed, undefined)) }
})

export class Live extends Context.Service<
  Live,
  {
    readonly moments: Stream.Stream<Moment>
    /** The last hour. */
    readonly history: Effect.Effect<typeof HistorySchema.Type>
    /** Has the next look made at once: somebody has changed something here. */
    readonly hurry: Effect.Effect<void>
  }
>()("effect-strata/console/Live") {
  static readonly layer = Layer.effect(
    Live,
    Effect.gen(function* () {
      const services = yield* Effect.context<DurableStateStore | EventStore | OffsetStore>()
      const { hurry, moments } = yield* make
      const { keepLooking, read, record } = yield* History.make
      const polled = Stream.provideContext(Stream.tap(moments, record), services)
      const shared = yield* Stream.share(polled, { capacity: 1, strategy: "sliding", replay: 1 })
      yield* Effect.forkScoped(keepLooking(Stream.runHead(shared)))
      return { moments: shared, history: read, hurry }
    })
  )
}
