/** How events are read as pages that become a stream. `Lookups` finds those of one aggregate, and one by its id. */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import * as LastSeen from "../../events/LastSeen.ts"
import { eventsIn } from "../../events/Steps.ts"
import { type Filter, LogReplaced, type Query, type StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import * as BackwardReading from "./BackwardReading.ts"
import * as Comparing from "./Comparing.ts"
import * as EventPages from "./EventPages.ts"
import { eventDecoder } from "./EventRow.ts"
import * as LockHolders from "./LockHolders.ts"
import { readPage } from "./LongTexts.ts"
import * as Lookups from "./Lookups.ts"
import * as MarkedReading from "./MarkedReading.ts"
import { pageEvents, pageOf } from "./PageSize.ts"
import * as Partitions from "./Partitions.ts"
import * as Settling from "./Settling.ts"
import * as WalkWarning from "./WalkWarning.ts"

/**
 * How many events a statement looks through for those that a filter describes, where the reader wants to know how far it has
 * come: no answer takes long then, and after a lost connection the reader need not begin anew. It takes some 30 milliseconds.
 */
export const partEvents = 50_000

const idOf = ({ id, version }: LastSeen.SeenEvent): LastSeen.SeenEvent => ({ version, id })

/** Where a reader stops that looks for few of many events. */
const Stop = Schema.Struct({ version: Schema.BigInt, id: Schema.String })

type Steps = Stream.Stream<MarkedReading.Step, LogReplaced | Reason>

/** Pages of events in the order of their versions. */
interface Ascending {
  readonly last: bigint
  readonly batchSize: number
  readonly pageLimit: number
  /** What the reader has seen: the next page begins there. */
  readonly seen: LastSeen.Seen
  /** Whether there was a page before. The next one is only read if the last event of that page is still there. */
  readonly isLater: boolean
  /** Whether it is a part of the log such as `partEvents` describes. */
  readonly isShort: boolean
}

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { integers, names, query, sql, tables } = database
  const { isKnownPartitioned, read: readLog } = yield* Partitions.make
  const { end, split, withEnd } = ArchivedEnd.make(database)
  const archive = yield* ArchivedEvents.make
  const settling = yield* Settling.make
  const { agree, compare } = yield* Comparing.make
  const pages = yield* EventPages.make
  const { findsContained, page, walks } = pages
  const decode = eventDecoder(names.events, integers)
  const warning = WalkWarning.make(database, pages)
  const { warnOfWalk } = warning
  const decodeStop = decodeRows(Stop, names.events, [])

  // Where the server is a standby itself, and there is no replica beside it.
  const marked = yield* MarkedReading.make({ isOfThisLog: () => true, need: () => {}, warnOfWalk })

  /** A condition that is false for every row if the event that was seen last is not there any more. */
  const guardOf = ({ isLater, seen }: Ascending): Fragment | undefined => {
    const last = LastSeen.atCursor(seen)
    return !isLater || last?.id === undefined
      ? undefined
      : sql`(SELECT id::text FROM ${tables.events} WHERE version = ${last.version}) = ${last.id}`
  }

  /** The events above what was seen up to `last` that the filter describes, in pages. */
  const ascending = (filter: Filter, begin: Ascending): Steps => {
    type Next = readonly [steps: Array<MarkedReading.Step>, next: Option.Option<Ascending | Reason>]
    type GoOn = (next: Ascending) => void

    /**
     * A later page without a row: that is the end, or the event that was seen last is gone. It may have been archived, and others with
     * it: a page without a guard tells.
     */
    const afterNothing = (state: Ascending): Effect.Effect<Next, LogReplaced | Reason> =>
      Effect.flatMap(compare(query, state.seen), (seen) => {
        if (seen instanceof LogReplaced) return Effect.fail(seen)
        const isDeleted = LastSeen.atCursor(seen)?.id === undefined
        const isOpen = isDeleted || isKnownPartitioned()
        return Effect.succeed<Next>([[], isOpen ? Option.some({ ...state, seen, isLater: false }) : Option.none()])
      })

    /**
     * A page of the table. Where the event at the cursor is there, nothing above it is archived, as what is archived is the oldest part
     * of the log. Else a page of a log with partitions is only read where nothing above the cursor is.
     */
    const readRows = (state: Ascending, guard: Fragment | undefined): Effect.Effect<ArchivedEnd.WithEnd, Reason> => {
      const { isShort, last, pageLimit, seen } = state
      const range = { after: seen.version, last, direction: "ASC", limit: pageLimit, isShort } as const
      const ofPlainTable = () =>
        Effect.map(
          Effect.flatMap(page(filter, { ...range, guard }), (select) => readPage(query, select)),
          (rows) => ({ rows, end: 0n })
        )
      const ofPartitions = () => {
        const select = page(filter, { ...range, guard: sql`${end} <= ${seen.version + 1n}` })
        return ArchivedEnd.again(
          Effect.flatMap(select, (select) =>
            Effect.flatMap(
              readPage(query, (part) => withEnd(select(part))),
              split
            )
          )
        )
      }
      return guard === undefined ? readLog({ ofPlainTable, ofPartitions }) : ofPlainTable()
    }

    const table = (first: Ascending, goOn: GoOn): Steps => {
      // The mark was in the part that the files have.
      if (first.seen.version >= first.last) return Stream.empty
      return Stream.paginate<Ascending | Reason, MarkedReading.Step, LogReplaced | Reason>(first, (state) => {
        if ("_tag" in state) return Effect.fail(state)
        const { batchSize, pageLimit, seen } = state
        const guard = guardOf(state)
        return Effect.flatMap(
          readRows(state, guard),
          ({ end, rows: found }): Effect.Effect<Next, LogReplaced | Reason> => {
            if (found.length === 0 && guard !== undefined) return afterNothing(state)
            if (end > seen.version + 1n) goOn(state)
            const { isFull, nextLimit, rows } = pageOf(found, pageLimit, batchSize)
            const { corrupt, events } = decode(rows)
            const last = events.at(-1)
            const now =
              last === undefined ? seen : LastSeen.add(seen, LastSeen.lastOf(events, idOf), last.version, seen.server)
            const steps = last === undefined ? [] : [{ events, seen: now }]
            // The events before a corrupt row are delivered first; the next page fails.
            if (corrupt !== undefined) return Effect.succeed<Next>([steps, Option.some(corrupt)])
            if (!isFull) return Effect.succeed<Next>([steps, Option.none()])
            return Effect.succeed<Next>([
              steps,
              Option.some({ ...state, seen: now, isLater: true, pageLimit: nextLimit })
            ])
          }
        )
      })
    }

    const files = (state: Ascending, goOn: GoOn): Steps => {
      goOn({ ...state, isLater: false })
      return Stream.tap(archivedSteps(filter, state), ({ seen }) =>
        Effect.sync(() => goOn({ ...state, seen, isLater: false }))
      )
    }

    return ArchivedEnd.inTurns(begin, { table, files })
  }

  /** The events of the next archived part, in steps, unless the part is restored meanwhile: then those up to there. */
  const archivedSteps = (
    filter: Filter,
    { batchSize, last, seen: before }: Pick<Ascending, "batchSize" | "last" | "seen">
  ): Steps =>
    Stream.unwrap(
      Effect.map(archive.partAfter(before.version), (part): Steps => {
        if (part === undefined) return Stream.empty
        let seen = before
        const upTo = part.end <= last ? part.end - 1n : last
        const step = (events: ReadonlyArray<StoredEvent>, to: LastSeen.SeenEvent): MarkedReading.Step => {
          const others = events.at(-1)?.version === to.version ? events.slice(0, -1) : events
          seen = LastSeen.add(seen, [...LastSeen.lastOf(others, idOf), idOf(to)], to.version, seen.server)
          return { events, seen }
        }
        const steps: Stream.Stream<MarkedReading.Step, Reason | ArchivedEnd.Moved> = Stream.flatMap(
          archive.steps(part, filter, before.version, upTo),
          ({ events, last }) => {
            // As often as a reader of the table that looks for few of many events.
            if (events.length === 0 && last.version - seen.version < partEvents) return Stream.empty
            const pages = Math.max(1, Math.ceil(events.length / batchSize))
            return Stream.fromIterable(
              Array.from({ length: pages }, (_, number) => {
                const page = events.slice(number * batchSize, (number + 1) * batchSize)
                return step(page, number === pages - 1 ? last : (page.at(-1) ?? last))
              })
            )
          }
        )
        const end = Stream.sync((): MarkedReading.Step => {
          seen = { ...seen, version: upTo }
          return { events: [], seen }
        })
        const all = Stream.concat(steps, end)
        return Stream.catchTag(all, "Moved", () => Stream.empty)
      })
    )

  /**
   * The places above a version at which a reader that looks for few of many events stops, before the mark. The last one is the
   * mark itself.
   */
  const partsUpTo = (mark: Settling.Mark, after: bigint): Stream.Stream<Settling.Mark, Reason> =>
    Stream.paginate(after, (from) => {
      const whole = [[mark], Option.none<bigint>()] as const
      if (mark.version - from <= partEvents) return Effect.succeed(whole)
      const statement = sql`
        SELECT version, id FROM ${tables.events} WHERE version > ${from} AND version < ${mark.version}
        ORDER BY version OFFSET ${partEvents - 1} LIMIT 1`
      return Effect.map(Effect.flatMap(query(statement), decodeStop), ([stop]) =>
        stop === undefined ? whole : ([[{ ...mark, ...stop }], Option.some(stop.version)] as const)
      )
    })

  /** The settled events above what was seen, in steps that say how far they go. */
  const settled = (
    filter: Filter,
    {
      batchSize = pageEvents,
      forever,
      seen: before
    }: { readonly seen: LastSeen.Seen; readonly batchSize?: number | undefined; readonly forever: boolean }
  ): Stream.Stream<MarkedReading.Step, LogReplaced | Reason> => {
    const isInParts = forever && walks(filter) && !EventPages.isNothing(filter)
    let seen: LastSeen.Seen | undefined
    const all = settling.marks(before, forever)
    const marks = Stream.tap(all, (mark) =>
      warnOfWalk(filter, mark.version - (seen ?? mark.seen).version, findsContained)
    )
    const stops = isInParts ? Stream.flatMap(marks, (mark) => partsUpTo(mark, (seen ?? mark.seen).version)) : marks
    return Stream.flatMap(stops, (mark) => {
      const begin: Ascending = {
        last: mark.version,
        batchSize,
        pageLimit: Math.min(batchSize, pageEvents),
        isLater: seen !== undefined && isInParts,
        isShort: isInParts,
        seen: (seen ??= mark.seen)
      }
      const isEmpty = EventPages.isNothing(filter) || mark.version <= begin.seen.version
      const steps = isEmpty ? Stream.empty : ascending(filter, begin)
      const end = Stream.sync((): MarkedReading.Step => {
        const { server } = mark.seen
        seen = LastSeen.add(seen ?? mark.seen, mark.id === undefined ? [] : [idOf(mark)], mark.version, server)
        return { events: [], seen }
      })
      const counted = Stream.map(steps, (step) => {
        seen = step.seen
        return step
      })
      return Stream.concat(counted, end)
    })
  }

  /** Why a standby cannot go on, where there is no other server that could. */
  const whyLeft = ({ reason }: MarkedReading.Left): LogReplaced | Reason => reason ?? LockHolders.onStandby

  const isOnStandby = (reason: LogReplaced | Reason): boolean => reason === LockHolders.onStandby

  /** Fails if the log is not the one that was seen. A standby compares once its mark is as high. */
  const compareWith = (seen: LastSeen.Seen): Effect.Effect<unknown, LogReplaced | Reason> =>
    Effect.catchIf(agree(seen, false), isOnStandby, () =>
      Effect.catchTag(marked.compare({ seen, needed: 0n, wait: Duration.zero }), "Left", (left) =>
        Effect.fail(whyLeft(left))
      )
    )

  /** The settled events that a standby has, up to the mark that its primary has published. */
  const upToMark = (
    filter: Filter,
    seen: LastSeen.Seen,
    batchSize: number
  ): Stream.Stream<MarkedReading.Step, LogReplaced | Reason> =>
    Stream.catchTag(
      marked.steps(filter, {
        seen,
        batchSize,
        pageLimit: Math.min(batchSize, pageEvents),
        part: undefined,
        needed: 0n,
        wait: Duration.zero
      }),
      "Left",
      (left) => Stream.fail(whyLeft(left))
    )

  const { highestVersion } = settling
  const { backward, readBackward } = BackwardReading.make(database, {
    archive,
    decode,
    highestVersion,
    pages,
    readLog,
    warning
  })

  return {
    highestVersion,
    atEnd: settling.atEnd,
    settled,

    /** What is archived right above what was seen, up to the end of its part, in steps: nothing if the table has it. */
    archived: (
      filter: Filter,
      { batchSize, seen }: { readonly seen: LastSeen.Seen; readonly batchSize: number }
    ): Stream.Stream<MarkedReading.Step, LogReplaced | Reason> =>
      Stream.unwrap(
        Effect.map(agree(seen, false), (now): Steps =>
          now === undefined
            ? Stream.empty
            : archivedSteps(filter, { batchSize, last: BackwardReading.highestPossible, seen: now })
        )
      ),
    backward,
    readBackward,
    decode,
    walks,
    warnOfWalk,
    ...Lookups.make(database, { archive, decode, pages, readLog }),

    /** What `read` of the contract does. */
    read: (input: Query): Stream.Stream<StoredEvent, LogReplaced | Reason> => {
      const { after = 0n, batchSize = pageEvents, direction = "forward", limit = Number.POSITIVE_INFINITY } = input
      const seen = LastSeen.of(after)
      if (limit === 0) {
        const isCompared = direction === "forward" && seen.version > 0n
        return isCompared ? Stream.drain(Stream.fromEffect(compareWith(seen))) : Stream.empty
      }
      if (direction === "backward") return backward(input, readBackward)
      const size = Math.min(batchSize, limit)
      const steps = Stream.catchIf(settled(input, { seen, batchSize: size, forever: false }), isOnStandby, () =>
        EventPages.isNothing(input) ? Stream.empty : upToMark(input, seen, size)
      )
      const forward = eventsIn(steps)
      return limit === Number.POSITIVE_INFINITY ? forward : Stream.take(forward, limit)
    }
  }
})

export type Reading = Effect.Success<typeof make>
