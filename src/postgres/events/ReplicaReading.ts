/**
 * Reads from a standby what it has, and from the primary the rest: what `Reading` does, for a layer that has a replica.
 *
 * **Details**
 *
 * In a transaction everything is read from the primary, on the connection of the transaction. Where the standby cannot be read,
 * or does not have in time what a read needs, the primary goes on where the standby has ended. What is archived is read from
 * its files, which the primary names, and then the standby goes on.
 */
import { Context, Duration, Effect, Stream } from "effect"
import type { AggregateSince } from "../../Event.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { eventsIn } from "../../events/Steps.ts"
import { type Filter, LogReplaced, type Query, type StoredEvent } from "../../EventStore.ts"
import * as Outage from "../../internal/Outage.ts"
import { realMillis, withinRealTime } from "../../internal/RealTime.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import type { ReadBackward } from "./BackwardReading.ts"
import { isNothing } from "./EventPages.ts"
import * as MarkedReading from "./MarkedReading.ts"
import * as MarkPublisher from "./MarkPublisher.ts"
import { pageEvents, partEvents } from "./PageSize.ts"
import type { Reading } from "./Reading.ts"

/** A standby, or a pool of them. */
export class Replica extends Context.Service<
  Replica,
  {
    readonly database: PostgresDatabase["Service"]
    /** How long a read waits for what it needs, unless it says so itself. */
    readonly wait: Duration.Duration
  }
>()("effect-strata/postgres/Replica") {}

/**
 * How long a read that needs nothing waits for a mark that is published for it, and for its replay: a standby that keeps up has it
 * in a few milliseconds. After that time it takes the mark that is there.
 */
const newMarkMillis = 100

const higher = (one: bigint, other: bigint): bigint => (one > other ? one : other)

type Steps = Stream.Stream<MarkedReading.Step, LogReplaced | Reason>

