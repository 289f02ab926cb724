/** What the server sees as it goes on: one stream for the whole page. */
import { useEffect, useState } from "preact/hooks"
import type { Answer, Moment } from "../api/Answers.ts"
import type { Point } from "./Chart.tsx"
import { read } from "./Client.ts"

type Earlier = Answer<"/api/history">["samples"][number]

/** What was seen at one moment, for the charts. */
export interface Sample {
  readonly at: number
  readonly latestVersion: bigint
  readonly waiting: number
  /** By the name of the projection. */
  readonly lags: Readonly<Record<string, number>>
}

export interface Live {
  readonly moment: Moment | undefined
  /** Whether the stream is open. Else the server is gone, and the page tries again by itself. */
  readonly connection: "opening" | "open" | "lost"
  /** How many looks of the server this page has missed, as it was too slow for them. */
  readonly missed: number
  readonly samples: ReadonlyArray<Sample>
  /** The clock of the server, less that of the browser. */
  readonly skew: number
}

/** The time that the charts show. */
const keptMillis = 3_600_000

/** The time between two samples: a newer one takes the place of one that is nearer to the one before. */
const sampleMillis = 5_000

let live: Live = { moment: undefined, connection: "opening", missed: 0, samples: [], skew: 0 }
const listeners = new Set<() => void>()

const change = (part: Partial<Live>): void => {
  live = { ...live, ...part }
  for (const listener of listeners) listener()
}

const sampleOf = ({ at, log, projections, queues }: Moment): Sample => ({
  at: Date.parse(at),
  latestVersion: BigInt(log?.latestVersion ?? 0),
  waiting: (queues?.all ?? []).reduce((sum, { active, deferred, incoming }) => sum + incoming + deferred + active, 0),
  lags: Object.fromEntries((projections?.all ?? []).map(({ lag, name }) => [name, Number(lag)]))
})

const earlierOf = ({ at, lags, latestVersion, waiting }: Earlier): Sample => ({
  at: Date.parse(at),
  latestVersion: BigInt(latestVersion),
  waiting,
  lags: Object.fromEntries(Object.entries(lags).map(([name, lag]) => [name, Number(lag)]))
})

const withSample = (samples: ReadonlyArray<Sample>, sample: Sample): ReadonlyArray<Sample> => {
  const [before, last] = samples.slice(-2)
  const isNear = before !== undefined && last !== undefined && last.at - before.at < sampleMillis
  return [...samples.slice(0, isNear ? -1 : undefined).filter(({ at }) => at >= sample.at - keptMillis), sample]
}

/** Puts what the server has seen before this page was there before what the page has seen itself. */
const readHistory = async (): Promise<void> => {
  const called = await read("/api/history", {})
  if (!called.ok) return
  const earlier = called.value.samples.map(earlierOf)
  const [first] = live.samples
  change({ samples: [...earlier.filter(({ at }) => first === undefined || at < first.at), ...live.samples] })
}

const receive = (moment: Moment): void => {
  const last = live.moment?.look
  const gap = last !== undefined && moment.look > last + 1 ? moment.look - last - 1 : 0
  const samples = moment.failure === null ? withSample(live.samples, sampleOf(moment)) : live.samples
  change({
    moment,
    connection: "open",
    missed: live.missed + gap,
    samples,
    skew: Date.parse(moment.at) - Date.now()
  })
}

/** The first pause before the stream is opened again, and the longest one. */
const [firstPause, longestPause] = [500, 5000]

const open = (pause: number): void => {
  const source = new EventSource("./api/live")
  let next = pause
  source.addEventListener("message", ({ data }) => {
    const moment: Moment = JSON.parse(String(data))
    next = firstPause
    receive(moment)
  })
  source.addEventListener("error", () => {
    // A browser gives up after some errors: the page does not.
    source.close()
    change({ connection: "lost" })
    setTimeout(() => open(Math.min(next * 2, longestPause)), next)
  })
}

export const start = (): void => {
  open(firstPause)
  void readHistory()
}

const useStore = <A>(select: () => A): A => {
  const [value, setValue] = useState(select)
  useEffect(() => {
    const listener = () => setValue(select)
    listeners.add(listener)
    listener()
    return () => void listeners.delete(listener)
  }, [])
  return value
}

export const useLive = (): Live => useStore(() => live)

const ticks = new Set<() => void>()
setInterval(() => {
  for (const tick of ticks) tick()
}, 1000)

/** The time of the server, each second anew. */
export const useNow = (): number => {
  const [now, setNow] = useState(() => Date.now() + live.skew)
  useEffect(() => {
    const tick = () => setNow(Date.now() + live.skew)
    ticks.add(tick)
    return () => void ticks.delete(tick)
  }, [])
  return now
}

/** How many events a second came between each two samples. */
export const rates = (samples: ReadonlyArray<Sample>): ReadonlyArray<Point> =>
  samples.slice(1).flatMap(({ at, latestVersion }, index) => {
    const before = samples[index]
    const versions = before === undefined ? 0 : Number(latestVersion - before.latestVersion)
    return before === undefined || at <= before.at
      ? []
      : [{ at, value: Math.max(0, (versions * 1000) / (at - before.at)) }]
  })

export const waiting = (samples: ReadonlyArray<Sample>): ReadonlyArray<Point> =>
  samples.map(({ at, waiting }) => ({ at, value: waiting }))

/** How far a projection was behind, or the one that was furthest. */
export const lags = (samples: ReadonlyArray<Sample>, name?: string): ReadonlyArray<Point> =>
  samples.flatMap(({ at, lags }) => {
    if (name === undefined) return [{ at, value: Math.max(0, ...Object.values(lags)) }]
    const value = lags[name]
    return value === undefined ? [] : [{ at, value }]
  })
