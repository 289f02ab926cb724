/** `EventStore` in memory. */
import { Duration, Effect, Layer, Option, Stream } from "effect"
import type { ForDecision } from "../Event.ts"
import { matches, matchesItem } from "../events/EventFilter.ts"
import * as LastSeen from "../events/LastSeen.ts"
import { eventsIn } from "../events/Steps.ts"
import { everything, interestOf } from "../events/Waiting.ts"
import {
  Condition,
  EventStore,
  fromDriver,
  LogReplaced,
  type Query,
  type Step,
  type Subscription
} from "../EventStore.ts"
import * as Operation from "../internal/Operation.ts"
import type { Reason } from "../StoreError.ts"
import * as Appending from "./Appending.ts"
import { decodeEvents, type EventRow } from "./EventRow.ts"
import * as Events from "./Events.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import * as Tagging from "./Tagging.ts"
import type { Transaction } from "./Transaction.ts"

const settleTimeout = Duration.seconds(2)

/** How many events a subscriber is given at a time, unless it says otherwise. */
const pageSize = 1000

/** A database in memory has no other server. */
const server = "memory"

/** Compares the event at a cursor with what is there. A cursor comes from elsewhere, so nothing is known of its server. */
const compare = (seen: LastSeen.Seen, row: EventRow | undefined, end: bigint): LogReplaced | undefined => {
  const ids = new Map(row === undefined ? [] : [[row.version, row.id]])
  const compared = LastSeen.compare(seen, { server, end, ids })
  return compared instanceof LogReplaced ? compared : undefined
}

/**
 * What a read found, and a version in flight that keeps the read from going on: the first one below other events, or one
 * that may become the event at the cursor.
 */
interface Page {
  readonly rows: ReadonlyArray<EventRow>
  readonly hole: bigint | undefined
}

