/**
 * How a bounded read finds out how far the log is settled: it puts the questions of `events/Hole` to the database, and says
 * when. It does not read the events: only the highest version, and, once it has waited for a while, the place of the hole.
 */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import * as Hole from "../../events/Hole.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as LockHolders from "./LockHolders.ts"

const Highest = Schema.Struct({ version: Schema.NullOr(Schema.BigInt) })

const Seen = Schema.Struct({
  ...LockHolders.ServerColumns.fields,
  highest: Schema.NullOr(Schema.BigInt),
  /** The last version before the first hole. Null if there is none, or if the statement does not ask for it. */
  beforeHole: Schema.NullOr(Schema.BigInt)
})

/** The waits before the holders are asked for again. Most transactions are over after the first one. */
const firstWaitMillis = 5
const longestWaitMillis = 50

/**
 * After this time the place of the hole is asked for as well, so that the events before it need not wait. The answer is
 * found by walking the log from the cursor on, which is not worth it for a wait that is over soon.
 */
const beforeHoleAfterMillis = 20

const highestPossible = 2n ** 63n - 1n

/** A bounded read between two questions. */
interface Read {
  readonly state: Hole.State
  /** The highest version that was committed when the read began. */
  readonly bound: bigint
  readonly sinceMillis: number
  readonly waitMillis: number
  readonly isReported: boolean
}

/** Marks to tell, and how the read goes on, unless it has ended. */
type Step = readonly [marks: Array<bigint>, next: Option.Option<Read>]

const goOn = (read: Read, before: Hole.State): Step => [newMarks(before, read.state), Option.some(read)]

const end = (marks: Array<bigint>): Step => [marks, Option.none()]

const newMarks = (before: Hole.State, { after }: Hole.State): Array<bigint> => (after > before.after ? [after] : [])

const runsOf = (after: bigint, { beforeHole, highest }: typeof Seen.Type, isHoleKnown: boolean): Array<Hole.Run> => {
  // An empty log ends before its first version.
  const end = highest ?? 0n
  const last = isHoleKnown ? (beforeHole ?? end) : after
  return [...(last > after ? [{ first: after + 1n, last }] : []), { first: end, last: end }]
}

