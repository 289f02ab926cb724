/**
 * How events are read from a cursor on, in the order of their versions: pages of the table, and the files of what is archived, in
 * turns.
 */
import { Array as Arr, Effect, Option, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import * as LastSeen from "../../events/LastSeen.ts"
import { type Filter, LogReplaced, type StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import type { ArchivedEvents } from "./ArchivedEvents.ts"
import type * as Comparing from "./Comparing.ts"
import type { EventPages } from "./EventPages.ts"
import type { eventDecoder } from "./EventRow.ts"
import * as EventTable from "./EventTable.ts"
import { readPage } from "./LongTexts.ts"
import type * as MarkedReading from "./MarkedReading.ts"
import { pageOf, partEvents } from "./PageSize.ts"
import type { Partitions } from "./Partitions.ts"

const idOf = ({ id, version }: LastSeen.SeenEvent): LastSeen.SeenEvent => ({ version, id })

type Steps = Stream.Stream<MarkedReading.Step, LogReplaced | Reason>

/** A step of the pages, and where the next page begins, or why it fails. */
type Next = readonly [steps: Array<MarkedReading.Step>, next: Option.Option<Range | Reason>]

/** Says where the other reader goes on: the files where the table ends, and the table where the files do. */
type GoOn = (next: Range) => void

/** What is to be read. */
export interface Range {
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

/** What the reader of the log has. */
interface Log {
  readonly archive: ArchivedEvents
  readonly compare: Effect.Success<typeof Comparing.make>["compare"]
  readonly decode: ReturnType<typeof eventDecoder>
  readonly pages: EventPages
  readonly partitions: Partitions
}

export const make = (database: PostgresDatabase["Service"], { archive, compare, decode, pages, partitions }: Log) => {
  const { query, sql } = database
  const { end, split, withEnd } = ArchivedEnd.make(database)

  /** A condition that is false for every row if the event that was seen last is not there any more. */
  const guardOf = ({ isLater, seen }: Range): Fragment | undefined => {
    const last = LastSeen.atCursor(seen)
    return !isLater || last?.id === undefined
      ? undefined
      : sql`${EventTable.idAt(database, last.version)}::text = ${last.id}`
  }

  /**
   * A later page without a row: that is the end, or the event that was seen last is gone. It may have been archived, and others
   * with it: a page without a guard tells.
   */
  const afterNothing = (state: Range): Effect.Effect<Next, LogReplaced | Reason> =>
    Effect.flatMap(compare(query, state.seen), (seen) => {
      if (seen instanceof LogReplaced) return Effect.fail(seen)
      const isDeleted = LastSeen.atCursor(seen)?.id === undefined
      const isOpen = isDeleted || partitions.isKnownPartitioned()
      return Effect.succeed<Next>([[], isOpen ? Option.some({ ...state, seen, isLater: false }) : Option.none()])
    })

  /**
   * A page of the table. Where the event at the cursor is there, nothing above it is archived, as what is archived is the oldest
   * part of the log. Else a page of a log with partitions is only read where nothing above the cursor is.
   */
  const readRows = (
    filter: Filter,
    state: Range,
    guard: Fragment | undefined
  ): Effect.Effect<ArchivedEnd.WithEnd, Reason> => {
    const { isShort, last, pageLimit, seen } = state
    const range = { after: seen.version, last, direction: "ASC", limit: pageLimit, isShort } as const
    const ofPlainTable = () =>
      Effect.map(
        Effect.flatMap(pages.page(filter, { ...range, guard }), (select) => readPage(query, select)),
        (rows) => ({ rows, end: 0n })
      )
    const ofPartitions = () => {
      const select = pages.page(filter, { ...range, guard: sql`${end} <= ${seen.version + 1n}` })
      return ArchivedEnd.again(
        Effect.flatMap(select, (select) =>
          Effect.flatMap(
            readPage(query, (part) => withEnd(select(part))),
            split
          )
        )
      )
    }
    return guard === undefined ? partitions.read({ ofPlainTable, ofPartitions }) : ofPlainTable()
  }

  /** The events of the table up to what is archived. */
  const table = (filter: Filter, first: Range, goOn: GoOn): Steps => {
    // The mark was in the part that the files have.
    if (first.seen.version >= first.last) return Stream.empty
    return Stream.paginate<Range | Reason, MarkedReading.Step, LogReplaced | Reason>(first, (state) => {
      if ("_tag" in state) return Effect.fail(state)
      const { batchSize, pageLimit, seen } = state
      const guard = guardOf(state)
      return Effect.flatMap(
        readRows(filter, state, guard),
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

  /** The events of the next archived part, in steps, unless the part is restored meanwhile: then those up to there. */
  const archivedSteps = (
    filter: Filter,
    { batchSize, last, seen: before }: Pick<Range, "batchSize" | "last" | "seen">
  ): Steps =>
    Stream.unwrap(
      Effect.map(archive.partAfter(before.version), (part): Steps => {
        if (part === undefined) return Stream.empty
        let seen = before
        const upTo = part.endVersion <= last ? part.endVersion - 1n : last
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
            const pages = events.length === 0 ? [[]] : Arr.chunksOf(events, batchSize)
            return Stream.fromIterable(
              pages.map((page, index) => step(page, index === pages.length - 1 ? last : (page.at(-1) ?? last)))
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

  /** The events of the next archived part. */
  const files = (filter: Filter, state: Range, goOn: GoOn): Steps => {
    goOn({ ...state, isLater: false })
    return Stream.tap(archivedSteps(filter, state), ({ seen }) =>
      Effect.sync(() => goOn({ ...state, seen, isLater: false }))
    )
  }

  return {
    archivedSteps,

    /** The events above what was seen, up to `last`, that the filter describes, in steps. */
    ascending: (filter: Filter, begin: Range): Steps =>
      ArchivedEnd.inTurns(begin, {
        table: (from, goOn) => table(filter, from, goOn),
        files: (from, goOn) => files(filter, from, goOn)
      })
  }
}
