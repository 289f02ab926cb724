/**
 * Subscriptions: a subscriber reads the table up to the end of the log, then takes what comes from the tail, which it shares
 * with the other subscribers. If it is too slow for the tail, it reads the table again.
 */
import { Context, Effect, Option, Schedule, Stream } from "effect"
import { matches } from "../../events/EventFilter.ts"
import type { StoredEvent, Subscription } from "../../EventStore.ts"
import { isPassing } from "../../internal/Transient.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as Reading from "./Reading.ts"
import * as Tail from "./Tail.ts"
import type { Item } from "./TailItems.ts"

/** How long to wait before reading again, where an open transaction holds up the reader of the table and the tail alike. */
const waitWhenHeldUp = "100 millis"

/** Whether the filter describes the event, or may describe what a corrupt row contains. */
const mayBeDescribed = (subscription: Subscription, item: Item): boolean =>
  "corrupt" in item
    ? (subscription.aggregateIds?.includes(item.aggregateId) ?? true) &&
      (subscription.eventTypes?.includes(item.eventType) ?? true)
    : matches(subscription, item)

export const make = Effect.fnUntraced(function* (check: Effect.Effect<unknown, Reason>) {
  const { inTransaction, reconnect, sql } = yield* PostgresDatabase
  const reading = yield* Reading.make
  const tailOf = yield* Tail.make
  const atOnce = Schedule.while(Schedule.forever, ({ input }: { input: Reason }) => input === Tail.again)
  const afterWaiting = Schedule.while(reconnect, ({ input }) => isPassing(input))

  const follow = Effect.fnUntraced(function* (subscription: Subscription) {
    const tail = yield* tailOf
    const ask = <A>(question: Effect.Effect<A, Reason>) =>
      Effect.raceFirst(question, tail.lost).pipe(Effect.retry(atOnce), Effect.retry(afterWaiting))
    yield* ask(check)
    const { after, batchSize } = subscription
    const highestVersion = ask(reading.highestVersion)
    /**
     * Whether the next row of the tail cannot be decoded. Only the server knows what the row contains, and so whether the
     * filter describes it: the subscriber reads the row from the table.
     */
    let isNextCorrupt = false
    let cursor = after === "start" ? 0n : after === "end" ? yield* highestVersion : after

    /** The events of the table, up to what is the end of the log when the read begins, however long the read takes. */
    const fromTable = Stream.suspend(() =>
      reading.settled(subscription, { after: cursor, batchSize, forever: true })
    ).pipe(
      Stream.interruptWhen(tail.lost),
      // The cursor moves after `interruptWhen`, not before it: a step that the interruption drops was not delivered.
      Stream.map(({ events, upTo }) => {
        cursor = upTo
        return events
      }),
      Reading.eventsIn,
      Stream.retry(atOnce),
      Stream.retry(afterWaiting)
    )

    /** Comes to the tail. The first subscriber that does says from which version on the tail is read. */
    const join = Effect.gen(function* () {
      const before = cursor
      if (!tail.isBegun()) {
        const highest = yield* highestVersion
        tail.begin(cursor < highest ? cursor : highest)
      }
      if (cursor === before && !tail.covers(cursor)) yield* Effect.sleep(waitWhenHeldUp)
    })

    const fromTail = Stream.paginate<void, StoredEvent, Reason>(undefined, () =>
      Effect.map(tail.next(cursor), ({ items, upTo }) => {
        const events: Array<StoredEvent> = []
        for (const item of items) {
          if (item.version <= cursor || !mayBeDescribed(subscription, item)) continue
          if ("corrupt" in item) {
            isNextCorrupt = true
            cursor = item.version - 1n
            return [events, Option.none()]
          }
          events.push(item)
        }
        cursor = upTo
        return [events, tail.covers(cursor) ? Option.some(undefined) : Option.none()]
      })
    )

    return Stream.forever(
      Stream.suspend(() => {
        if (!isNextCorrupt && tail.covers(cursor)) return fromTail
        isNextCorrupt = false
        return Stream.concat(fromTable, Stream.drain(Stream.fromEffect(join)))
      })
    )
  })

  // A subscriber sees what is committed, also inside a transaction: it stays for ever, and may not take its connection.
  return (subscription: Subscription): Stream.Stream<StoredEvent, Reason> => {
    const events = Stream.unwrap(follow(subscription))
    const outside = Stream.updateContext(events, (context: Context.Context<never>) =>
      Context.makeUnsafe<never>(Context.omit(sql.transactionService)(context).mapUnsafe)
    )
    return Stream.unwrap(Effect.map(inTransaction, (inside) => (inside ? outside : events)))
  }
})
