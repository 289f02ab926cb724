/** Subscriptions: the log up to its end, then what comes, for as long as anybody asks for more. */
import { Context, Effect, Option, Schedule, Stream } from "effect"
import { matches } from "../../events/EventFilter.ts"
import type { StoredEvent, Subscription } from "../../EventStore.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as Reading from "./Reading.ts"
import * as Tail from "./Tail.ts"
import type { Item } from "./TailItems.ts"

/** How long to wait, where an open transaction keeps both a reader of the table and the tail from getting on. */
const respite = "100 millis"

export const make = Effect.fnUntraced(function* (check: Effect.Effect<unknown, Reason>) {
  const database = yield* PostgresDatabase
  const { inTransaction, reconnect, sql } = database
  // A page may take long where few events are meant. Nobody but this notices when its connection is dead.
  const reading = yield* Effect.provideService(Reading.make, PostgresDatabase, {
    ...database,
    query: database.queryAlive
  })
  const tailOf = yield* Tail.make
  const atOnce = Schedule.while(Schedule.forever, ({ input }: { input: Reason }) => input === Tail.again)
  const patiently = Schedule.while(reconnect, ({ input }) => input.isRetryable)

  const mayBeMeant = (subscription: Subscription, item: Item): boolean =>
    "corrupt" in item
      ? (subscription.aggregateIds?.includes(item.aggregateId) ?? true) &&
        (subscription.eventTypes?.includes(item.eventType) ?? true)
      : matches(subscription, item)

  const follow = Effect.fnUntraced(function* (subscription: Subscription) {
    const tail = yield* tailOf
    const ask = <A>(question: Effect.Effect<A, Reason>) =>
      Effect.raceFirst(question, tail.lost).pipe(Effect.retry(atOnce), Effect.retry(patiently))
    yield* ask(check)
    const { after, batchSize } = subscription
    const highestVersion = ask(reading.highestVersion)
    /** Whether the next row is one that cannot be decoded. What it contains, and so whether it is meant, the server knows. */
    let isUnsure = false
    let cursor = after === "start" ? 0n : after === "end" ? yield* highestVersion : after

    /** To the end of the log as it is now, however long that takes. */
    const fromTable = Stream.suspend(() =>
      reading.settled(subscription, { after: cursor, batchSize, forever: true })
    ).pipe(
      Stream.interruptWhen(tail.lost),
      // After the interruption, never before it: what it takes away has not been delivered.
      Stream.map(({ events, upTo }) => {
        cursor = upTo
        return events
      }),
      Reading.eventsIn,
      Stream.retry(atOnce),
      Stream.retry(patiently)
    )

    /** Whoever has come to its end first says from where on the tail is read. */
    const join = Effect.gen(function* () {
      const before = cursor
      if (!tail.isBegun()) {
        const highest = yield* highestVersion
        tail.begin(cursor < highest ? cursor : highest)
      }
      if (cursor === before && !tail.covers(cursor)) yield* Effect.sleep(respite)
    })

    const fromTail = Stream.paginate<void, StoredEvent, Reason>(undefined, () =>
      Effect.map(tail.next(cursor), ({ items, upTo }) => {
        const events: Array<StoredEvent> = []
        for (const item of items) {
          if (item.version <= cursor || !mayBeMeant(subscription, item)) continue
          if ("corrupt" in item) {
            isUnsure = true
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
        if (!isUnsure && tail.covers(cursor)) return fromTail
        isUnsure = false
        return Stream.concat(fromTable, Stream.drain(Stream.fromEffect(join)))
      })
    )
  })

  // What is committed, also inside of a transaction: that one's connection is not for those who stay for ever.
  return (subscription: Subscription): Stream.Stream<StoredEvent, Reason> => {
    const events = Stream.unwrap(follow(subscription))
    const outside = Stream.updateContext(events, (context: Context.Context<never>) =>
      Context.makeUnsafe<never>(Context.omit(sql.transactionService)(context).mapUnsafe)
    )
    return Stream.unwrap(Effect.map(inTransaction, (inside) => (inside ? outside : events)))
  }
})
