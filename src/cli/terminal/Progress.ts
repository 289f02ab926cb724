/** How far long work has come, on stderr: a bar on a terminal, else a line now and then. */
import { Clock, Effect } from "effect"

const barWidth = 30

/** The milliseconds between two drawings of the bar. */
const frame = 100

const number = (value: number) => Math.round(value).toLocaleString("en-US")

const erase = "\r\u001b[K"

export interface Progress {
  /** So many more are done. */
  readonly advance: (count: number) => Effect.Effect<void>
  /** Writes a line to stderr, and the bar stays below it. */
  readonly say: (text: string) => void
}

const make = (verb: string, total: number | undefined, start: number): Progress => {
  const terminal = process.stderr.isTTY
  let done = 0
  let told = 0
  let drawn = 0

  const sentence = () =>
    total === undefined ? `${verb} ${number(done)} events` : `${verb} ${number(done)} of ${number(total)} events`

  const draw = (now: number) => {
    const rate = `${number(done / Math.max((now - start) / 1000, 0.001))}/s`
    const share = total === undefined || total === 0 ? 0 : Math.min(done / total, 1)
    const filled = Math.round(share * barWidth)
    const bar = total === undefined ? "" : `[${"#".repeat(filled)}${".".repeat(barWidth - filled)}] `
    process.stderr.write(`${erase}${bar}${sentence()}, ${rate}`)
  }

  // At most ten lines where the end is known; where it is not, fewer and fewer, as it gets ever longer.
  const isDue = () =>
    total === undefined ? done >= Math.max(told * 2, 10_000) : done - told >= Math.max(total / 10, 1000)

  return {
    advance: (count) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        done += count
        if (terminal) {
          if (now - drawn < frame) return
          drawn = now
          draw(now)
        } else if (isDue()) {
          told = done
          process.stderr.write(`${sentence()}\n`)
        }
      }),
    say: (text) => void process.stderr.write(`${terminal ? erase : ""}${text}\n`)
  }
}

/** Tells how far work on so many events, if their number is known, has come. When it ends, the bar is gone. */
export const during = <A, E, R>(
  verb: string,
  total: number | undefined,
  work: (progress: Progress) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => work(make(verb, total, now))).pipe(
    Effect.ensuring(Effect.sync(() => void (process.stderr.isTTY && process.stderr.write(erase))))
  )
