/** How far long work has come, on stderr: a bar on a terminal, and elsewhere a line now and then. */
import { Clock, Effect } from "effect"
import { HostProcess, type Target } from "./HostProcess.ts"
import { printable } from "./Printable.ts"

const barWidth = 30

const millisBetweenDrawings = 100

/** Without a terminal, a line follows after a tenth of the work, but not more often than after this many events. */
const fewestEventsPerLine = 1000

/** Where the total is unknown, the first line comes after this many events, and each other after twice as many. */
const eventsBeforeFirstLine = 10_000

const formatCount = (count: number) => Math.round(count).toLocaleString("en-US")

const eraseLine = "\r\u001b[K"

export interface Progress {
  /** Adds to the number of things that are done. */
  readonly advance: (count: number) => Effect.Effect<void>
  /** Writes a line to stderr. The bar stays below it. */
  readonly say: (text: string) => void
}

/** What is done to how many things: `requeued`, `messages`. */
export interface Work {
  readonly verb: string
  /** Events unless given. */
  readonly things?: string
  /** How many there are, if that is known. */
  readonly total: number | undefined
}

const make = (stderr: Target, { things = "events", total, verb }: Work, startMillis: number): Progress => {
  const terminal = stderr.isTTY === true
  let done = 0
  let doneAtLastLine = 0
  let lastDrawnMillis = 0

  const sentence = () =>
    total === undefined
      ? `${verb} ${formatCount(done)} ${things}`
      : `${verb} ${formatCount(done)} of ${formatCount(total)} ${things}`

  const drawBar = (nowMillis: number) => {
    const rate = `${formatCount(done / Math.max((nowMillis - startMillis) / 1000, 0.001))}/s`
    const share = total === undefined || total === 0 ? 0 : Math.min(done / total, 1)
    const filled = Math.round(share * barWidth)
    const bar = total === undefined ? "" : `[${"#".repeat(filled)}${".".repeat(barWidth - filled)}] `
    stderr.write(`${eraseLine}${bar}${sentence()}, ${rate}`)
  }

  const isLineDue = () =>
    total === undefined
      ? done >= Math.max(doneAtLastLine * 2, eventsBeforeFirstLine)
      : done - doneAtLastLine >= Math.max(total / 10, fewestEventsPerLine)

  return {
    advance: (count) =>
      Effect.map(Clock.currentTimeMillis, (nowMillis) => {
        done += count
        if (terminal) {
          if (nowMillis - lastDrawnMillis < millisBetweenDrawings) return
          lastDrawnMillis = nowMillis
          drawBar(nowMillis)
        } else if (isLineDue()) {
          doneAtLastLine = done
          stderr.write(`${sentence()}\n`)
        }
      }),
    say: (text) => void stderr.write(`${terminal ? eraseLine : ""}${printable(text)}\n`)
  }
}

/** Shows how far the work has come. When it ends, the bar is erased. */
export const during = <A, E, R>(work: Work, run: (progress: Progress) => Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const { stderr } = yield* HostProcess
    const erase = Effect.sync(() => void (stderr.isTTY === true && stderr.write(eraseLine)))
    const progress = make(stderr, work, yield* Clock.currentTimeMillis)
    return yield* Effect.ensuring(run(progress), erase)
  })

/** Without a terminal, a line follows after so long at most. */
const millisBetweenLines = 10_000

/**
 * Shows what others do, and which share of it is done, if they say it: on a terminal in one line, and elsewhere now and then.
 * When the work ends, the line is erased.
 */
export const watching = <A, E, R>(
  run: (show: (text: string, share: number | undefined) => Effect.Effect<void>) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    const { stderr } = yield* HostProcess
    const terminal = stderr.isTTY === true
    const erase = Effect.sync(() => void (terminal && stderr.write(eraseLine)))
    let nextMillis = 0
    const show = (text: string, share: number | undefined) =>
      Effect.map(Clock.currentTimeMillis, (nowMillis) => {
        if (!terminal && nowMillis < nextMillis) return
        nextMillis = nowMillis + millisBetweenLines
        const filled = share === undefined ? 0 : Math.round(share * barWidth)
        const bar = share === undefined ? "" : `[${"#".repeat(filled)}${".".repeat(barWidth - filled)}] `
        const percent = share === undefined ? "" : `, ${Math.floor(share * 100)}%`
        stderr.write(terminal ? `${eraseLine}${bar}${printable(text)}` : `${printable(text)}${percent}\n`)
      })
    return yield* Effect.ensuring(run(show), erase)
  })