export const make = Effect.gen(function* () {
  const database = yield* MemoryDatabase
  const { largeIntegers, listener, log, name, open, statement, tables, traceparent } = database
  const append = yield* Appending.make
  const tag = yield* Tagging.make
  const untilClosed = yield* Operation.untilClosed("EventStore")

  /**
   * Fails if the log is not the one that was read up to the cursor. Gives a version in flight that may become the event at
   * the cursor.
   */
  const compareAt = (seen: LastSeen.Seen, transaction: Transaction): Effect.Effect<bigint | undefined, LogReplaced> => {
    const { version } = seen
    const atCursor = transaction.get(tables.events, Events.keyOf(version))
    if (LastSeen.isCertain(seen, { cursorId: atCursor?.id, isAbove: false, server })) return Effect.undefined
    const end = Events.highest(database, transaction)
    const mayCome = end < version ? log.firstInFlight(version - 1n, transaction) : undefined
    if (mayCome !== undefined) return Effect.succeed(mayCome)
    const replaced = compare(seen, atCursor, end)
    return replaced === undefined ? Effect.undefined : Effect.fail(replaced)
  }

  /** The settled events above a cursor. */
  const settledPage = (seen: LastSeen.Seen, wanted: Events.Wanted) =>
    statement((transaction) =>
      Effect.map(compareAt(seen, transaction), (mayCome): Page => {
        if (mayCome !== undefined) return { rows: [], hole: mayCome }
        const hole = log.firstInFlight(seen.version, transaction)
        const found = Events.select(database, transaction, wanted)
        const rows = hole === undefined ? found : found.filter(({ version }) => version < hole)
        return { rows, hole: hole !== undefined && Events.highest(database, transaction) > hole ? hole : undefined }
      })
    )

  /** The same, after waiting up to `settleTimeout` for transactions that may still fill a hole. */
  const settled = Effect.fnUntraced(function* (seen: LastSeen.Seen, wanted: Events.Wanted) {
    const page = settledPage(seen, wanted)
    let latest = yield* page
    if (latest.hole === undefined) return latest.rows
    yield* Effect.andThen(log.nextEnd, page).pipe(
      Effect.tap((next) => Effect.sync(() => (latest = next))),
      Effect.repeat({ until: ({ hole }) => hole === undefined }),
      Effect.timeoutOption(settleTimeout)
    )
    if (latest.hole !== undefined) {
      yield* Effect.logWarning(`the log is held up at version ${latest.hole} by a transaction that is still open`)
    }
    return latest.rows
  })

  const read = (query: Query) => {
    const { after = 0n, direction, limit } = query
    const seen = LastSeen.of(after)
    const { aggregateIds } = query
    const wanted = { after: seen.version, aggregateIds, keep: (row: EventRow) => matches(query, row, row.tags) }
    if (limit === 0) {
      const compared = statement((transaction) => Effect.asVoid(compareAt(seen, transaction)))
      return direction === "backward" ? Stream.empty : Stream.drain(Stream.fromEffect(compared))
    }
    const rows =
      direction === "backward"
        ? statement((transaction) => Effect.sync(() => Events.select(database, transaction, wanted).toReversed()))
        : settled(seen, wanted)
    return Stream.unwrap(
      Effect.map(rows, (all) => {
        const { corrupt, events } = decodeEvents(all.slice(0, limit), largeIntegers)
        const found = Stream.fromIterable(events)
        return corrupt === undefined ? found : Stream.concat(found, Stream.fail(corrupt))
      })
    )
  }

  /** Waits for a transaction that may still commit the event at a cursor, and then compares it. */
  const agree = (seen: LastSeen.Seen) => {
    const { version } = seen
    return Effect.flatMap(
      listener.await(() =>
        log.latest < version && log.firstInFlight(version - 1n) !== undefined
          ? undefined
          : Option.fromUndefinedOr(compare(seen, log.at(version), log.latest))
      ),
      Option.match({ onNone: () => Effect.void, onSome: Effect.fail })
    )
  }

  /** Steps through the log. With `isTold`, there are also steps without an event. */
  const follow = Effect.fnUntraced(function* (subscription: Subscription, isTold: boolean) {
    yield* listener.attach
    const { after, batchSize = pageSize } = subscription
    const seen = LastSeen.of(after === "start" ? 0n : after === "end" ? log.latest : after)
    yield* agree(seen)
    let cursor = seen.version

    /** The next rows with something for the subscriber. */
    const look = (passed: bigint) => {
      if (passed > cursor) cursor = passed
      while (true) {
        const rows = log.settledAfter(cursor, batchSize)
        const last = rows.at(-1)
        if (last === undefined) return undefined
        const found = rows.filter((row) => matches(subscription, row, row.tags))
        if (found.length > 0 || isTold) return { found, last }
        cursor = last.version
      }
    }

    const next = listener.awaitEvents(isTold ? everything : interestOf(subscription), look)
    return Stream.paginate<void, Step, LogReplaced | Reason>(undefined, () =>
      Effect.flatMap(next, ({ found, last: { id, version } }) => {
        const { corrupt, events } = decodeEvents(found, largeIntegers)
        if (corrupt === undefined) {
          cursor = version
          return Effect.succeed([[{ events, upTo: { version, id } }], Option.some(undefined)] as const)
        }
        // The events before it come first. The next page begins with it.
        const last = events.at(-1)
        if (last === undefined) return Effect.fail(corrupt)
        cursor = BigInt(corrupt.key) - 1n
        return Effect.succeed([[{ events, upTo: last }], Option.some(undefined)] as const)
      })
    )
  })

  const all = (rows: ReadonlyArray<EventRow>) => {
    const { corrupt, events } = decodeEvents(rows, largeIntegers)
    return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
  }

  const readForDecision = ({ items }: ForDecision) =>
    statement((transaction) =>
      Effect.gen(function* () {
        // A version that a transaction has drawn, this one included, may become an event, or be gone with a savepoint.
        const inFlight = log.firstInFlight(0n)
        const mark = inFlight === undefined ? log.latest : inFlight - 1n
        const rows = Events.select(database, transaction, { keep: (row) => Appending.matchesQuery(items, row) })
        const above = rows.filter(({ version }) => version > mark)
        const condition = new Condition({
          items,
          server: name,
          epoch: Events.epochOf(tables, transaction),
          mark,
          markId: log.at(mark)?.id,
          matches: rows.length - above.length,
          seen: above.map(({ version }) => version)
        })
        const places = rows.map((row) =>
          items.flatMap((item, place) => (matchesItem(item, row.eventType, row.tags) ? [place] : []))
        )
        return { events: yield* all(rows), items: places, condition }
      })
    )

  return yield* fromDriver("memory", {
    largeIntegers,
    traceparent,
    append,
    readForDecision,
    tag,
    read,
    readAggregate: ({ aggregateId, since }) =>
      statement((transaction) =>
        Effect.suspend(() => all(Events.select(database, transaction, { after: since, aggregateIds: [aggregateId] })))
      ),
    find: ({ id }) =>
      statement((transaction) =>
        Effect.suspend(() => {
          const row = Events.find(tables, transaction, id)
          return row === undefined ? Effect.undefined : Effect.map(all([row]), ([event]) => event)
        })
      ),
    subscribe: (subscription) => eventsIn(untilClosed(Stream.unwrap(follow(subscription, false)))),
    follow: (subscription) => untilClosed(Stream.unwrap(follow(subscription, true))),
    listener: listener.status,
    highestVersion: statement((transaction) => Effect.sync(() => Events.highest(database, transaction))),
    connections: Effect.map(open, (inUse) => ({ openConnections: inUse, inUse, idle: 0 })),
    ping: statement(() => Effect.void)
  })
})

export const layer: Layer.Layer<EventStore, never, MemoryDatabase> = Layer.effect(EventStore, make)
