/** `EventStore` in memory. */
import { DateTime, Duration, Effect, Equal, Layer, Option, Order, Stream, SubscriptionRef } from "effect"
import { matches } from "../events/EventFilter.ts"
import {
  AggregateSince,
  Append,
  ById,
  DuplicateEvent,
  EventNotFound,
  EventStore,
  type Expected,
  expectedOf,
  type NewEvent,
  notificationOf,
  Query,
  Since,
  Stats,
  Subscription,
  subscriptionTo,
  Topic,
  VersionConflict
} from "../EventStore.ts"
import { idGenerator } from "../internal/Ids.ts"
import * as Operation from "../internal/Operation.ts"
import { EventRow, toStoredEvent } from "./EventRow.ts"
import { MemoryDatabase } from "./MemoryDatabase.ts"
import type { Transaction } from "./Transaction.ts"

const settleTimeout = Duration.seconds(2)

/** How many events a subscriber is given at a time, unless it says otherwise. */
const pageSize = 1000

const byVersion = Order.mapInput(Order.BigInt, (row: EventRow) => row.version)

const holds = (expected: Exclude<Expected, "any">, actual: Option.Option<bigint>): boolean => {
  switch (expected) {
    case "none":
      return Option.isNone(actual)
    case "some":
      return Option.isSome(actual)
    default:
      return Equal.equals(actual, Option.some(expected))
  }
}

