/**
 * How a bounded read finds out how far the log is settled: it puts the questions of `events/Hole` to the database, and says
 * when. It does not read the events: only the highest version, and, once it has waited for a while, the place of the hole.
 */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { LogReplaced } from "../../Event.ts"
import * as Hole from "../../events/Hole.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { isUuid } from "../../internal/Ids.ts"
import { realMillis, realSleep } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import * as CompactLog from "./CompactLog.ts"
import * as Comparing from "./Comparing.ts"
import * as EventTable from "./EventTable.ts"
import * as LockHolders from "./LockHolders.ts"
import { highestPossible } from "./PageRange.ts"
import * as Partitions from "./Partitions.ts"

const Highest = Schema.Struct({ version: Schema.NullOr(Schema.BigInt) })

const Last = Schema.Struct({
  ...LockHolders.ServerColumns.fields,
  version: Schema.NullOr(Schema.BigInt),
  id: Schema.NullOr(Schema.String)
})

const Seen = Schema.Struct({
  ...LockHolders.ServerColumns.fields,
  highest: Schema.NullOr(Schema.BigInt),
  /** The id of the event with the highest version. */
  highestId: Schema.NullOr(Schema.String),
  /** The id of the event at the cursor of the reader. */
  cursorId: Schema.NullOr(Schema.String),
  /** The last version before the first hole. Null if there is none, or if the statement does not ask for it. */
  beforeHole: Schema.NullOr(Schema.BigInt),
  /** Whether the log has partitions, and the version below which it is archived then. */
  partitioned: Schema.Boolean,
  archivedEnd: Schema.NullOr(Schema.BigInt)
})

/** The waits before the holders are asked for again. Most transactions are over after the first one. */
const firstWaitMillis = 5
const longestWaitMillis = 50

/**
 * After this time the place of the hole is asked for as well, so that the events before it need not wait. The answer is
 * found by walking the log from the cursor on, which is not worth it for a wait that is over soon.
 */
const beforeHoleAfterMillis = 20

/** A version up to which the log is settled. */
export interface Mark {
  /** What the reader has seen before the first mark. It may have to begin at another version than its cursor. */
  readonly seen: LastSeen.Seen
  readonly version: bigint
  /** The id of the event with this version, if it is known. */
  readonly id: string | undefined
}

/** A bounded read between two questions. */
interface Read {
  readonly state: Hole.State
  readonly seen: LastSeen.Seen
  /** The event with the highest version that was committed when the read began. */
  readonly highest: LastSeen.SeenEvent | undefined
  /** The highest version that was committed when the read began. */
  readonly bound: bigint
  readonly sinceMillis: number
  readonly waitMillis: number
  readonly isReported: boolean
}

/** Marks to tell, and how the read goes on, unless it has ended. */
type Step = readonly [marks: Array<Mark>, next: Option.Option<Read>]

const goOn = (read: Read, before: Hole.State): Step => [newMarks(before, read, read.state), Option.some(read)]

const end = (marks: Array<Mark>): Step => [marks, Option.none()]

const newMarks = (before: Hole.State, read: Read, { after }: Hole.State): Array<Mark> =>
  after > before.after ? [markAt(read, after)] : []

const markAt = ({ highest, seen }: Read, version: bigint): Mark => ({
  seen,
  version,
  id: highest?.version === version ? highest.id : undefined
})

const highestOf = (found: typeof Seen.Type | undefined): LastSeen.SeenEvent | undefined =>
  found === undefined || found.highest === null
    ? undefined
    : { version: found.highest, id: found.highestId ?? undefined }

const runsOf = (after: bigint, { beforeHole, highest }: typeof Seen.Type, isHoleKnown: boolean): Array<Hole.Run> => {
  // An empty log ends before its first version.
  const end = highest ?? 0n
  const last = isHoleKnown ? (beforeHole ?? end) : after
  return [...(last > after ? [{ first: after + 1n, last }] : []), { first: end, last: end }]
}

