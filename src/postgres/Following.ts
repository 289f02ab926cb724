/** Subscriptions: the log up to its end, then what comes, for as long as anybody asks for more. */
import { Context, Effect, Option, Schedule, Stream } from "effect"
import { matches } from "../EventFilter.ts"
import type { StoredEvent, Subscription } from "../EventStore.ts"
import type { CorruptRow, Reason } from "../StoreError.ts"
import { PostgresDatabase } from "./PostgresDatabase.ts"
import type * as Reading from "./Reading.ts"
import * as Tail from "./Tail.ts"

/** How long to wait, where an open transaction keeps both a reader of the table and the tail from getting on. */
const respite = "100 millis"

export const make = Effect.fnUntraced(function* (
  reading: Effect.Success<typeof Reading.make>,
  check: Effect.Effect<unknown, Reason>
) {
  const { reconnect, sql } = yield* PostgresDatabase
  const tailOf = yield* Tail.make
  const patiently = Schedule.while(reconnect, ({ input }) => input.isRetryable)

  const isMeant = (subscription: Subscription, item: Tail.Item): boolean =>
    "corrupt" in item
      ? (subscription.aggregateIds?.includes(item.aggregateId) ?? true) &&
        (subscription.eventTypes?.includes(item.eventType) ?? true)
      : matches(subscription, item)

  const follow = Effect.fnUntraced(function* (subscription: Subscription) {
    const tail = yield* tailOf
    yield* Effect.retry(check, patiently)
    const { after, batchSize } = subscription
    const { highestVersion } = reading
    let cursor = after === "start" ? 0n : after === "end" ? yield* Effect.retry(highestVersion, patiently) : after

    /** To the end of the log as it is now, however long that takes. */
    const fromTable = Stream.suspend(() =>
      reading.settled(subscription, {
        after: cursor,
        batchSize,
        forever: true,
        onMark: (mark) => {
          cursor = mark
        }
      })
    ).pipe(
      Stream.mapArray((events) => {
        cursor = events.at(-1)?.version ?? cursor
        return events
      }),
      Stream.interruptWhen(tail.lost),
      Stream.retry(patiently)
    )

    /** Whoever has come to its end first says from where on the tail is read. */
    const join = Effect.gen(function* () {
      const before = cursor
      if (!tail.isBegun()) {
        const highest = yield* Effect.retry(highestVersion, patiently)
        tail.begin(cursor < highest ? cursor : highest)
      }
      if (cursor === before && !tail.covers(cursor)) yield* Effect.sleep(respite)
    })

    const fromTail = Stream.suspend(() => {
      let corrupt: CorruptRow | undefined
      return Stream.paginate<void, StoredEvent, Reason>(undefined, () => {
        if (corrupt !== undefined) return Effect.fail(corrupt)
        return Effect.map(tail.next(cursor), ({ items, upTo }) => {
          const events: Array<StoredEvent> = []
          for (const item of items) {
            if (item.version <= cursor || !isMeant(subscription, item)) continue
            if ("corrupt" in item) {
              corrupt = item.corrupt
              break
            }
            events.push(item)
          }
          cursor = upTo
          return [events, tail.covers(cursor) || corrupt !== undefined ? Option.some(undefined) : Option.none()]
        })
      })
    })

    return Stream.forever(
      Stream.suspend(() =>
        tail.covers(cursor) ? fromTail : Stream.concat(fromTable, Stream.drain(Stream.fromEffect(join)))
      )
    )
  })

  // What is committed, also inside of a transaction: that one's connection is not for those who stay for ever.
  return (subscription: Subscription): Stream.Stream<StoredEvent, Reason> =>
    Stream.updateContext(Stream.unwrap(follow(subscription)), (context: Context.Context<never>) =>
      Context.makeUnsafe<never>(Context.omit(sql.transactionService)(context).mapUnsafe)
    )
})
