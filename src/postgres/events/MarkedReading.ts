/**
 * Reads the log in order up to the mark that the primary has published, page by page, and says where that ends for a reason of
 * the server that is read: then another server has to go on.
 */
import { Duration, Effect, Option, Stream } from "effect"
import type { AggregateSince } from "../../Event.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { type Filter, LogReplaced, type StoredEvent } from "../../EventStore.ts"
import { realMillis, realSleep } from "../../internal/RealTime.ts"
import { isPassing } from "../../internal/Transient.ts"
import { type Reason, Unexpected } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { isTextTooLong } from "../database/Reasons.ts"
import type { WithEnd } from "./ArchivedEnd.ts"
import { eventDecoder } from "./EventRow.ts"
import * as MarkedPages from "./MarkedPages.ts"
import type * as PageRange from "./PageRange.ts"
import { pageOf } from "./PageSize.ts"

/** The waits between two looks whether a server has replayed what is needed. */
const firstWaitMillis = 2
const longestWaitMillis = 50

/**
 * For how long after its first cancellation a statement is tried again that was in the way of the replay. It had run for a while by
 * then, and the next one may, too: it is tried again in any case.
 */
const conflictMillis = 1000

/** The server cannot go on here, and another one has to: `reason` says why, unless it only lags. */
export class Left {
  readonly _tag = "Left"
  readonly reason: LogReplaced | Reason | undefined
  constructor(reason: LogReplaced | Reason | undefined) {
    this.reason = reason
  }
}

/** The events that a filter describes, from the end of the step before up to a version, and what the reader has seen then. */
export interface Step {
  readonly events: ReadonlyArray<StoredEvent>
  readonly seen: LastSeen.Seen
}

export interface Asked {
  readonly seen: LastSeen.Seen
  readonly batchSize: number
  /** How many events a page has at most at first. */
  readonly pageLimit: number
  /** How many versions a page looks through at most. */
  readonly part: number | undefined
  /** The lowest mark that the first page may have. */
  readonly needed: bigint
  /** How long each page may wait for the server. */
  readonly wait: Duration.Duration
}

/** How the reader knows which marks are of this log, and has one published that is high enough. */
export interface Marks {
  /** Whether a mark of this server's may be followed. */
  readonly isOfThisLog: (server: string) => boolean
  /** Asks for a mark up to a version. */
  readonly need: (version: bigint) => void
  /** Warns of a filter that has so many events read, unless an index serves it. */
  readonly warnOfWalk: (
    filter: Filter,
    count: bigint,
    isIndexed: (filter: Filter) => Effect.Effect<boolean, Reason>
  ) => Effect.Effect<void, Reason>
}

/** Why a standby alone cannot go on. With it for a replica the primary does. */
export const archivedEvents = new Unexpected({
  message:
    "the next events of this read are archived, and no standby gives those: connect to the primary, with this server for " +
    "Postgres.layerReplica"
})

const idOf = ({ id, version }: StoredEvent): LastSeen.SeenEvent => ({ version, id })

/** What a reader fails of that only another server can mend, or nobody. A row that cannot be read is the same everywhere. */
const isOfServer = (reason: Reason): boolean =>
  isPassing(reason) || isTextTooLong(reason) || reason._tag === "SchemaMissing" || reason._tag === "Denied"

/**
 * Tries until it gives something. It goes on after a failure that may pass where `isPatient`, and after a lost conflict in any
 * case.
 */
const untilReady = Effect.fnUntraced(function* <A>(
  look: Effect.Effect<Option.Option<A>, Reason>,
  { isPatient, wait }: { readonly isPatient: boolean; readonly wait: Duration.Duration }
): Effect.fn.Return<A, Left | Reason> {
  let until = (yield* realMillis) + Duration.toMillis(wait)
  let hasConflicted = false
  let waitMillis = firstWaitMillis
  while (true) {
    const found = yield* Effect.result(look)
    if (found._tag === "Success" && Option.isSome(found.success)) return found.success.value
    const failure = found._tag === "Failure" ? found.failure : undefined
    if (failure !== undefined && !isOfServer(failure)) return yield* Effect.fail(failure)
    const isConflict = failure?._tag === "Contention"
    const mayPass = failure === undefined || isConflict || (isPatient && isPassing(failure))
    const now = yield* realMillis
    if (isConflict && !hasConflicted) {
      hasConflicted = true
      until = Math.max(until, now + conflictMillis)
    }
    if (!mayPass || now + waitMillis > until) return yield* Effect.fail(new Left(failure))
    yield* realSleep(waitMillis)
    waitMillis = Math.min(waitMillis * 2, longestWaitMillis)
  }
})

interface State extends Asked {
  readonly isFirst: boolean
}

