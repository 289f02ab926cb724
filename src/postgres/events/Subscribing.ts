/**
 * Subscriptions: a subscriber reads the table up to the end of the log, then takes what comes from the tail, which it shares
 * with the other subscribers. If it is too slow for the tail, it reads the table again.
 */
import { Context, Effect, Option, Schedule, Stream } from "effect"
import { matches, tagsIn } from "../../events/EventFilter.ts"
import * as LastSeen from "../../events/LastSeen.ts"
import { LogReplaced, type Step, type StoredEvent, type Subscription } from "../../EventStore.ts"
import { streamOnRealClock } from "../../internal/RealTime.ts"
import { isPassing } from "../../internal/Transient.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import * as Reading from "./Reading.ts"
import * as TagTable from "./TagTable.ts"
import * as Tail from "./Tail.ts"
import type { Item } from "./TailItems.ts"
import { replaced } from "./TailReader.ts"

/** How long to wait before reading again, where an open transaction holds up the reader of the table and the tail alike. */
const waitWhenHeldUp = "100 millis"

/** Whether the filter describes the event, or may describe what a corrupt row contains. */
const mayBeDescribed = (subscription: Subscription, item: Item, tags: ReadonlySet<string>): boolean =>
  "corrupt" in item
    ? (subscription.aggregateIds?.includes(item.aggregateId) ?? true) &&
      (subscription.eventTypes?.includes(item.eventType) ?? true)
    : matches(subscription, item, tags)

const noTags: ReadonlySet<string> = new Set()
const withoutTags: TagTable.TagsOf = () => noTags

const stepTo = (events: ReadonlyArray<StoredEvent>, seen: LastSeen.Seen): Step => ({
  events,
  upTo: LastSeen.cursorOf(seen)
})

export const make = Effect.fnUntraced(function* (check: Effect.Effect<unknown, Reason>) {
  const { inTransaction, reconnect, sql } = yield* PostgresDatabase
  const reading = yield* Reading.make
  const tailOf = yield* Tail.make
  const tagTable = yield* TagTable.make
  const again = (reason: Reason) =>
    Schedule.while(Schedule.forever, ({ input }: { input: LogReplaced | Reason }) => input === reason)
  const atOnce = again(Tail.again)
  const afterWaiting = Schedule.while(reconnect, ({ input }) => isPassing(input))

  /** Where a subscriber is, from one tail to the next. */
  interface Place {
    seen: LastSeen.Seen | undefined
  }

  const follow = Effect.fnUntraced(function* (subscription: Subscription, place: Place) {
    const tail = yield* tailOf
    const ask = <A>(question: Effect.Effect<A, Reason>) =>
      Effect.raceFirst(question, tail.lost).pipe(Effect.retry(atOnce), Effect.retry(afterWaiting))
    yield* ask(check)
    const { after, batchSize } = subscription
    const wantedTags = tagsIn(subscription)
    /**
     * Whether the next row of the tail cannot be decoded. Only the server knows what the row contains, and so whether the
     * filter describes it: the subscriber reads the row from the table.
     */
    let isNextCorrupt = false
    let seen = place.seen ?? (after === "end" ? yield* ask(reading.atEnd) : LastSeen.of(after === "start" ? 0n : after))

    const moveTo = (next: LastSeen.Seen) => {
      seen = next
      place.seen = next
    }

    /**
     * Whether the tail goes on where the subscriber is. The tail may not know yet that the log is another one by now, and a
     * cursor that was given has to be compared first.
     */
    const isAtTail = () =>
      seen.server !== undefined && tail.covers(seen.version) && LastSeen.mayBeSame(seen, tail.seen())

    /** The events of the table, up to what is the end of the log when the read begins, however long the read takes. */
    const fromTable = Stream.suspend(() => reading.settled(subscription, { seen, batchSize, forever: true })).pipe(
      Stream.interruptWhen(tail.lost),
      // The cursor moves after `interruptWhen`, not before it: a step that the interruption drops was not delivered.
      Stream.map(({ events, seen }) => {
        moveTo(seen)
        return stepTo(events, seen)
      }),
      // No schedule decides about this error.
      Stream.catchTag("LogReplaced", (error) => Stream.succeed(error)),
      Stream.retry(atOnce),
      Stream.retry(afterWaiting),
      Stream.mapEffect((step) => (step instanceof LogReplaced ? Effect.fail(step) : Effect.succeed(step)))
    )

    /** Comes to the tail. The first subscriber that does says from which version on the tail is read. */
    const join = Effect.gen(function* () {
      const before = seen.version
      if (!tail.isBegun()) {
        const end = yield* ask(reading.atEnd)
        tail.begin(seen.version <= end.version ? seen : end)
      }
      if (seen.version === before && !isAtTail()) yield* Effect.sleep(waitWhenHeldUp)
    })

    /** The tail may end because events that it knows to have been deleted are gone: this subscriber has seen them, too. */
    const nextNews = Effect.suspend(() => tail.next(seen.version)).pipe(
      Effect.tapError(() => Effect.sync(() => moveTo(LastSeen.learn(seen, tail.seen()))))
    )

    /** The tags of news, of which the tail knows nothing: a subscriber that asks for tags looks them up for each page. */
    const tagsOf = (news: Tail.News | undefined): Effect.Effect<TagTable.TagsOf, Reason> =>
      news === undefined || wantedTags.size === 0
        ? Effect.succeed(withoutTags)
        : ask(Effect.suspend(() => tagTable.between(wantedTags, seen.version, news.seen.version)))

    const newsWithTags = Effect.flatMap(nextNews, (news) => Effect.map(tagsOf(news), (tags) => ({ news, tags })))

    const fromTail = Stream.paginate<void, Step, Reason>(undefined, () =>
      Effect.map(newsWithTags, ({ news, tags }) => {
        if (news === undefined) return [[], Option.none()]
        const events: Array<StoredEvent> = []
        for (const item of news.items) {
          if (item.version <= seen.version || !mayBeDescribed(subscription, item, tags(item.version))) continue
          if ("corrupt" in item) {
            isNextCorrupt = true
            moveTo(LastSeen.backTo(news.seen, item.version - 1n))
            return [[stepTo(events, seen)], Option.none()]
          }
          events.push(item)
        }
        moveTo(news.seen)
        return [[stepTo(events, seen)], tail.covers(seen.version) ? Option.some(undefined) : Option.none()]
      })
    )

    return Stream.forever(
      Stream.suspend((): Stream.Stream<Step, LogReplaced | Reason> => {
        if (!isNextCorrupt && isAtTail()) return fromTail
        isNextCorrupt = false
        return Stream.concat(fromTable, Stream.drain(Stream.fromEffect(join)))
      })
    )
  })

  /** Follows one tail after another: a tail ends where the log is not the one that it has read. */
  const followAll = (subscription: Subscription) =>
    Stream.suspend(() => {
      const place: Place = { seen: undefined }
      return Stream.retry(Stream.unwrap(Effect.suspend(() => follow(subscription, place))), again(replaced))
    })

  // A subscriber sees what is committed, also inside a transaction: it stays for ever, and may not take its connection.
  return (subscription: Subscription): Stream.Stream<Step, LogReplaced | Reason> => {
    const steps = streamOnRealClock(followAll(subscription))
    const outside = Stream.updateContext(steps, (context: Context.Context<never>) =>
      Context.makeUnsafe<never>(Context.omit(sql.transactionService)(context).mapUnsafe)
    )
    return Stream.unwrap(Effect.map(inTransaction, (inside) => (inside ? outside : steps)))
  }
})
