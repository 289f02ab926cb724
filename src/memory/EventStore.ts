/** `EventStore` in memory. */
import { Duration, Effect, Layer, Option, Stream } from "effect"
import { matches } from "../events/EventFilter.ts"
import { EventStore, fromDriver, type Query, type Subscription } from "../EventStore.ts"
import * as Operation from "../internal/Operation.ts"
import * as Appending from "./Appending.ts"
import { decodeEvents, type EventRow } from "./EventRow.ts"
import * as Events from "./Events.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"

const settleTimeout = Duration.seconds(2)

/** How many events a subscriber is given at a time, unless it says otherwise. */
const pageSize = 1000

/** What a read found, and the first hole in flight below other events, which keeps the read from going on. */
interface Page {
  readonly rows: ReadonlyArray<EventRow>
  readonly hole: bigint | undefined
}

export const make = Effect.gen(function* () {
  const { largeIntegers, listener, log, open, statement, tables } = yield* MemoryDatabase
  const append = yield* Appending.make
  const untilClosed = yield* Operation.untilClosed("EventStore")

  /** The settled events above a version. */
  const settledPage = (after: bigint, keep: (row: EventRow) => boolean) =>
    statement((transaction) =>
      Effect.sync((): Page => {
        const hole = log.firstInFlight(after, transaction)
        const isSettled = ({ version }: EventRow) => version > after && (hole === undefined || version < hole)
        const rows = Events.select(tables, transaction, (row) => isSettled(row) && keep(row))
        const isPassed =
          hole !== undefined && Events.select(tables, transaction, ({ version }) => version > hole).length > 0
        return { rows, hole: isPassed ? hole : undefined }
      })
    )

  /** The same, after waiting up to `settleTimeout` for transactions that may still fill a hole. */
  const settled = Effect.fnUntraced(function* (after: bigint, keep: (row: EventRow) => boolean) {
    const page = settledPage(after, keep)
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
    const keep = (row: EventRow) => row.version > after && matches(query, row)
    const rows =
      direction === "backward"
        ? statement((transaction) => Effect.sync(() => Events.select(tables, transaction, keep).toReversed()))
        : settled(after, keep)
    return Stream.unwrap(
      Effect.map(rows, (all) => {
        const { corrupt, events } = decodeEvents(all.slice(0, limit), largeIntegers)
        const found = Stream.fromIterable(events)
        return corrupt === undefined ? found : Stream.concat(found, Stream.fail(corrupt))
      })
    )
  }

  const follow = Effect.fnUntraced(function* (subscription: Subscription) {
    yield* listener.attach
    const { after, batchSize = pageSize } = subscription
    const start = after === "start" ? 0n : after === "end" ? log.latest : after
    return Stream.paginate(start, (cursor) => {
      const page = listener.await(() => {
        const rows = log.settledAfter(cursor, batchSize)
        return rows.length === 0 ? undefined : rows
      })
      return Effect.flatMap(page, (rows) => {
        const { corrupt, events } = decodeEvents(
          rows.filter((row) => matches(subscription, row)),
          largeIntegers
        )
        if (corrupt === undefined) return Effect.succeed([events, Option.some(rows.at(-1)?.version ?? cursor)] as const)
        // The events before it come first. The next page begins with it.
        return events.length === 0
          ? Effect.fail(corrupt)
          : Effect.succeed([events, Option.some(BigInt(corrupt.key) - 1n)] as const)
      })
    })
  })

  const all = (rows: ReadonlyArray<EventRow>) => {
    const { corrupt, events } = decodeEvents(rows, largeIntegers)
    return corrupt === undefined ? Effect.succeed(events) : Effect.fail(corrupt)
  }

  return yield* fromDriver("memory", {
    largeIntegers,
    append,
    read,
    readAggregate: ({ aggregateId, since }) =>
      statement((transaction) =>
        Effect.suspend(() => {
          const keep = (row: EventRow) => row.aggregateId === aggregateId && row.version > since
          return all(Events.select(tables, transaction, keep))
        })
      ),
    find: ({ id }) =>
      statement((transaction) =>
        Effect.suspend(() => {
          const row = Events.find(tables, transaction, id)
          return row === undefined ? Effect.undefined : Effect.map(all([row]), ([event]) => event)
        })
      ),
    follow: (subscription) => untilClosed(Stream.unwrap(follow(subscription))),
    listener: listener.status,
    highestVersion: statement((transaction) =>
      Effect.sync(() => Events.select(tables, transaction, () => true).at(-1)?.version ?? 0n)
    ),
    connections: Effect.map(open, (inUse) => ({ openConnections: inUse, inUse, idle: 0 })),
    ping: statement(() => Effect.void)
  })
})

export const layer: Layer.Layer<EventStore, never, MemoryDatabase> = Layer.effect(EventStore, make)
