/**
 * The last hour, for the charts: what the process of the console has seen itself, in memory, since it runs. Moments that pages
 * look at are samples of it. Where nobody looks, there is a look every half minute, so that the hour is there for who comes.
 */
import { DateTime, Effect } from "effect"
import type { History as HistorySchema, Moment, Sample } from "./api/OverviewApi.ts"

/** The time that is kept. */
const keptMillis = 3_600_000

/** The time between two samples, if there are as many moments: an hour has 720 at most. */
const sampleMillis = 5_000

/** The time between two looks where nobody looks. */
export const quietMillis = 30_000

type Moment = typeof Moment.Type
type Sample = typeof Sample.Type

export const sampleOf = ({ at, log, projections, queues }: Moment): Sample => {
  const sum = (of: (queue: NonNullable<Moment["queues"]>["all"][number]) => number) =>
    (queues?.all ?? []).reduce((total, queue) => total + of(queue), 0)
  return {
    at,
    latestVersion: log?.latestVersion ?? 0n,
    waiting: sum(({ active, deferred, incoming }) => incoming + deferred + active),
    lags: Object.fromEntries((projections?.all ?? []).map(({ lag, name }) => [name, lag]))
  }
}

/** The samples with one more. It takes the place of the newest one where that is too near to the one before. */
export const withSample = (samples: ReadonlyArray<Sample>, sample: Sample): ReadonlyArray<Sample> => {
  const millis = ({ at }: Sample) => at.epochMilliseconds
  const [before, last] = samples.slice(-2)
  const isNear = before !== undefined && last !== undefined && millis(last) - millis(before) < sampleMillis
  const oldest = millis(sample) - keptMillis
  return [...samples.slice(0, isNear ? -1 : undefined).filter((one) => millis(one) >= oldest), sample]
}

export const make = Effect.gen(function* () {
  const since = yield* DateTime.now
  let samples: ReadonlyArray<Sample> = []
  let lookedAt: number | undefined

  const looked = Effect.map(DateTime.now, ({ epochMilliseconds }) => {
    lookedAt = epochMilliseconds
  })

  return {
    record: (moment: Moment) =>
      Effect.andThen(
        looked,
        Effect.sync(() => {
          if (moment.failure === null) samples = withSample(samples, sampleOf(moment))
        })
      ),
    read: Effect.sync((): typeof HistorySchema.Type => ({ since, samples })),
    /** Looks whenever nobody else has looked for a while, for ever. */
    keepLooking: <E, R>(look: Effect.Effect<unknown, E, R>) =>
      Effect.forever(
        Effect.gen(function* () {
          const { epochMilliseconds: now } = yield* DateTime.now
          const pause = lookedAt === undefined ? 0 : lookedAt + quietMillis - now
          if (pause > 0) return yield* Effect.sleep(pause)
          yield* look
          yield* looked
        })
      )
  }
})
