/**
 * Reads the end of the log for as long as a connection lasts: it puts the questions of `events/Hole` to the database, and
 * says when. Each page is asked for on the connection that listens, so a wake-up that comes while it reads is not lost.
 */
import { Duration, Effect, Metric, Option } from "effect"
import { LogReplaced } from "../../Event.ts"
import * as Hole from "../../events/Hole.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import * as Telemetry from "../../internal/Telemetry.ts"
import { type Reason, Unexpected } from "../../StoreError.ts"
import { PostgresDatabase, type Runnable } from "../database/PostgresDatabase.ts"
import { longestBytes } from "../database/RowSize.ts"
import type { Ear } from "../wakeups/Wakeups.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import * as Comparing from "./Comparing.ts"
import { textOf } from "./EventRow.ts"
import * as LockHolders from "./LockHolders.ts"
import { columnsOfPart, type Part, readPage } from "./LongTexts.ts"
import { type Page, pageOf, shareBytes } from "./PageSize.ts"
import * as Partitions from "./Partitions.ts"
import { versionOf } from "./TailItems.ts"
import { makePace, makePoll, type ReadPage } from "./TailPace.ts"

/** How many events are read at a time: at first, and at most. They are fewer if they are large. */
const firstPageEvents = 16
const largestPageEvents = 512

/** The waits before the holders of a hole are asked for again. */
const firstHoleWaitMillis = 1
const longestHoleWaitMillis = 25

/** How often to look whether the table can still be relied on, and which server answers, where no hole asks for a look. */
const lookIntervalMillis = 5000

const heldSeconds = Telemetry.gauge("strata_events_held_seconds")

/**
 * Takes rows in order. They have every event above the version before, up to that of `seen`, that will ever be. It is told,
 * too, where events that were seen have been deleted, or another server answers: then the version is the same as before, and
 * there are no rows.
 */
export type Publish = (rows: ReadonlyArray<unknown>, seen: LastSeen.Seen) => Effect.Effect<unknown>

/** The log is not the one that was read: each subscriber compares what it has seen itself. Nobody else gets this reason. */
export const replaced = new Unexpected({ message: "the log is not the one that the subscribers have read" })

/** A hole that subscribers are held up at. */
interface Held {
  readonly sinceMillis: number
  readonly waitMillis: number
  readonly isReported: boolean
}

/** How many of the rows have a version up to this one. */
const countUpTo = (rows: ReadonlyArray<unknown>, version: bigint): number => {
  if (versionOf(rows.at(-1)) <= version) return rows.length
  return rows.findIndex((row) => versionOf(row) > version)
}

const idOf = (row: unknown): LastSeen.SeenEvent => ({ version: versionOf(row), id: textOf(row, "id") })

const statementsOf = (
  database: PostgresDatabase["Service"],
  { isKnownPartitioned, limitOf }: Partitions.Partitions
) => {
  const { sql, tables } = database
  const longest = longestBytes(sql)
  const { withEnd } = ArchivedEnd.make(database)

  /** The text of the statement for each size of a page. To put it together takes a tenth of the time of a short page. */
  const texts = new Map<string, string>()

  const partFrom = (cursor: bigint, limit: number, part: Part) => {
    const { read, sent } = columnsOfPart(part, shareBytes(limit, longest), "$1")
    const only = typeof part === "bigint" ? sql`AND version = ${part}` : sql.literal("")
    return sql`
      SELECT ${sql.literal(sent)} FROM (
        SELECT ${sql.literal(read)} FROM ${tables.events} WHERE version >= ${cursor} ${only}
        ORDER BY version LIMIT ${limitOf(limit + 1)}
      ) AS page ORDER BY version`
  }

  /** The event at the cursor, without its JSON, and a page above it. */
  const pageFrom =
    (cursor: bigint, limit: number) =>
    (part: Part): Runnable => {
      if (part !== "all") return partFrom(cursor, limit, part)
      const isKnown = isKnownPartitioned()
      const key = `${limit} ${isKnown}`
      const text = texts.get(key) ?? partFrom(cursor, limit, part).compile()[0]
      texts.set(key, text)
      return { compile: () => [text, isKnown ? [cursor] : [cursor, limit + 1]] }
    }

  const highestVersion = sql`SELECT max(version) AS version FROM ${tables.events}`

  /** The same page of a log with partitions, with the end of what is archived. */
  const pageWithEnd = (cursor: bigint, limit: number) => (part: Part) => withEnd(partFrom(cursor, limit, part))

  return { highestVersion, pageFrom, pageWithEnd }
}

