/** What the server sees as it goes on: one stream for the whole page. */
import { useEffect, useState } from "preact/hooks"
import type { Moment } from "../api/Answers.ts"

/** One point of the charts. */
export interface Sample {
  readonly at: number
  readonly rate: number | undefined
  readonly lag: number
  readonly waiting: number
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

/** Ten minutes of a look a second. */
const mostSamples = 600

let live: Live = { moment: undefined, connection: "opening", missed: 0, samples: [], skew: 0 }
const listeners = new Set<() => void>()

const change = (part: Partial<Live>): void => {
  live = { ...live, ...part }
  for (const listener of listeners) listener()
}

const sampleOf = ({ at, log, projections, queues }: Moment): Sample => ({
  at: Date.parse(at),
  rate: log?.rate ?? undefined,
  lag: Math.max(0, ...(projections?.all.map(({ lag }) => Number(lag)) ?? [])),
  waiting: (queues?.all ?? []).reduce((sum, { active, deferred, incoming }) => sum + incoming + deferred + active, 0)
})

const receive = (moment: Moment): void => {
  const last = live.moment?.look
  const gap = last !== undefined && moment.look > last + 1 ? moment.look - last - 1 : 0
  const samples = moment.failure === null ? [...live.samples, sampleOf(moment)].slice(-mostSamples) : live.samples
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

export const start = (): void => open(firstPause)

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