/** How the highest versions are asked for. `check` fails where the answer decides nothing. */
const pagesOf = (
  database: PostgresDatabase["Service"],
  check: LockHolders.Check,
  { isKnownPartitioned, isPartitionedNow, learn }: Partitions.Partitions
) => {
  const { names, query, schema, sql, tables } = database
  const events = tables.events
  const archived = ArchivedEnd.make(database)
  const isCompact = CompactLog.isCompact(database)
  const decodeSeen = decodeRows(Seen, names.events, [])
  const serverColumns = sql.literal(LockHolders.serverColumns({ names, schema }))

  const beforeHole = (after: Fragment, bound: bigint) => sql`(
    SELECT previous FROM (
      SELECT version, pg_catalog.lag(version, 1, ${after}) OVER (ORDER BY version) AS previous
      FROM ${events} WHERE version > ${after} AND version <= ${bound}
    ) AS events WHERE version <> previous + 1 ORDER BY version LIMIT 1)`

  const idAt = (version: bigint) => EventTable.idAt(database, version)

  const ofPlainTable = ({ bound, seen: { version } }: Read, after: bigint, isHoleWanted: boolean) => ({
    last: sql`SELECT version, id FROM ${events} WHERE version <= ${bound} ORDER BY version DESC LIMIT 1`,
    beforeHole: isHoleWanted ? beforeHole(sql`${after}::bigint`, bound) : sql.literal("NULL::bigint"),
    cursorId: version === 0n ? sql.literal("NULL") : idAt(version),
    partitioned: isPartitionedNow,
    archivedEnd: sql.literal("0::bigint")
  })

  /** All versions of the archived part are settled, and its ids are in a table. */
  const ofPartitions = ({ bound, seen }: Read, after: bigint, isHoleWanted: boolean, compact: boolean) => {
    const seenId = LastSeen.atCursor(seen)?.id
    // A compact log has no other ids than UUIDs.
    const id = seenId === undefined || (compact && !isUuid(seenId)) ? undefined : seenId
    const { version } = seen
    return {
      last: archived.lastUpTo(bound),
      beforeHole: isHoleWanted
        ? beforeHole(sql`greatest(${after}::bigint, ${archived.end} - 1::bigint)`, bound)
        : sql.literal("NULL::bigint"),
      cursorId:
        version === 0n || id === undefined
          ? sql`${version === 0n ? sql.literal("NULL") : idAt(version)}`
          : sql`coalesce(${idAt(version)}, (SELECT id FROM ${archived.ids} WHERE id = ${id} AND version = ${version}))`,
      partitioned: sql.literal("true"),
      archivedEnd: archived.end
    }
  }

  /** Asks for the highest version up to the bound, and, if `isHoleWanted`, also for the place of the first hole. */
  return Effect.fnUntraced(function* (
    read: Read,
    after: bigint,
    isHoleWanted: boolean
  ): Effect.fn.Return<{ readonly page: Hole.Page; readonly found: typeof Seen.Type | undefined }, Reason> {
    while (true) {
      const isPartitioned = isKnownPartitioned()
      const columns = isPartitioned
        ? ofPartitions(read, after, isHoleWanted, yield* isCompact)
        : ofPlainTable(read, after, isHoleWanted)
      const askedMillis = yield* realMillis
      const rows = yield* query(sql`
        SELECT ${serverColumns}, last.version AS highest, last.id AS "highestId", ${columns.beforeHole} AS "beforeHole",
          ${columns.cursorId} AS "cursorId", ${columns.partitioned} AS partitioned, ${columns.archivedEnd} AS "archivedEnd"
        FROM (SELECT) AS log LEFT JOIN (${columns.last}) AS last ON true`)
      const [found] = yield* decodeSeen(rows)
      if (found === undefined) return { page: { server: "", runs: [], isFull: false }, found }
      learn(found.partitioned, askedMillis)
      // The log has got partitions since somebody has asked.
      if (found.partitioned && !isPartitioned) continue
      yield* check(query, found)
      return { page: { server: found.server, runs: runsOf(after, found, isHoleWanted), isFull: false }, found }
    }
  })
}

