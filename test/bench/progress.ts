/** How far a run has come: a line on stderr, where that is a terminal. It stays below what is printed. */
import { Clock, Effect } from "effect"

const barWidth = 30
const eraseLine = "\r\u001b[K"

/** What the line is written to. */
export interface Target {
  readonly isTTY?: boolean | undefined
  readonly write: (text: string) => unknown
}

/** Which round begins, of which figure. The first of each is number 0. */
export interface Place {
  readonly name: string
  readonly figure: number
  readonly figures: number
  readonly round: number
  readonly rounds: number
}

const spanOf = (millis: number): string =>
  millis < 90_000 ? `${Math.round(millis / 1000)} s` : `${Math.round(millis / 60_000)} min`

/** The line, after so much time. What is left is estimated as if every figure took as long as the others. */
export const lineOf = ({ figure, figures, name, round, rounds }: Place, elapsedMillis: number): string => {
  const share = (figure + round / rounds) / figures
  const filled = Math.floor(share * barWidth)
  const left = share === 0 ? "" : `, about ${spanOf((elapsedMillis * (1 - share)) / share)} left`
  const bar = `[${"#".repeat(filled)}${".".repeat(barWidth - filled)}]`
  return `${bar} ${figure + 1} of ${figures}: ${name}, round ${round + 1} of ${rounds}${left}`
}

/** Draws the line of a run that begins now. */
export const make = (target: Target) =>
  Effect.map(Clock.currentTimeMillis, (startMillis) => {
    const write = (text: string) => Effect.sync(() => void (target.isTTY === true && target.write(text)))
    return {
      at: (place: Place) =>
        Effect.flatMap(Clock.currentTimeMillis, (millis) =>
          write(`${eraseLine}${lineOf(place, millis - startMillis)}`)
        ),
      /** Comes before anything that is printed. */
      erase: write(eraseLine)
    }
  })
