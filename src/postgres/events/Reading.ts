/** How events are read: those of one aggregate at once, others as pages that become a stream. */
import { Array, Effect, Option, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { Filter, Query, StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase, type Runnable } from "../database/PostgresDatabase.ts"
import * as EventPages from "./EventPages.ts"
import { eventDecoder } from "./EventRow.ts"
import { pageOf } from "./PageSize.ts"
import * as Settling from "./Settling.ts"

/** How many events a page has at most, unless a query says otherwise. */
const pageEvents = 1000

interface Range {
  readonly after: bigint
  readonly last: bigint
  readonly limit: number
  readonly batchSize: number
  /** How many events the next page is to have. */
  readonly pageLimit: number
}

/** The events that the filter describes, from the end of the step before up to a version. */
export interface Step {
  readonly events: ReadonlyArray<StoredEvent>
  readonly upTo: bigint
}

/** The events of pages, some of which may be empty. A stream for each page would let memory grow with the number of pages. */
export const eventsIn = <E>(pages: Stream.Stream<Step["events"], E>): Stream.Stream<StoredEvent, E> =>
  Stream.flattenArray(Stream.filter(pages, Array.isReadonlyArrayNonEmpty))

export const make = Effect.gen(function* () {
  const { fixed, integers, names, query, sql, tables } = yield* PostgresDatabase
  const settling = yield* Settling.make
  const { columns, filtersOf, select } = yield* EventPages.make
  const decode = eventDecoder(names.events, integers)

  const eventsOf = (statement: Runnable): Effect.Effect<Array<StoredEvent>, Reason> =>
    Effect.flatMap(query(statement), (rows) => {
      const { corrupt, events } = decode(rows)
      return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
    })

  /** The events above `after` up to `last` that the filters describe, at most `limit`, in pages. */
  const pages = (filters: ReadonlyArray<Fragment>, direction: "ASC" | "DESC", range: Range) =>
    Stream.paginate<Range | Reason, StoredEvent, Reason>(range, (state) => {
      if ("_tag" in state) return Effect.fail(state)
      const size = Math.min(state.pageLimit, state.limit)
      if (size <= 0) return Effect.succeed([[], Option.none()])
      const within = [...filters, sql`version > ${state.after}`, sql`version <= ${state.last}`]
      return Effect.map(query(select(within, direction, size)), (found) => {
        const { isFull, nextLimit, rows } = pageOf(found, size, state.batchSize)
        const { corrupt, events } = decode(rows)
        // The events before a corrupt row are delivered first; the next page fails.
        if (corrupt !== undefined) return [events, Option.some(corrupt)]
        if (!isFull) return [events, Option.none()]
        const end = events.at(-1)?.version
        const rest = end === undefined ? {} : direction === "ASC" ? { after: end } : { last: end - 1n }
        return [events, Option.some({ ...state, ...rest, pageLimit: nextLimit, limit: state.limit - events.length })]
      })
    })

  /** Whether the filter describes no event at all. */
  const isNothing = ({ aggregateIds, eventTypes }: Filter) => aggregateIds?.length === 0 || eventTypes?.length === 0

  /** The settled events above a version, in steps that say how far they go. */
  const settled = (
    filter: Filter,
    {
      after,
      batchSize = pageEvents,
      forever
    }: { readonly after: bigint; readonly batchSize?: number | undefined; readonly forever: boolean }
  ): Stream.Stream<Step, Reason> => {
    const filters = filtersOf(filter)
    let from = after
    return Stream.flatMap(settling.marks(after, forever), (last) => {
      const range = {
        after: from,
        last,
        batchSize,
        pageLimit: Math.min(batchSize, pageEvents),
        limit: Number.POSITIVE_INFINITY
      }
      from = last
      const end = Stream.succeed<Step>({ events: [], upTo: last })
      if (isNothing(filter)) return end
      const steps = Stream.mapArray(pages(filters, "ASC", range), (events) => [
        { events, upTo: events[events.length - 1]?.version ?? last }
      ])
      return Stream.concat(steps, end)
    })
  }

  return {
    highestVersion: settling.highestVersion,
    settled,

    /** What `read` of the contract does. */
    read: (input: Query): Stream.Stream<StoredEvent, Reason> => {
      const { after = 0n, batchSize = pageEvents, direction = "forward", limit = Number.POSITIVE_INFINITY } = input
      if (limit === 0 || isNothing(input)) return Stream.empty
      if (direction === "backward") {
        const pageLimit = Math.min(batchSize, pageEvents)
        return pages(filtersOf(input), "DESC", { after, last: 2n ** 63n - 1n, batchSize, pageLimit, limit })
      }
      const steps = settled(input, { after, batchSize: Math.min(batchSize, limit), forever: false })
      const forward = eventsIn(Stream.map(steps, ({ events }) => events))
      return limit === Number.POSITIVE_INFINITY ? forward : Stream.take(forward, limit)
    },

    byAggregate: (aggregateId: string, since: bigint) =>
      eventsOf(fixed`
        SELECT ${columns.sent} FROM (
          SELECT ${columns.read} FROM ${tables.events} WHERE aggregate_id = ${aggregateId} AND version > ${since}
          ORDER BY version OFFSET 0
        ) AS page ORDER BY version`),

    byId: (id: string) =>
      eventsOf(fixed`
        SELECT ${columns.sent} FROM (SELECT ${columns.read} FROM ${tables.events} WHERE id = ${id} OFFSET 0) AS page`)
  }
})