/** Whether an archived event is at the cursor, of which the reader knows no more than the version. Nobody need compare it. */
const isArchived = ({ seen }: Read, found: typeof Seen.Type | undefined): boolean =>
  (found?.archivedEnd ?? 0n) > seen.version && LastSeen.atCursor(seen) === undefined

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { inTransaction, names, query, settleTimeout, sql, tables } = database
  const { check, look, report } = yield* LockHolders.make
  const { agree } = yield* Comparing.make
  const events = tables.events
  const decodeHighest = decodeRows(Highest, names.events, [])
  const decodeLast = decodeRows(Last, names.events, [])
  const partitions = yield* Partitions.make
  const archived = ArchivedEnd.make(database)
  const timeoutMillis = Duration.toMillis(settleTimeout)

  /** The last mark of any read, so that holes below it, which are dead, are decided once. */
  let known: Hole.Mark | undefined

  const remember = (state: Hole.State) =>
    Effect.map(inTransaction, (inside) => {
      known = Hole.remember(known, state, inside)
    })

  const lastBy = (last: Fragment) =>
    query(sql`
      SELECT ${sql.literal(LockHolders.serverColumns(database))}, version, id
      FROM (SELECT) AS log LEFT JOIN (${last}) AS last ON true`)

  /** What is known to a reader that begins at the end of the log. */
  const atEnd = partitions
    .read({
      ofPlainTable: () => lastBy(sql`SELECT version, id FROM ${events} ORDER BY version DESC LIMIT 1`),
      ofPartitions: () => lastBy(archived.lastUpTo(highestPossible))
    })
    .pipe(
      Effect.flatMap(decodeLast),
      // An empty log has a server, too: a subscriber that comes to its end may have seen events of the log that was there before.
      Effect.map(([last]) =>
        last === undefined
          ? LastSeen.of(0n)
          : LastSeen.confirm(LastSeen.of(last.version ?? 0n), last.id ?? undefined, last.server)
      )
    )

  const highestVersion = partitions
    .read({
      ofPlainTable: () => query(sql`SELECT max(version) AS version FROM ${events}`),
      ofPartitions: () => query(sql`SELECT ${archived.highest} AS version`)
    })
    .pipe(
      Effect.flatMap(decodeHighest),
      Effect.map(([row]) => row?.version ?? 0n)
    )

  const page = pagesOf(database, check, partitions)

  /** What the reader remembers, once the log is known to be the one that it has seen. */
  const begin = Effect.fnUntraced(function* (
    read: Read,
    asking: Hole.AsksPage,
    forever: boolean
  ): Effect.fn.Return<Step, LogReplaced | Reason> {
    const { found, page: seenPage } = yield* page(read, asking.after, false)
    const cursorId = found?.cursorId ?? undefined
    const highest = highestOf(found)
    const isAbove = highest !== undefined && highest.version > read.seen.version
    const isUnknown = isArchived(read, found)
    if (!isUnknown && !LastSeen.isCertain(read.seen, { cursorId, isAbove, server: seenPage.server })) {
      const seen = yield* agree(read.seen, forever)
      if (seen === undefined) return end([])
      const after = asking.after === read.seen.version ? seen.version : asking.after
      if (isAbove) return goOn({ ...read, seen, state: Hole.begin(after, known) }, asking)
      return end(forever ? [{ seen, version: after, id: undefined }] : [])
    }
    const state = Hole.seePage(asking, seenPage)
    yield* remember(state)
    const bound = seenPage.runs.at(-1)?.last ?? 0n
    const now: Read = {
      ...read,
      state,
      bound: bound < read.bound ? bound : read.bound,
      seen: isUnknown
        ? { ...read.seen, server: seenPage.server }
        : LastSeen.confirm(read.seen, cursorId, seenPage.server),
      highest
    }
    if (state.ask !== "page") return goOn(now, asking)
    const marks = newMarks(asking, now, state)
    // A reader that stays has to know the event at its cursor, to compare it later.
    return end(marks.length === 0 && forever ? [markAt(now, state.after)] : marks)
  })

  const proceed = Effect.fnUntraced(function* (
    read: Read,
    asking: Hole.AsksHolders | Hole.Waits,
    forever: boolean
  ): Effect.fn.Return<Step, Reason> {
    if (asking.ask === "wait") yield* realSleep(Math.min(read.waitMillis, timeoutMillis))
    const state = Hole.seeHolders(asking, yield* look(query))
    if (state.ask === "page") {
      // Nothing is decided if another server has answered.
      if (state.mark === undefined) return goOn({ ...read, state }, asking)
      yield* remember(state)
      return end([markAt(read, state.mark.version)])
    }
    const now = yield* realMillis
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
    const state = Hole.seePage(waiting, (yield* page(read, waiting.after, true)).page)
    if (state.ask === "page") return end(newMarks(waiting, read, state))
    const isLate = waitedMillis >= timeoutMillis
    if (isLate && !read.isReported) yield* report(query, waiting.holders, state.after + 1n)
    if (isLate && !forever) return end(newMarks(waiting, read, state))
    return goOn({ ...read, state, isReported: isLate }, waiting)
  })

  return {
    highestVersion,
    atEnd,

    /**
     * Versions up to which the log is settled, each higher than the one before: several where the read waits for a
     * transaction and there are events before the place where it may still append. The last one is the highest version that
     * was committed when the read began. After `settleTimeout`, unless the read waits `forever`, it is the end of what is settled.
     * The stream is empty if nothing above the cursor is settled, unless the read waits `forever`: then the mark is the cursor. It
     * fails if the log is not the one that was seen.
     */
    marks: (seen: LastSeen.Seen, forever = false): Stream.Stream<Mark, LogReplaced | Reason> =>
      Stream.unwrap(
        Effect.sync(() => {
          const read: Read = {
            state: Hole.begin(seen.version, known),
            seen,
            highest: undefined,
            bound: highestPossible,
            sinceMillis: 0,
            waitMillis: firstWaitMillis,
            isReported: false
          }
          return Stream.paginate(read, (current) =>
            current.state.ask === "page"
              ? begin(current, current.state, forever)
              : proceed(current, current.state, forever)
          )
        })
      )
  }
})