export const make = Effect.fnUntraced(function* (primary: Reading) {
  const { inTransaction } = yield* PostgresDatabase
  const { database, wait: defaultWait } = yield* Replica
  const publisher = yield* MarkPublisher.make
  const outage = Outage.make({
    waits: "the standby cannot be read",
    next: "the primary is read instead",
    over: "the standby is read again"
  })

  const need = (version: bigint): void => {
    const published = publisher.published()
    if (published !== undefined && published.version < version) publisher.askNow()
    else publisher.ask()
  }

  const marked = yield* MarkedReading.make({
    need,
    // Until there is a mark, nobody knows whether the standby is one of this primary's.
    isOfThisLog: (server) => {
      if (publisher.published()?.server === server) return true
      publisher.askNow()
      return false
    },
    warnOfWalk: primary.warnOfWalk
  }).pipe(Effect.provideService(PostgresDatabase, database))

  const neededOf = ({ atLeast = 0n }: Pick<Query, "atLeast">): bigint => (atLeast === "latest" ? 0n : atLeast)

  const waitOf = ({ wait }: Pick<Query, "wait">): Duration.Duration =>
    wait === undefined ? defaultWait : Duration.fromInputUnsafe(wait)

  /** The primary goes on. It decides whether the log was replaced: the standby may be one of another primary. */
  const leave = ({ reason }: MarkedReading.Left): Effect.Effect<void> =>
    reason === undefined || reason instanceof LogReplaced || reason === MarkedReading.archivedEvents
      ? Effect.void
      : outage.warn(reason)

  /** Has a mark published if the last one is not young, and gives how far it goes and how long its replay may be waited for. */
  const newMark = Effect.gen(function* () {
    const { ended, sinceMillis } = publisher.ask()
    const leftMillis = sinceMillis + newMarkMillis - (yield* realMillis)
    if (leftMillis <= 0) return { version: 0n, wait: Duration.zero }
    yield* withinRealTime(ended, leftMillis, () => Effect.void)
    const now = yield* realMillis
    const wait = Duration.millis(Math.max(0, sinceMillis + newMarkMillis - now))
    return { version: publisher.published()?.version ?? 0n, wait }
  })

  /**
   * What the standby has, and then what the primary has: `beyond` gives it, after the mark, or from where the standby could not go
   * on. `wanted` is a mark that it would be good to have.
   */
  const fromStandby = (
    filter: Filter,
    asked: MarkedReading.Asked,
    wanted: { readonly version: bigint; readonly wait: Duration.Duration },
    beyond: { readonly mark: (seen: LastSeen.Seen) => Steps; readonly left: (seen: LastSeen.Seen) => Steps }
  ): Steps =>
    Stream.suspend(() => {
      let { seen } = asked
      const steps = (change: Partial<MarkedReading.Asked>) =>
        Stream.tap(marked.steps(filter, { ...asked, ...change }), (step) => {
          seen = step.seen
          return outage.end
        })
      /** The archived part that comes next, and then what the standby has above it. The primary may have restored the part. */
      const fromFiles = (): Steps => {
        const before = seen
        const part = Stream.tap(primary.archived(filter, { seen, batchSize: asked.batchSize }), (step) =>
          Effect.sync(() => (seen = step.seen))
        )
        const rest = Stream.suspend(() =>
          seen.version === before.version
            ? beyond.left(seen)
            : fromStandby(filter, { ...asked, seen, needed: 0n }, { version: 0n, wait: Duration.zero }, beyond)
        )
        return Stream.concat(part, rest)
      }
      const isOnlyLate = (left: MarkedReading.Left) => left.reason === undefined && seen === asked.seen
      const first =
        wanted.version > higher(asked.needed, seen.version)
          ? Stream.catchTag(steps({ needed: wanted.version, wait: wanted.wait }), "Left", (left) =>
              isOnlyLate(left) ? steps({}) : Stream.fail(left)
            )
          : steps({})
      return Stream.concat(
        first,
        Stream.suspend(() => beyond.mark(seen))
      ).pipe(
        Stream.catchTag("Left", (left) =>
          left.reason === MarkedReading.archivedEvents
            ? Stream.suspend(fromFiles)
            : Stream.unwrap(Effect.map(leave(left), () => Stream.suspend(() => beyond.left(seen))))
        )
      )
    })

  const partOf = (filter: Filter): number | undefined => (primary.walks(filter) ? partEvents : undefined)

  /** What a subscriber catches up on: on the standby as far as that goes, then up to the end of the log on the primary. */
  const settled: Reading["settled"] = (filter, options) => {
    const { batchSize = pageEvents, seen } = options
    if (isNothing(filter)) return primary.settled(filter, options)
    const pageLimit = Math.min(batchSize, pageEvents)
    const rest = (now: LastSeen.Seen) => primary.settled(filter, { ...options, seen: now })
    return fromStandby(
      filter,
      { seen, batchSize, pageLimit, part: partOf(filter), needed: 0n, wait: defaultWait },
      { version: 0n, wait: Duration.zero },
      { mark: rest, left: rest }
    )
  }

  const forward = (input: Query): Stream.Stream<StoredEvent, LogReplaced | Reason> => {
    const { after = 0n, batchSize = pageEvents, limit = Number.POSITIVE_INFINITY } = input
    const needed = neededOf(input)
    const size = Math.min(batchSize, limit)
    const asked: MarkedReading.Asked = {
      seen: LastSeen.of(after),
      batchSize: size,
      pageLimit: Math.min(size, pageEvents),
      part: undefined,
      needed,
      wait: waitOf(input)
    }
    const steps = Stream.unwrap(
      Effect.map(newMark, (wanted) =>
        fromStandby(input, asked, wanted, {
          mark: () => Stream.empty,
          left: (seen) => primary.settled(input, { seen, batchSize: size, forever: false })
        })
      )
    )
    const events = eventsIn(steps)
    return limit === Number.POSITIVE_INFINITY ? events : Stream.take(events, limit)
  }

  /** A page of the standby that has what was needed, or of the primary. */
  const backward = (input: Query): Stream.Stream<StoredEvent, Reason> =>
    Stream.suspend(() => {
      // A later page may be that of another standby, which has to have what the first one has.
      let needed = neededOf(input)
      // What is archived below the table is known to the primary. The standby may lag behind it.
      let isAtArchive = false
      const readRows: ReadBackward = (filter, range) =>
        Effect.suspend(() => {
          const fromPrimary = Effect.suspend(() => primary.readBackward(filter, range))
          return isAtArchive
            ? fromPrimary
            : orPrimary(marked.descending(filter, range, { needed, wait: waitOf(input) }), fromPrimary).pipe(
                Effect.flatMap((page) => {
                  const { end, rows } = page
                  const [first] = primary.decode(rows.slice(0, 1)).events
                  if (first !== undefined) needed = higher(needed, first.version)
                  isAtArchive = rows.length < range.limit && end > range.after + 1n
                  return isAtArchive ? fromPrimary : Effect.succeed(page)
                })
              )
        })
      return primary.backward(input, readRows)
    })

  /**
   * What a standby has, or the primary. Meanwhile a mark is published: by that of the standby it is known to be one of the
   * primary's.
   */
  const orPrimary = <A, E>(
    fromStandby: Effect.Effect<A, MarkedReading.Left | Reason>,
    fromPrimary: Effect.Effect<A, E>
  ): Effect.Effect<A, E | Reason> =>
    Effect.suspend(() => {
      publisher.ask()
      return fromStandby
    }).pipe(
      Effect.tap(outage.end),
      Effect.catchTag("Left", (left) => Effect.andThen(leave(left), fromPrimary))
    )

  const byAggregate = (asked: AggregateSince) => {
    if (asked.atLeast === "latest") return primary.byAggregate(asked)
    const found = Effect.flatMap(
      marked.byAggregate(asked, { needed: neededOf(asked), wait: waitOf(asked) }),
      (rows): Effect.Effect<Array<StoredEvent>, Reason> => {
        const { corrupt, events } = primary.decode(rows)
        return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
      }
    )
    return orPrimary(found, primary.byAggregate(asked))
  }

  /** Compares where the reader is with the log of a standby that has come so far, or with that of the primary. */
  const compare = (input: Query): Stream.Stream<never, LogReplaced | Reason> => {
    const seen = LastSeen.of(input.after ?? 0n)
    if (seen.version === 0n) return Stream.empty
    const fromStandby = marked.compare({ seen, needed: neededOf(input), wait: waitOf(input) })
    return Stream.drain(Stream.fromEffect(orPrimary(fromStandby, Stream.runDrain(primary.read(input)))))
  }

  const replica: Reading = {
    ...primary,
    settled,
    read: (input) =>
      Stream.unwrap(
        Effect.map(inTransaction, (inside) => {
          if (inside || input.atLeast === "latest") return primary.read(input)
          if (input.direction === "backward") return backward(input)
          return input.limit === 0 ? compare(input) : isNothing(input) ? primary.read(input) : forward(input)
        })
      ),
    byAggregate: (asked) =>
      Effect.flatMap(inTransaction, (inside) => (inside ? primary.byAggregate(asked) : byAggregate(asked)))
  }
  return replica
})
