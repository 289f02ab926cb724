/**
 * How long the reader of the tail rests after a page, and how long it waits for a wake-up then.
 *
 * It rests by what reading costs, and not by the clock. An event that comes by itself is read at once. Where events come so fast
 * that reading each of them would take much of what writers could have, they are read together.
 */

/** How many pages a second are read without a rest, and how many of them in a row. */
const pagesWithoutRestPerSecond = 500
const mostWithoutRest = 50

/** A page with as many events shows that it paid to rest before it: then no page is read without a rest. */
const fullEnough = 4

/** A rest is so many times as long as the reading and publishing of the page before it took, and no longer than that. */
const restsPerCost = 8
const longestRestMillis = 8

export interface ReadPage {
  /** How many events it had. */
  readonly events: number
  /** When it was asked for, and when the subscribers had been told of it. */
  readonly fromMillis: number
  readonly toMillis: number
  /** How long the subscribers kept this process busy with it. The reader rests for as long: half of the time is for others. */
  readonly busyMillis: number
}

/** Says after each page how many milliseconds to rest. */
export const makePace = () => {
  let withoutRest = mostWithoutRest
  let sinceMillis = Number.NEGATIVE_INFINITY
  return ({ busyMillis, events, fromMillis, toMillis }: ReadPage): number => {
    const earned = ((toMillis - sinceMillis) / 1000) * pagesWithoutRestPerSecond
    withoutRest = events >= fullEnough ? 0 : Math.min(withoutRest + earned, mostWithoutRest)
    sinceMillis = toMillis
    if (withoutRest >= 1) {
      withoutRest--
      return busyMillis
    }
    return Math.max(busyMillis, Math.min((toMillis - fromMillis) * restsPerCost, longestRestMillis))
  }
}

/**
 * How long to wait for a wake-up before looking without one. Only events of writers that send no wake-up (plain SQL, other
 * programs) are found in this way, and events whose process has died before it sent one. While there are some, the reader
 * looks more often.
 */
const shortestPollMillis = 20
const longestPollMillis = 1000

/** The same at rest, where wake-ups are known to arrive. */
const pollAtRestMillis = 3000

/** For how long nothing has come at rest, and for how long nothing was found without a wake-up. */
const millisWithoutEvents = 30_000
const millisWithoutFinds = 600_000

export interface Look {
  /** How many events it has found. */
  readonly events: number
  readonly atMillis: number
  /** Whether a wake-up has asked for it. */
  readonly isWoken: boolean
  /** Whether it is known that wake-ups arrive. */
  readonly isHeard: boolean
}

/** Says after each look how many milliseconds to wait for a wake-up. The first look comes by itself. */
export const makePoll = () => {
  let pollMillis = longestPollMillis
  let eventAtMillis: number | undefined
  let findAtMillis = Number.NEGATIVE_INFINITY
  return ({ atMillis, events, isHeard, isWoken }: Look): number => {
    if (events > 0 || eventAtMillis === undefined) eventAtMillis = atMillis
    if (!isWoken) {
      if (events > 0) findAtMillis = atMillis
      pollMillis = events > 0 ? shortestPollMillis : Math.min(pollMillis * 2, longestPollMillis)
    }
    const isAtRest =
      isHeard && atMillis - eventAtMillis >= millisWithoutEvents && atMillis - findAtMillis >= millisWithoutFinds
    return isAtRest ? pollAtRestMillis : pollMillis
  }
}