/** Publishes, lets the subscribers run, and says for how long that kept this process busy. */
const publishing = Effect.fnUntraced(function* (publish: Publish, rows: ReadonlyArray<unknown>, seen: LastSeen.Seen) {
  const before = yield* monotonicMillis
  yield* publish(rows, seen)
  yield* Effect.yieldNow
  return (yield* monotonicMillis) - before
})

/** Rests, and then waits for a wake-up, or until it is time to look without one. */
const waitForWakeups = ({ isHeard, wait }: Ear) => {
  const pace = makePace()
  const poll = makePoll()
  let isWoken = true
  return Effect.fnUntraced(function* (page: Omit<ReadPage, "toMillis">) {
    const toMillis = yield* monotonicMillis
    const pollMillis = poll({ events: page.events, atMillis: toMillis, isWoken, isHeard: isHeard() })
    const restMillis = pace({ ...page, toMillis })
    // A timer takes a millisecond at least.
    if (restMillis >= 1) yield* Effect.sleep(restMillis)
    isWoken = Option.isSome(yield* wait(pollMillis))
  })
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { look, report } = yield* LockHolders.make
  const { compare } = yield* Comparing.make
  const timeoutMillis = Duration.toMillis(database.settleTimeout)
  const partitions = yield* Partitions.make
  const { isPartitioned } = partitions
  const { highestVersion, pageFrom, pageWithEnd } = statementsOf(database, partitions)
  const { split } = ArchivedEnd.make(database)

  /**
   * A page from the cursor on. Where the event at the cursor is there, nothing above it is archived, as what is archived is the
   * oldest part of the log. Else the page has to say so, or the subscribers read the files.
   */
  const pageAt = Effect.fnUntraced(function* (
    { query }: Ear,
    cursor: bigint,
    limit: number
  ): Effect.fn.Return<ReadonlyArray<unknown>, Reason> {
    const rows = yield* readPage(query, pageFrom(cursor, limit))
    if ((rows.length > 0 && versionOf(rows[0]) === cursor) || !(yield* isPartitioned)) return rows
    const page = yield* ArchivedEnd.again(Effect.flatMap(readPage(query, pageWithEnd(cursor, limit)), split))
    return page.end > cursor + 1n ? yield* replaced : page.rows
  })

  /**
   * Takes a page. If a full one has a hole, the answer to the question for the holders decides about the other holes of the
   * log as well: where 5,000 events are rolled back, one look is enough, and not one for each page.
   */
  const seePage = Effect.fnUntraced(function* (
    { query }: Ear,
    asking: Hole.AsksPage | Hole.Waits,
    page: Hole.Page
  ): Effect.fn.Return<Hole.State, Reason> {
    const state = Hole.seePage(asking, page)
    if (state.ask !== "holders" || !page.isFull) return state
    const [row] = yield* query(highestVersion)
    const highest = versionOf(row)
    if (highest <= state.highest) return state
    return Hole.seePage(asking, { ...page, runs: [...page.runs, { first: highest, last: highest }] })
  })

  /** Waits a while for holders, and says in the metric and, once it is late, in the log that they hold up subscribers. */
  const waitAt = Effect.fnUntraced(function* (
    { query }: Ear,
    { after, holders }: Hole.Waits,
    { isReported, sinceMillis, waitMillis }: Held,
    readAtMillis: number
  ): Effect.fn.Return<Held, Reason> {
    const waitedMillis = readAtMillis - sinceMillis
    yield* Metric.update(heldSeconds, waitedMillis / 1000)
    const isLate = waitedMillis >= timeoutMillis
    if (isLate && !isReported) yield* report(query, holders, after + 1n)
    yield* Effect.sleep(waitMillis)
    return {
      sinceMillis,
      waitMillis: Math.min(waitMillis * 2, longestHoleWaitMillis),
      isReported: isReported || isLate
    }
  })

  /** Compares all that was seen with what is there. */
  const agree = Effect.fnUntraced(function* (
    { query }: Ear,
    before: LastSeen.Seen
  ): Effect.fn.Return<LastSeen.Seen, Reason> {
    const seen = yield* compare(query, before)
    return seen instanceof LogReplaced || seen.version < before.version ? yield* replaced : seen
  })

  /**
   * Reads what is above the cursor, to the end of the log and on. Fails when the connection does, and with `replaced` if the
   * log is not the one that was seen.
   */
  return Effect.fnUntraced(function* (
    ear: Ear,
    before: LastSeen.Seen,
    publish: Publish
  ): Effect.fn.Return<never, Reason> {
    const rest = waitForWakeups(ear)
    // Behind a pooler a connection can lead to another server than before, so each look says anew to which one.
    let server = ""
    let lookedAtMillis = Number.NEGATIVE_INFINITY
    let seen = before
    let state: Hole.State = Hole.begin(before.version)
    let held: Held | undefined
    let limit = firstPageEvents
    /** Whether the last page began with a hole that is waited for: the next one only shows whether the hole has been filled. */
    let isStalled = false
    while (true) {
      const readAtMillis = yield* monotonicMillis
      if (state.ask !== "page" || readAtMillis - lookedAtMillis >= lookIntervalMillis) {
        const holders = yield* look(ear.query)
        server = holders.server
        lookedAtMillis = readAtMillis
        if (state.ask !== "page") state = Hole.seeHolders(state, holders)
      }
      const pageLimit: number = isStalled && state.ask === "wait" ? Math.min(limit, firstPageEvents) : limit
      const found = yield* pageAt(ear, state.after, pageLimit)
      const isCursorThere: boolean = found.length > 0 && versionOf(found[0]) === state.after
      const above = isCursorThere ? found.slice(1) : found
      const cursorId = isCursorThere ? textOf(found[0], "id") : undefined
      const known: LastSeen.Seen = seen
      seen = LastSeen.isCertain(seen, { cursorId, isAbove: above.length > 0, server })
        ? LastSeen.confirm(seen, cursorId, server)
        : yield* agree(ear, seen)
      if (seen !== known) yield* publish([], seen)
      const page: Page = pageOf(above, pageLimit, largestPageEvents)
      const { isFull, rows } = page
      const before: bigint = state.after
      state = yield* seePage(ear, state, { server, runs: Hole.runsOf(rows, versionOf), isFull })
      isStalled = state.after === before

      const count = countUpTo(rows, state.after)
      let busyMillis = 0
      if (state.after > before) {
        const settled = count === rows.length ? rows : rows.slice(0, count)
        seen = LastSeen.add(seen, LastSeen.lastOf(settled, idOf), state.after, server)
        busyMillis = yield* publishing(publish, settled, seen)
      }

      if (held !== undefined && state.ask !== "wait") {
        held = undefined
        yield* Metric.update(heldSeconds, 0)
      }
      if (state.ask === "holders")
        held = { sinceMillis: readAtMillis, waitMillis: firstHoleWaitMillis, isReported: false }
      // A page that was short because of a hole says only that events are too large, not that there is room for more.
      if (pageLimit === limit || page.nextLimit < pageLimit) limit = page.nextLimit
      if (count < rows.length && state.ask === "wait" && held !== undefined) {
        held = yield* waitAt(ear, state, held, readAtMillis)
      }
      if (state.ask === "page" && !isFull) yield* rest({ events: rows.length, fromMillis: readAtMillis, busyMillis })
    }
  })
})