export const make = Effect.fnUntraced(function* (marks: Marks) {
  const { integers, names } = yield* PostgresDatabase
  const pages = yield* MarkedPages.make
  const decode = eventDecoder(names.events, integers)

  /** Where the server has gone meanwhile, the next page says so. */
  const warnOfWalk = (filter: Filter, count: bigint): Effect.Effect<void> =>
    Effect.ignore(marks.warnOfWalk(filter, count, pages.findsContained))

  /** A page of this log that has what was seen. */
  const agreed = Effect.fnUntraced(function* (
    filter: Filter,
    { isFirst, needed, pageLimit, part, seen, wait }: State
  ): Effect.fn.Return<readonly [MarkedPages.MarkedPage, LastSeen.Seen], Left | Reason> {
    const least = needed > seen.version ? needed : seen.version
    const asked = { after: seen.version, limit: pageLimit, needed: least, part }
    const read = (compared: ReadonlyArray<bigint>, ids: ReadonlyArray<string>) =>
      untilReady(
        Effect.map(
          Effect.andThen(
            Effect.sync(() => marks.need(least)),
            pages.read(filter, { ...asked, compared, ids })
          ),
          Option.filter(({ server }) => marks.isOfThisLog(server))
        ),
        { isPatient: !isFirst, wait }
      )
    const cursor = LastSeen.atCursor(seen)?.id
    const page = yield* read([], cursor === undefined ? [] : [cursor])
    const { archivedEnd, cursorId, server } = page
    if (archivedEnd > seen.version + 1n) return yield* Effect.fail(new Left(archivedEvents))
    const isAbove = page.upTo > seen.version && page.upToId !== undefined
    if (LastSeen.isCertain(seen, { cursorId, isAbove, server })) {
      return [page, LastSeen.confirm(seen, cursorId, server)]
    }
    const compared = yield* read(LastSeen.versionsOf(seen), LastSeen.idsOf(seen))
    const { archivedEnd: end, ids } = compared
    // It may be another standby, or have replayed more. What else is at a version that is archived, its file tells.
    if (end > seen.version + 1n || LastSeen.missingBelow(seen, end, ids).length > 0) {
      return yield* Effect.fail(new Left(archivedEvents))
    }
    const now = LastSeen.compare(seen, { server: compared.server, end: compared.mark, ids })
    return now instanceof LogReplaced
      ? yield* Effect.fail(new Left(now))
      : [compared, LastSeen.knownBelow(now, end, seen)]
  })

  /** Committed events of this log. */
  const committed = (
    look: Effect.Effect<Option.Option<MarkedPages.CommittedPage>, Reason>,
    { needed, wait }: Pick<Asked, "needed" | "wait">
  ): Effect.Effect<MarkedPages.CommittedPage, Left | Reason> =>
    untilReady(
      Effect.map(look, (found) => {
        // The version may be one at which there is no event: then only a mark tells that the standby has come so far.
        if (Option.isNone(found)) marks.need(needed)
        return Option.filter(found, ({ server }) => marks.isOfThisLog(server))
      }),
      { isPatient: false, wait }
    )

  return {
    /** The last committed events of a range, of which the log has those up to a version at least. */
    descending: (
      filter: Filter,
      range: Omit<PageRange.Range, "direction" | "guard">,
      asked: Pick<Asked, "needed" | "wait">
    ): Effect.Effect<WithEnd, Left | Reason> =>
      Effect.flatMap(committed(pages.descending(filter, range, asked.needed), asked), ({ archivedEnd, mark, rows }) =>
        Effect.as(warnOfWalk(filter, mark - range.after), { rows, end: archivedEnd })
      ),

    /** The committed events of one aggregate above a version. */
    byAggregate: (
      { aggregateId, since }: Pick<AggregateSince, "aggregateId" | "since">,
      asked: Pick<Asked, "needed" | "wait">
    ): Effect.Effect<ReadonlyArray<unknown>, Left | Reason> =>
      Effect.flatMap(
        committed(pages.byAggregate(aggregateId, since, asked.needed), asked),
        ({ lacksArchived, rows }): Effect.Effect<ReadonlyArray<unknown>, Left> =>
          lacksArchived ? Effect.fail(new Left(archivedEvents)) : Effect.succeed(rows)
      ),

    /** Fails where the log is not the one that was seen. */
    compare: (asked: Pick<Asked, "needed" | "seen" | "wait">): Effect.Effect<void, Left | Reason> =>
      Effect.asVoid(agreed({}, { ...asked, batchSize: 1, pageLimit: 0, part: undefined, isFirst: true })),

    /** The events above what was seen up to the mark, in steps. Each page begins anew, and may be read from another server. */
    steps: (filter: Filter, asked: Asked): Stream.Stream<Step, Left | Reason> =>
      Stream.paginate<State | Reason, Step, Left | Reason>({ ...asked, isFirst: true }, (state) => {
        if ("isRetryable" in state) return Effect.fail(state)
        const warnAtFirst = ([{ mark }]: readonly [MarkedPages.MarkedPage, LastSeen.Seen]) =>
          state.isFirst ? warnOfWalk(filter, mark - state.seen.version) : Effect.void
        return Effect.map(Effect.tap(agreed(filter, state), warnAtFirst), ([page, before]) => {
          const { isFull, nextLimit, rows } = pageOf(page.rows, state.pageLimit, state.batchSize)
          const { corrupt, events } = decode(rows)
          const { server, upTo, upToId } = page
          const last = events.at(-1)
          const among = LastSeen.lastOf(events, idOf)
          const goesOn = (seen: LastSeen.Seen) =>
            [
              [{ events, seen }],
              Option.some({ ...state, seen, needed: 0n, pageLimit: nextLimit, isFirst: false })
            ] as const
          if (corrupt !== undefined || isFull) {
            const seen = last === undefined ? before : LastSeen.add(before, among, last.version, server)
            return corrupt === undefined ? goesOn(seen) : ([[{ events, seen }], Option.some(corrupt)] as const)
          }
          const atEnd = upToId === undefined ? [] : [{ version: upTo, id: upToId }]
          const seen = LastSeen.add(before, [...among, ...atEnd], upTo, server)
          return upTo < page.mark ? goesOn(seen) : ([[{ events, seen }], Option.none()] as const)
        })
      })
  }
})

export type MarkedReading = Effect.Success<ReturnType<typeof make>>