export const make = Effect.gen(function* () {
  const { listener, log, nextValue, open, statement, tables } = yield* MemoryDatabase
  const { eventIds, events } = tables
  const operation = yield* Operation.make("EventStore", "memory")
  const random = yield* idGenerator

  const select = (transaction: Transaction, keep: (row: EventRow) => boolean): Array<EventRow> =>
    transaction
      .entries(events)
      .flatMap(({ row }) => (keep(row) ? [row] : []))
      .sort(byVersion)

  const lastVersion = (transaction: Transaction, aggregateId: string) =>
    Option.map(
      Option.fromUndefinedOr(select(transaction, (row) => row.aggregateId === aggregateId).at(-1)),
      (row) => row.version
    )

  const stored = (transaction: Transaction, id: string) => {
    const version = transaction.get(eventIds, id)
    return version === undefined ? undefined : transaction.get(events, String(version))
  }

  /** The events that are in the log already: by the rules of `onDuplicate` they are equal, or the append fails. */
  const duplicates = (transaction: Transaction, append: Append) => {
    const found = new Map<NewEvent, EventRow>()
    for (const event of append.events) {
      const row = event.id === undefined ? undefined : stored(transaction, event.id)
      if (row === undefined) continue
      const same = Equal.equals(
        toStoredEvent(row),
        toStoredEvent(new EventRow(event, row.id, row.version, row.createdAt))
      )
      if (append.onDuplicate !== "ignore" || !same) return Effect.fail(new DuplicateEvent({ id: row.id }))
      found.set(event, row)
    }
    return Effect.succeed(found)
  }

  const appendAll = (append: Append) =>
    statement(
      Effect.fnUntraced(function* (transaction) {
        const aggregateIds = [...new Set(append.events.map((event) => event.aggregateId))].sort()
        for (const id of aggregateIds) {
          // Those who expect something wait for everybody who appends, the others only for them.
          yield* transaction.lock(`aggregate ${id}`, expectedOf(append, id) === "any" ? "shared" : "exclusive")
        }
        for (const id of append.events.flatMap((event) => event.id ?? []).sort()) {
          yield* transaction.holdPlace(eventIds, id)
        }
        const known = yield* duplicates(transaction, append)
        for (const aggregateId of aggregateIds) {
          if (append.events.every((event) => event.aggregateId !== aggregateId || known.has(event))) continue
          const expected = expectedOf(append, aggregateId)
          if (expected === "any") continue
          const actual = lastVersion(transaction, aggregateId)
          if (!holds(expected, actual)) return yield* new VersionConflict({ aggregateId, expected, actual })
        }
        const rows: Array<EventRow> = []
        for (const event of append.events) {
          const row = known.get(event) ?? (yield* insert(transaction, event))
          rows.push(row)
        }
        return rows.map(toStoredEvent)
      })
    )

  const insert = Effect.fnUntraced(function* (transaction: Transaction, event: NewEvent) {
    const version = yield* nextValue("events_version")
    const row = new EventRow(
      event,
      event.id ?? (yield* random.uuidV7()),
      version,
      DateTime.makeUnsafe(transaction.startedAt)
    )
    log.draw(transaction, version)
    transaction.set(events, String(version), row)
    transaction.set(eventIds, row.id, version)
    return row
  })

  /** The matching events above a version that nothing can come before any more, waiting for those that are in the way. */
  const settled = Effect.fnUntraced(function* (after: bigint, keep: (row: EventRow) => boolean) {
    const page = statement((transaction) =>
      Effect.sync(() => {
        const undecided = log.first(after, transaction)
        const rows = select(
          transaction,
          (row) => row.version > after && (undecided === undefined || row.version < undecided)
        )
        const beyond = undecided !== undefined && select(transaction, (row) => row.version > undecided).length > 0
        return { rows: rows.filter(keep), undecided: beyond ? undecided : undefined }
      })
    )
    const wait = Effect.andThen(log.nextEnd, page)
    const first = yield* page
    if (first.undecided === undefined) return first.rows
    let latest = first
    yield* Effect.repeat(
      Effect.tap(wait, (next) => Effect.sync(() => (latest = next))),
      {
        until: ({ undecided }) => undecided === undefined
      }
    ).pipe(Effect.timeoutOption(settleTimeout))
    if (latest.undecided !== undefined) {
      yield* Effect.logWarning(`the log is held up at version ${latest.undecided} by a transaction that is still open`)
    }
    return latest.rows
  })

  const load = operation.fn("load", Since, ({ since }) =>
    Effect.map(
      settled(since, () => true),
      (rows) => rows.map(toStoredEvent)
    )
  )

  const loadByAggregate = operation.fn("loadByAggregate", AggregateSince, ({ aggregateId, since }) =>
    statement((transaction) =>
      Effect.sync(() =>
        select(transaction, (row) => row.aggregateId === aggregateId && row.version > since).map(toStoredEvent)
      )
    )
  )

  const read = operation.stream("read", Query, (query) => {
    const after = query.after ?? 0n
    const keep = (row: EventRow) => row.version > after && matches(query, row)
    const rows =
      query.direction === "backward"
        ? statement((transaction) => Effect.sync(() => select(transaction, keep).toReversed()))
        : settled(after, keep)
    return Stream.fromIterableEffect(Effect.map(rows, (all) => all.slice(0, query.limit))).pipe(
      Stream.map(toStoredEvent)
    )
  })

  const follow = (subscription: Subscription) =>
    operation.untilClosed(
      Stream.unwrap(
        Effect.map(listener.attach, () => {
          const { after, batchSize = pageSize } = subscription
          const first = after === "start" ? 0n : after === "end" ? log.latest : after
          return Stream.paginate(first, (cursor) => {
            const page = listener.await(() => {
              const rows = log.settledAfter(cursor, batchSize)
              return rows.length === 0 ? undefined : rows
            })
            return Effect.map(page, (rows) => [
              rows.filter((row) => matches(subscription, row)).map(toStoredEvent),
              Option.some(rows.at(-1)?.version ?? cursor)
            ])
          })
        })
      )
    )

  const subscribe = operation.subscription("subscribe", Subscription, follow)

  const notifications = operation.subscription("notifications", Topic, (topic) =>
    Stream.map(follow(subscriptionTo(topic)), notificationOf)
  )

  const get = operation.fn("get", ById, ({ id }) =>
    statement((transaction) =>
      Effect.suspend(() => {
        const row = stored(transaction, id)
        return row === undefined ? Effect.fail(new EventNotFound({ id })) : Effect.succeed(toStoredEvent(row))
      })
    )
  )

  const append = operation.fn("append", Append, appendAll)

  return EventStore.of({
    append: (input, options) => append({ events: Array.isArray(input) ? input : [input], ...options }),
    load: (since = 0n) => load({ since }),
    loadByAggregate: (aggregateId, since = 0n) => loadByAggregate({ aggregateId, since }),
    read: (query = {}) => read(query),
    subscribe,
    notifications: (topic = {}) => notifications(topic),
    listener: { status: SubscriptionRef.get(listener.status), changes: SubscriptionRef.changes(listener.status) },
    get: (id) => get({ id }),
    latestVersion: operation.effect(
      "latestVersion",
      statement((transaction) => Effect.sync(() => select(transaction, () => true).at(-1)?.version ?? 0n))
    ),
    ping: operation.effect(
      "ping",
      statement(() => Effect.void)
    ),
    stats: operation.effect(
      "stats",
      Effect.map(
        open,
        (inUse) => new Stats({ openConnections: inUse, inUse, idle: 0, subscribers: operation.running() })
      )
    )
  })
})

export const layer: Layer.Layer<EventStore, never, MemoryDatabase> = Layer.effect(EventStore, make)
