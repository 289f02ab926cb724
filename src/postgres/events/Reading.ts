/** How events are read: those of one aggregate at once, others as pages that become a stream. */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import type { Fragment } from "effect/sql/Statement"
import type { AggregateSince } from "../../Event.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { eventsIn } from "../../events/Steps.ts"
import { Filter, LogReplaced, type Query, type StoredEvent } from "../../EventStore.ts"
import { isUuid } from "../../internal/Ids.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase, type Runnable } from "../database/PostgresDatabase.ts"
import * as CompactLog from "./CompactLog.ts"
import * as Comparing from "./Comparing.ts"
import * as EventPages from "./EventPages.ts"
import { eventDecoder } from "./EventRow.ts"
import * as EventTable from "./EventTable.ts"
import * as LockHolders from "./LockHolders.ts"
import { readPage } from "./LongTexts.ts"
import * as MarkedReading from "./MarkedReading.ts"
import { pageOf } from "./PageSize.ts"
import * as Partitions from "./Partitions.ts"
import * as Settling from "./Settling.ts"

/** How many events a page has at most, unless a query says otherwise. */
export const pageEvents = 1000

/**
 * How many events a statement looks through for those that a filter describes, where the reader wants to know how far it has
 * come: no answer takes long then, and after a lost connection the reader need not begin anew. It takes some 30 milliseconds.
 */
export const partEvents = 50_000

/** Who looks through more events than that for a few of them is told that no index finds these. */
const manyVersions = 1_000_000n

const highestPossible = 2n ** 63n - 1n

/** Whether the filter describes no event at all. */
export const isNothing = ({ aggregateIds, eventTypes }: Filter): boolean =>
  aggregateIds?.length === 0 || eventTypes?.length === 0

const idOf = ({ id, version }: LastSeen.SeenEvent): LastSeen.SeenEvent => ({ version, id })

/** What a query has of a filter. */
const fieldsOfFilter = new Set(Object.keys(Filter.fields))

/** Where a reader stops that looks for few of many events. */
const Stop = Schema.Struct({ version: Schema.BigInt, id: Schema.String })

interface Range {
  readonly after: bigint
  readonly last: bigint
  readonly limit: number
  readonly batchSize: number
  /** How many events the next page is to have. */
  readonly pageLimit: number
}

