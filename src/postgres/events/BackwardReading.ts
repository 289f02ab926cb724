/** How events are read from the last one on. */
import { Effect, Option, Stream } from "effect"
import * as LastSeen from "../../events/LastSeen.ts"
import type { Filter, Query, StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEnd from "./ArchivedEnd.ts"
import type { ArchivedEvents } from "./ArchivedEvents.ts"
import { type EventPages, isNothing } from "./EventPages.ts"
import type { eventDecoder } from "./EventRow.ts"
import { readPage } from "./LongTexts.ts"
import { highestPossible } from "./PageRange.ts"
import { pageEvents, pageOf } from "./PageSize.ts"
import type { Partitions } from "./Partitions.ts"
import type { WalkWarning } from "./WalkWarning.ts"

interface Range {
  readonly after: bigint
  readonly last: bigint
  readonly limit: number
  readonly batchSize: number
  /** How many events the next page is to have. */
  readonly pageLimit: number
}

/** Reads the last events of a part of the log that are in the table, at most so many. */
export type ReadBackward = (
  filter: Filter,
  range: { readonly after: bigint; readonly last: bigint; readonly limit: number }
) => Effect.Effect<ArchivedEnd.WithEnd, Reason>

/** Events, and where the next page begins, or why it fails. */
type Next = readonly [events: ReadonlyArray<StoredEvent>, next: Option.Option<Range | Reason>]

/** What the reader of the log has. */
interface Log {
  readonly archive: ArchivedEvents
  readonly decode: ReturnType<typeof eventDecoder>
  readonly highestVersion: Effect.Effect<bigint, Reason>
  readonly pages: EventPages
  readonly readLog: Partitions["read"]
  readonly warning: WalkWarning
}

export const make = (
  database: PostgresDatabase["Service"],
  { archive, decode, highestVersion, pages, readLog, warning }: Log
) => {
  const { query } = database
  const { findsContained, page } = pages
  const { isSilent, warnOfWalk } = warning
  const { split, withEnd } = ArchivedEnd.make(database)

  /** The events above `after` up to `last` that the filter describes, at most `limit`, in pages from the last one on. */
  const descending = (filter: Filter, range: Range, readRows: ReadBackward) => {
    /** What is archived below what the table has. The next page tells whether it still is. */
    const fromArchive = (
      state: Range,
      events: ReadonlyArray<StoredEvent>,
      last: bigint
    ): Effect.Effect<Next, Reason> => {
      const limit = state.limit - events.length
      if (last <= state.after || limit <= 0) return Effect.succeed([events, Option.none()])
      return Effect.map(archive.backward(filter, { after: state.after, last, limit }), (found) => {
        const all = [...events, ...found.events]
        return [all, Option.some({ ...state, last: found.rest, limit: state.limit - all.length })]
      })
    }

    return Stream.paginate<Range | Reason, StoredEvent, Reason>(range, (state): Effect.Effect<Next, Reason> => {
      if ("_tag" in state) return Effect.fail(state)
      const size = Math.min(state.pageLimit, state.limit)
      const { after, last } = state
      if (size <= 0 || last <= after) return Effect.succeed([[], Option.none()])
      return Effect.flatMap(readRows(filter, { after, last, limit: size }), ({ end, rows: found }) => {
        const { isFull, nextLimit, rows } = pageOf(found, size, state.batchSize)
        const { corrupt, events } = decode(rows)
        // The events before a corrupt row are delivered first; the next page fails.
        if (corrupt !== undefined) return Effect.succeed<Next>([events, Option.some(corrupt)])
        if (!isFull && end === 0n) return Effect.succeed<Next>([events, Option.none()])
        if (!isFull) return fromArchive(state, events, end > last ? last : end - 1n)
        const lowest = events.at(-1)?.version
        const rest = lowest === undefined ? {} : { last: lowest - 1n }
        return Effect.succeed<Next>([
          events,
          Option.some({ ...state, ...rest, pageLimit: nextLimit, limit: state.limit - events.length })
        ])
      })
    })
  }

  /** A page that is read from the last event on, with the end of what is archived. */
  const pageBackward: ReadBackward = (filter, range) =>
    Effect.flatMap(page(filter, { ...range, direction: "DESC" }), (select) =>
      readLog({
        ofPlainTable: () => Effect.map(readPage(query, select), (rows) => ({ rows, end: 0n })),
        ofPartitions: () =>
          ArchivedEnd.again(
            Effect.flatMap(
              readPage(query, (part) => withEnd(select(part), "DESC")),
              split
            )
          )
      })
    )

  const readBackward: ReadBackward = (filter, range) => {
    const rows = pageBackward(filter, range)
    if (range.last < highestPossible || isSilent(filter)) return rows
    return Effect.andThen(
      Effect.flatMap(highestVersion, (highest) => warnOfWalk(filter, highest - range.after, findsContained)),
      rows
    )
  }

  /** The events that a query describes, from the last one on. */
  const backward = (input: Query, readRows: ReadBackward): Stream.Stream<StoredEvent, Reason> => {
    const { after = 0n, batchSize = pageEvents, limit = Number.POSITIVE_INFINITY } = input
    const pageLimit = Math.min(batchSize, pageEvents)
    const { version } = LastSeen.of(after)
    return isNothing(input) || limit === 0
      ? Stream.empty
      : descending(input, { after: version, last: highestPossible, batchSize, pageLimit, limit }, readRows)
  }

  return { backward, readBackward }
}
