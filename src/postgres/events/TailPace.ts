/**
 * How long the reader of the tail rests after a page: by what reading costs, and not by the clock. An event that comes by itself
 * is read at once. Where events come so fast that reading each of them would take much of what writers could have, they are
 * read together.
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
