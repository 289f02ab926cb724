/** What is logged of failures: errors as text, each in full once, and when the next attempt is. */
import { Cause, Duration, Effect } from "effect"
import { monotonicMillis } from "./Monotonic.ts"

/** How many characters of an error are kept. */
const longestText = 4000

/**
 * The messages and the stacks of the errors, those included that have caused them, but none of their properties: these may be
 * anything, a payload included. Every database takes the text.
 */
export const prettyOf = (cause: Cause.Cause<unknown>): string =>
  Cause.pretty(cause).replaceAll("\0", "\uFFFD").toWellFormed().slice(0, longestText).toWellFormed()

/** For how long an error that was told in full is told in a line. */
const fullTextIntervalMillis = 60_000

/** How many different errors are remembered. */
const mostErrors = 100

const causeLabel = "[cause]: "

/** The messages of an error and of the first cause of it: the driver's errors only say that a query has failed. */
const shortOf = (text: string): string => {
  const [first = "", ...lines] = text.split("\n").map((line) => line.trimStart())
  const cause = lines.findLast((line) => line.startsWith(causeLabel))
  return cause === undefined ? first : `${first} (${cause.slice(causeLabel.length)})`
}

/**
 * Makes a function that gives the text of an error in full, or in a line where it has given a text with the same messages
 * within the last minute.
 */
export const makeTelling = () => {
  const toldAt = new Map<string, number>()
  return (text: string): Effect.Effect<string> =>
    Effect.map(monotonicMillis, (now) => {
      const line = shortOf(text)
      const last = toldAt.get(line)
      if (last !== undefined && now - last < fullTextIntervalMillis) return line
      const [oldest] = toldAt.keys()
      if (oldest !== undefined && toldAt.size === mostErrors) toldAt.delete(oldest)
      toldAt.delete(line)
      toldAt.set(line, now)
      return text
    })
}

/** When something is tried again, after a delay. */
export const retryTime = (delay: Duration.Duration): string =>
  Duration.isZero(delay) ? "at once" : `in ${Duration.format(Duration.millis(Math.ceil(Duration.toMillis(delay))))}`