/** Reads the last events of a part of the log, at most so many. */
export type ReadBackward = (
  filter: Filter,
  range: { readonly after: bigint; readonly last: bigint; readonly limit: number }
) => Effect.Effect<ReadonlyArray<unknown>, Reason>

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
  const { fixed, integers, names, query, sql, tables } = database
  const { isPartitioned } = yield* Partitions.make
  const isCompact = CompactLog.isCompact(database)
  const idTable = sql.literal(EventTable.idsNameOf(database))
  const settling = yield* Settling.make
  const { agree, compare } = yield* Comparing.make
  const { columns, findsContained, page, selectAll, walks } = yield* EventPages.make
  const decode = eventDecoder(names.events, integers)
  const decodeStop = decodeRows(Stop, names.events, [])
  let hasWarned = false

  /** Warns once that a filter has all these events read, if no index serves it. The server that is read says whether one does. */
  const warnOfWalk: MarkedReading.Marks["warnOfWalk"] = (filter, count, isIndexed) => {
    if (hasWarned || count <= manyVersions || !walks(filter)) return Effect.void
    return Effect.flatMap(isIndexed(filter), (indexed) => {
      if (hasWarned || indexed) return Effect.void
      hasWarned = true
      const fields = Object.entries(filter).flatMap(([field, value]) =>
        fieldsOfFilter.has(field) && value !== undefined ? [field] : []
      )
      return Effect.logWarning(
        `a filter by ${fields.join(", ")} is looked up in no index: up to ${count} events of ${names.events} are read for it; ` +
          "name types, one aggregate or tags, begin after a later version, or see the option index"
      )
    })
  }

  // Where the server is a standby itself, and there is no replica beside it.
  const marked = yield* MarkedReading.make({ isOfThisLog: () => true, need: () => {}, warnOfWalk })

  /** The events of a statement that is the same each time. The filters describe the same events. */
  const eventsOf = (
    statement: Runnable,
    ...filters: ReadonlyArray<Fragment>
  ): Effect.Effect<Array<StoredEvent>, Reason> =>
    Effect.flatMap(
      readPage(query, (part) => (part === "all" ? statement : selectAll(filters)(part))),
      (rows) => {
        const { corrupt, events } = decode(rows)
        return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
      }
    )

  /** The events above `after` up to `last` that the filter describes, at most `limit`, in pages from the last one on. */
  const descending = (filter: Filter, range: Range, readRows: ReadBackward) =>
    Stream.paginate<Range | Reason, StoredEvent, Reason>(range, (state) => {
      if ("_tag" in state) return Effect.fail(state)
      const size = Math.min(state.pageLimit, state.limit)
      if (size <= 0) return Effect.succeed([[], Option.none()])
      const { after, last } = state
      return Effect.map(readRows(filter, { after, last, limit: size }), (found) => {
        const { isFull, nextLimit, rows } = pageOf(found, size, state.batchSize)
        const { corrupt, events } = decode(rows)
        // The events before a corrupt row are delivered first; the next page fails.
        if (corrupt !== undefined) return [events, Option.some(corrupt)]
        if (!isFull) return [events, Option.none()]
        const lowest = events.at(-1)?.version
        const rest = lowest === undefined ? {} : { last: lowest - 1n }
        return [events, Option.some({ ...state, ...rest, pageLimit: nextLimit, limit: state.limit - events.length })]
      })
    })

  const readBackward: ReadBackward = (filter, range) => {
    const rows = readPage(query, page(filter, { ...range, direction: "DESC" }))
    if (hasWarned || range.last < highestPossible || !walks(filter)) return rows
    return Effect.andThen(
      Effect.flatMap(settling.highestVersion, (highest) => warnOfWalk(filter, highest - range.after, findsContained)),
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

  /** A condition that is false for every row if the event that was seen last is not there any more. */
  const guardOf = ({ isLater, seen }: Ascending): Fragment | undefined => {
    const last = LastSeen.atCursor(seen)
    return !isLater || last?.id === undefined
      ? undefined
      : sql`(SELECT id::text FROM ${tables.events} WHERE version = ${last.version}) = ${last.id}`
  }

  /** The events above what was seen up to `last` that the filter describes, in pages. */
  const ascending = (filter: Filter, begin: Ascending) => {
    type Next = readonly [steps: Array<MarkedReading.Step>, next: Option.Option<Ascending | Reason>]

    /** A later page without a row: either that is the end, or the event that was seen last is gone. */
    const afterNothing = (state: Ascending): Effect.Effect<Next, LogReplaced | Reason> =>
      Effect.flatMap(compare(query, state.seen), (seen) => {
        if (seen instanceof LogReplaced) return Effect.fail(seen)
        const isDeleted = LastSeen.atCursor(seen)?.id === undefined
        return Effect.succeed<Next>([[], isDeleted ? Option.some({ ...state, seen }) : Option.none()])
      })

    return Stream.paginate<Ascending | Reason, MarkedReading.Step, LogReplaced | Reason>(begin, (state) => {
      if ("_tag" in state) return Effect.fail(state)
      const { batchSize, isShort, last, pageLimit, seen } = state
      const guard = guardOf(state)
      const range = { after: seen.version, last, direction: "ASC", limit: pageLimit, isShort, guard } as const
      return Effect.flatMap(
        readPage(query, page(filter, range)),
        (found): Effect.Effect<Next, LogReplaced | Reason> => {
          if (found.length === 0 && guard !== undefined) return afterNothing(state)
          const { isFull, nextLimit, rows } = pageOf(found, pageLimit, batchSize)
          const { corrupt, events } = decode(rows)
          const end = events.at(-1)
          const now =
            end === undefined ? seen : LastSeen.add(seen, LastSeen.lastOf(events, idOf), end.version, seen.server)
          const steps = end === undefined ? [] : [{ events, seen: now }]
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
    const isInParts = forever && walks(filter) && !isNothing(filter)
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
      const isEmpty = isNothing(filter) || mark.version <= begin.seen.version
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

  /** The event with an id. The parameter has the type of the column. */
  const withId = (id: string): Effect.Effect<Array<StoredEvent>, Reason> =>
    Effect.flatMap(isPartitioned, (partitioned) =>
      partitioned
        ? eventsOf(
            fixed`
              SELECT ${columns.sent} FROM (
                SELECT ${columns.read} FROM ${tables.events} WHERE version = (SELECT version FROM ${idTable} WHERE id = ${id}) OFFSET 0
              ) AS page`,
            sql`version = (SELECT version FROM ${idTable} WHERE id = ${id})`
          )
        : eventsOf(
            fixed`
              SELECT ${columns.sent} FROM (SELECT ${columns.read} FROM ${tables.events} WHERE id = ${id} OFFSET 0) AS page`,
            sql`id = ${id}`
          )
    )

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

  return {
    highestVersion: settling.highestVersion,
    atEnd: settling.atEnd,
    settled,
    backward,
    readBackward,
    decode,
    walks,
    warnOfWalk,

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
        isNothing(input) ? Stream.empty : upToMark(input, seen, size)
      )
      const forward = eventsIn(steps)
      return limit === Number.POSITIVE_INFINITY ? forward : Stream.take(forward, limit)
    },

    byAggregate: ({ aggregateId, since }: AggregateSince) =>
      eventsOf(
        fixed`
          SELECT ${columns.sent} FROM (
            SELECT ${columns.read} FROM ${tables.events} WHERE aggregate_id = ${aggregateId} AND version > ${since}
            ORDER BY version OFFSET 0
          ) AS page ORDER BY version`,
        sql`aggregate_id = ${aggregateId}`,
        sql`version > ${since}`
      ),

    /** A compact log has no other ids than UUIDs, and the server takes no other text for one. */
    byId: (id: string) =>
      isUuid(id) ? withId(id) : Effect.flatMap(isCompact, (compact) => (compact ? Effect.succeed([]) : withId(id)))
  }
})

export type Reading = Effect.Success<typeof make>
