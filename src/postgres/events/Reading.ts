/**
 * How events are read as a stream: `ForwardReading` and `BackwardReading` read the pages, and `Settling` says how far a read in
 * order may go. `Lookups` finds the events of one aggregate, and one by its id.
 */
import { Duration, Effect, Option, Schema, Stream } from "effect"
import * as LastSeen from "../../events/LastSeen.ts"
import { eventsIn } from "../../events/Steps.ts"
import type { Filter, LogReplaced, Query, StoredEvent } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { decodeRows } from "../database/DecodeRows.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as ArchivedEvents from "./ArchivedEvents.ts"
import * as BackwardReading from "./BackwardReading.ts"
import * as Comparing from "./Comparing.ts"
import * as EventPages from "./EventPages.ts"
import { eventDecoder } from "./EventRow.ts"
import * as ForwardReading from "./ForwardReading.ts"
import * as LockHolders from "./LockHolders.ts"
import * as Lookups from "./Lookups.ts"
import * as MarkedReading from "./MarkedReading.ts"
import { highestPossible } from "./PageRange.ts"
import { pageEvents, partEvents } from "./PageSize.ts"
import * as Partitions from "./Partitions.ts"
import * as Settling from "./Settling.ts"
import * as WalkWarning from "./WalkWarning.ts"

/** Where a reader stops that looks for few of many events. */
const Stop = Schema.Struct({ version: Schema.BigInt, id: Schema.String })

type Steps = Stream.Stream<MarkedReading.Step, LogReplaced | Reason>

export const make = Effect.gen(function* () {
  const database = yield* PostgresDatabase
  const { integers, names, query, sql, tables } = database
  const partitions = yield* Partitions.make
  const archive = yield* ArchivedEvents.make
  const settling = yield* Settling.make
  const { agree, compare } = yield* Comparing.make
  const pages = yield* EventPages.make
  const { findsContained, walks } = pages
  const decode = eventDecoder(names.events, integers)
  const warning = WalkWarning.make(database, pages)
  const { warnOfWalk } = warning
  const decodeStop = decodeRows(Stop, names.events, [])
  const { archivedSteps, ascending } = ForwardReading.make(database, { archive, compare, decode, pages, partitions })

  // Where the server is a standby itself, and there is no replica beside it.
  const marked = yield* MarkedReading.make({ isOfThisLog: () => true, need: () => {}, warnOfWalk })

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
      const begin: ForwardReading.Range = {
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
        seen = LastSeen.add(
          seen ?? mark.seen,
          mark.id === undefined ? [] : [{ version: mark.version, id: mark.id }],
          mark.version,
          server
        )
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
    readLog: partitions.read,
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
          now === undefined ? Stream.empty : archivedSteps(filter, { batchSize, last: highestPossible, seen: now })
        )
      ),
    backward,
    readBackward,
    decode,
    walks,
    warnOfWalk,
    ...Lookups.make(database, { archive, decode, pages, readLog: partitions.read }),

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
