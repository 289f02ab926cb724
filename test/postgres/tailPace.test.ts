/** The rests of the reader of the tail, on a clock of their own. */
import { assert, describe, it } from "@effect/vitest"
import { makePace, makePoll } from "../../src/postgres/events/TailPace.ts"

const costMillis = 0.5

/** Reads for a second what comes at a steady rate, and says how many pages that took and how long events waited at most. */
const read = (eventsPerSecond: number, { busyMillis = 0, pace = makePace(), sinceMillis = 0 } = {}) => {
  const everyMillis = 1000 / eventsPerSecond
  let nowMillis = sinceMillis
  let next = sinceMillis
  let pages = 0
  let longestWait = 0
  while (nowMillis < sinceMillis + 1000) {
    // A wake-up.
    if (nowMillis < next) nowMillis = next
    longestWait = Math.max(longestWait, nowMillis - next)
    const events = Math.floor((nowMillis - next) / everyMillis) + 1
    next += events * everyMillis
    const fromMillis = nowMillis
    nowMillis += costMillis + busyMillis
    pages++
    nowMillis += pace({ events, fromMillis, toMillis: nowMillis, busyMillis })
  }
  return { pages, longestWait, pace, sinceMillis: nowMillis }
}

describe("the reader of the tail", () => {
  it("reads 400 events a second one by one, without a rest", () => {
    const { longestWait, pages } = read(400)
    assert.isAtLeast(pages, 400)
    assert.isBelow(longestWait, 0.1)
  })

  it("reads events in quick succession together, for an eighth of the time at most", () => {
    for (const rate of [2_000, 5_000, 20_000]) {
      const begun = read(rate)
      const { longestWait, pages } = read(rate, begun)
      assert.isAtMost(pages * costMillis, 1000 / 8)
      assert.isAtMost(longestWait, 8 + costMillis)
    }
  })

  it("reads one by one again once events are rare", () => {
    const { longestWait } = read(100, { ...read(20_000), sinceMillis: 10_000 })
    assert.isBelow(longestWait, 0.1)
  })

  it("rests for as long as the subscribers were busy", () => {
    const pace = makePace()
    for (let page = 0; page < 100; page++) {
      const fromMillis = page * 1000
      assert.strictEqual(pace({ events: 1, fromMillis, toMillis: fromMillis + 30, busyMillis: 20 }), 20)
    }
  })
})

describe("the reader of the tail that hears nothing", () => {
  const looking = (isHeard = true) => {
    const poll = makePoll()
    const clock = { atMillis: 0 }
    let isWoken = true
    /** Waits until the clock says so, and looks: without a wake-up, which would come first. */
    const look = (events = 0) => {
      const waitMillis = poll({ events, ...clock, isWoken, isHeard })
      isWoken = false
      clock.atMillis += waitMillis
      return waitMillis
    }
    return {
      look,
      /** A wake-up comes, and it looks. */
      wake: (events: number) => {
        isWoken = true
        return look(events)
      },
      /** What it has waited each time until so much time has passed. */
      lookFor: (millis: number) => {
        const waits: Array<number> = []
        const untilMillis = clock.atMillis + millis
        while (clock.atMillis < untilMillis) waits.push(look())
        return waits
      }
    }
  }

  it("looks once a second, and each 3 seconds once nothing has come for half a minute", () => {
    const { lookFor, wake } = looking()
    const rest = [...Array.from({ length: 30 }, () => 1000), 3000, 3000]
    assert.deepStrictEqual(lookFor(36_000), rest)
    assert.strictEqual(wake(1), 1000)
    assert.deepStrictEqual(lookFor(35_000), rest.slice(1))
  })

  it("looks once a second for ten minutes after it has found something without a wake-up, and more often at first", () => {
    const { look, lookFor } = looking()
    lookFor(40_000)
    assert.deepStrictEqual(
      [look(1), look(1), look(), look(), look(), look(), look(), look(), look()],
      [20, 20, 40, 80, 160, 320, 640, 1000, 1000]
    )
    assert.deepStrictEqual(new Set(lookFor(590_000)), new Set([1000]))
    assert.strictEqual(lookFor(20_000).at(-1), 3000)
  })

  it("looks once a second where no notification is known to arrive", () => {
    assert.deepStrictEqual(new Set(looking(false).lookFor(700_000)), new Set([1000]))
  })
})