/** How the highest versions are asked for. `check` fails where the answer decides nothing. */
const pagesOf = ({ names, query, sql, tables }: PostgresDatabase["Service"], check: LockHolders.Check) => {
  const events = tables.events
  const decodeSeen = decodeRows(Seen, names.events, [])
  const serverColumns = sql.literal(LockHolders.serverColumns)

  const beforeHole = (after: bigint, bound: bigint) => sql`(
    SELECT previous FROM (
      SELECT version, pg_catalog.lag(version, 1, ${after}::bigint) OVER (ORDER BY version) AS previous
      FROM ${events} WHERE version > ${after} AND version <= ${bound}
    ) AS events WHERE version <> previous + 1 ORDER BY version LIMIT 1)`

  /** Asks for the highest version up to the bound, and, if `isHoleWanted`, also for the place of the first hole. */
  return Effect.fnUntraced(function* (
    after: bigint,
    bound: bigint,
    isHoleWanted: boolean
  ): Effect.fn.Return<Hole.Page, Reason> {
    const rows = yield* query(sql`
      SELECT ${serverColumns}, (SELECT max(version) FROM ${events} WHERE version <= ${bound}) AS highest,
        ${isHoleWanted ? beforeHole(after, bound) : sql.literal("NULL::bigint")} AS "beforeHole"`)
    const [seen] = yield* decodeSeen(rows)
    if (seen === undefined) return { server: "", runs: [], isFull: false }
    yield* check(query, seen)
    return { server: seen.server, runs: runsOf(after, seen, isHoleWanted), isFull: false }
  })
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, settleTimeout, sql, tables } = database
  const { check, look, report } = yield* LockHolders.make
  const events = tables.events
  const decodeHighest = decodeRows(Highest, names.events, [])
  const timeoutMillis = Duration.toMillis(settleTimeout)

  /** The last mark of any read, so that holes below it, which are dead, are decided once. */
  let known: Hole.Mark | undefined

  const remember = (state: Hole.State) =>
    Effect.map(inTransaction, (inside) => {
      known = Hole.remember(known, state, inside)
    })

  const highestVersion = Effect.map(
    Effect.flatMap(query(sql`SELECT max(version) AS version FROM ${events}`), decodeHighest),
    ([row]) => row?.version ?? 0n
  )

  const page = pagesOf(database, check)

  const begin = Effect.fnUntraced(function* (read: Read, asking: Hole.AsksPage): Effect.fn.Return<Step, Reason> {
    const seen = yield* page(asking.after, read.bound, false)
    const state = Hole.seePage(asking, seen)
    yield* remember(state)
    const bound = seen.runs.at(-1)?.last ?? 0n
    if (state.ask === "page") return end(newMarks(asking, state))
    return goOn({ ...read, state, bound: bound < read.bound ? bound : read.bound }, asking)
  })

  const proceed = Effect.fnUntraced(function* (
    read: Read,
    asking: Hole.AsksHolders | Hole.Waits,
    forever: boolean
  ): Effect.fn.Return<Step, Reason> {
    if (asking.ask === "wait") yield* Effect.sleep(Math.min(read.waitMillis, timeoutMillis))
    const state = Hole.seeHolders(asking, yield* look(query))
    if (state.ask === "page") {
      // Nothing is decided if another server has answered.
      if (state.mark === undefined) return goOn({ ...read, state }, asking)
      yield* remember(state)
      return end([state.mark.version])
    }
    const now = yield* monotonicMillis
    if (asking.ask === "holders") return goOn({ ...read, state, sinceMillis: now }, asking)
    const waitedMillis = now - read.sinceMillis
    const next = { ...read, waitMillis: Math.min(read.waitMillis * 2, longestWaitMillis) }
    if (waitedMillis < Math.min(beforeHoleAfterMillis, timeoutMillis)) return goOn({ ...next, state }, asking)
    return yield* goOnBeforeHole(next, state, waitedMillis, forever)
  })

  /** The holders that are left may have drawn higher versions only: what is before the hole does not wait for them. */
  const goOnBeforeHole = Effect.fnUntraced(function* (
    read: Read,
    waiting: Hole.Waits,
    waitedMillis: number,
    forever: boolean
  ): Effect.fn.Return<Step, Reason> {
    const state = Hole.seePage(waiting, yield* page(waiting.after, read.bound, true))
    if (state.ask === "page") return end(newMarks(waiting, state))
    const isLate = waitedMillis >= timeoutMillis
    if (isLate && !read.isReported) yield* report(query, waiting.holders, state.after + 1n)
    if (isLate && !forever) return end(newMarks(waiting, state))
    return goOn({ ...read, state, isReported: isLate }, waiting)
  })

  return {
    highestVersion,

    /**
     * Versions up to which the log is settled, each higher than the one before: several where the read waits for a
     * transaction and there are events before the place where it may still append. The last one is the highest version that
     * was committed when the read began. After `settleTimeout`, unless the read waits `forever`, it is the end of what is settled.
     * The stream is empty if nothing above `after` is settled.
     */
    marks: (after: bigint, forever = false): Stream.Stream<bigint, Reason> =>
      Stream.unwrap(
        Effect.sync(() => {
          const read: Read = {
            state: Hole.begin(after, known),
            bound: highestPossible,
            sinceMillis: 0,
            waitMillis: firstWaitMillis,
            isReported: false
          }
          return Stream.paginate(read, (current) =>
            current.state.ask === "page" ? begin(current, current.state) : proceed(current, current.state, forever)
          )
        })
      )
  }
})
