/**
 * Subscriptions: a subscriber reads the table up to the end of the log, then takes what comes from the tail, which it shares
 * with the other subscribers. If it is too slow for the tail, it reads the table again.
 */
import { Array, Cause, Context, Effect, Exit, Pull, Schedule, Scope, Stream } from "effect"
import * as LastSeen from "../../events/LastSeen.ts"
import { LogReplaced, type Step, type StoredEvent, type Subscription } from "../../EventStore.ts"
import { streamOnRealClock } from "../../internal/RealTime.ts"
import { isPassing } from "../../internal/Transient.ts"
import type { Reason } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import type { Reading } from "./Reading.ts"
import { Subscriber } from "./Subscriber.ts"
import * as TagTable from "./TagTable.ts"
import * as Tail from "./Tail.ts"
import { replaced } from "./TailReader.ts"

/** How long to wait before reading again, where an open transaction holds up the reader of the table and the tail alike. */
const waitWhenHeldUp = "100 millis"

/** What a reader is given of the events that have come, when it has seen so much. */
type Give<A> = (events: ReadonlyArray<StoredEvent>, seen: LastSeen.Seen) => ReadonlyArray<A>

/** What a reader is given next. */
type Given<A> = Pull.Pull<Array.NonEmptyReadonlyArray<A>, LogReplaced | Reason>

const giveEvents: Give<StoredEvent> = (events) => events

const giveStep: Give<Step> = (events, seen) => [{ events, upTo: LastSeen.cursorOf(seen) }]

/** `reading` has what is in the table. */
export const make = Effect.fnUntraced(function* (
  check: Effect.Effect<unknown, Reason>,
  reading: Pick<Reading, "atEnd" | "settled">
) {
  const { inTransaction, reconnect, sql } = yield* PostgresDatabase
  const tailOf = yield* Tail.make
  const tagTable = yield* TagTable.make
  const again = (reason: Reason) =>
    Schedule.while(Schedule.forever, ({ input }: { input: LogReplaced | Reason }) => input === reason)
  const atOnce = again(Tail.again)
  const afterWaiting = Schedule.while(reconnect, ({ input }) => isPassing(input))

  const askFor =
    (tail: Tail.Tail) =>
    <A>(question: Effect.Effect<A, Reason>) =>
      Effect.raceFirst(question, tail.lost).pipe(Effect.retry(atOnce), Effect.retry(afterWaiting))

  /**
   * Whether the tail goes on where the subscriber is. The tail may not know yet that the log is another one by now, and a
   * cursor that was given has to be compared first.
   */
  const isAtTail = ({ seen }: Subscriber, tail: Tail.Tail) =>
    seen.server !== undefined && tail.covers(seen.version) && LastSeen.mayBeSame(seen, tail.seen())

  /** The events of the table, up to what is the end of the log when the read begins, however long the read takes. */
  const fromTable = <A>(subscriber: Subscriber, tail: Tail.Tail, give: Give<A>) => {
    const { subscription } = subscriber
    const { batchSize } = subscription
    return Stream.suspend(() =>
      reading.settled(subscription, { seen: subscriber.seen, batchSize, forever: true })
    ).pipe(
      Stream.interruptWhen(tail.lost),
      // The cursor moves after `interruptWhen`, not before it: a step that the interruption drops was not delivered.
      Stream.map(({ events, seen }) => {
        subscriber.moveTo(seen)
        return give(events, seen)
      }),
      // No schedule decides about this error.
      Stream.catchTag("LogReplaced", (error) => Stream.succeed(error)),
      Stream.retry(atOnce),
      Stream.retry(afterWaiting),
      Stream.mapEffect((given) => (given instanceof LogReplaced ? Effect.fail(given) : Effect.succeed(given))),
      Stream.filter(Array.isReadonlyArrayNonEmpty),
      Stream.flattenArray
    )
  }

  /** Comes to the tail. The first subscriber that does says from which version on the tail is read. */
  const join = Effect.fnUntraced(function* (subscriber: Subscriber, tail: Tail.Tail) {
    const before = subscriber.version
    if (!tail.isBegun()) {
      const end = yield* askFor(tail)(reading.atEnd)
      tail.begin(before <= end.version ? subscriber.seen : end)
    }
    if (subscriber.version === before && !isAtTail(subscriber, tail)) yield* Effect.sleep(waitWhenHeldUp)
  })

  /** What the tail has for the subscriber, for as long as it covers its version. */
  const fromTail = <A>(subscriber: Subscriber, tail: Tail.Tail, give: Give<A>): Given<A> => {
    const lookUp: Tail.LookUp = (wanted, after, last) =>
      askFor(tail)(Effect.suspend(() => tagTable.between(wanted, after, last)))
    const next = tail.next(subscriber, lookUp)
    const pull: Given<A> = Effect.suspend(() =>
      subscriber.isNextCorrupt || !tail.covers(subscriber.version) ? Cause.done() : Effect.flatMap(next, hand)
    )
    const hand = (events: ReadonlyArray<StoredEvent>) => {
      const given = give(events, subscriber.seen)
      return Array.isReadonlyArrayNonEmpty(given) ? Effect.succeed(given) : pull
    }
    return pull
  }

  /** Gives the subscriber the tail, and a place to begin at if it has none. */
  const enter = Effect.fnUntraced(function* (subscriber: Subscriber) {
    const tail = yield* tailOf
    yield* tail.enter(subscriber)
    const ask = askFor(tail)
    yield* ask(check)
    if (!subscriber.hasBegun) {
      const { after } = subscriber.subscription
      subscriber.moveTo(after === "end" ? yield* ask(reading.atEnd) : LastSeen.of(after === "start" ? 0n : after))
    }
    return tail
  })

  /**
   * Reads the table and the tail in turns, and follows one tail after another: a tail ends where the log is not the one that it
   * has read. It is one pull, and not streams within streams, which would be most of what a waiting subscriber keeps alive.
   */
  const turns = <A>(subscriber: Subscriber, give: Give<A>, whole: Scope.Scope): Given<A> => {
    let following = Scope.forkUnsafe(whole)

    const turn = (tail: Tail.Tail): Given<A> =>
      Effect.suspend(() => {
        if (subscriber.isNextCorrupt || !isAtTail(subscriber, tail)) return readTable(tail)
        source = Pull.catchDone(fromTail(subscriber, tail, give), () => turn(tail))
        return source
      })

    const readTable = Effect.fnUntraced(function* (tail: Tail.Tail) {
      subscriber.isNextCorrupt = false
      const scope = yield* Scope.fork(following)
      const pull = yield* Scope.provide(Stream.toPull(fromTable(subscriber, tail, give)), scope)
      const end = Effect.andThen(Scope.close(scope, Exit.void), join(subscriber, tail))
      source = Pull.catchDone(pull, () => Effect.andThen(end, turn(tail)))
      return yield* source
    })

    const begin: Given<A> = Effect.gen(function* () {
      yield* Scope.close(following, Exit.void)
      following = yield* Scope.fork(whole)
      return yield* turn(yield* Scope.provide(enter(subscriber), following))
    })

    let source = begin
    // What is waited for keeps the effect alive in which it began: so the source is looked up, and not a part of the pull.
    const pull: Given<A> = Effect.catchIf(
      Effect.suspend(() => source),
      (error) => error === replaced,
      () => {
        source = begin
        return pull
      }
    )
    return pull
  }

  const followAll = <A>(subscription: Subscription, isTold: boolean, give: Give<A>) =>
    Stream.unwrap(
      Effect.map(Effect.scope, (scope) =>
        Stream.fromPull(Effect.sync(() => turns(new Subscriber(subscription, isTold), give, scope)))
      )
    )

  /** A subscriber sees what is committed, also inside a transaction: it stays for ever, and may not take its connection. */
  const outside = <A>(followed: Stream.Stream<A, LogReplaced | Reason>) => {
    const stream = streamOnRealClock(followed)
    const withoutTransaction = Stream.updateContext(stream, (context: Context.Context<never>) =>
      Context.makeUnsafe<never>(Context.omit(sql.transactionService)(context).mapUnsafe)
    )
    return Stream.unwrap(Effect.map(inTransaction, (inside) => (inside ? withoutTransaction : stream)))
  }

  return {
    /** The events of a subscription, for ever. */
    subscribe: (subscription: Subscription) => outside(followAll(subscription, false, giveEvents)),

    /** The same, in steps that say how far the log was passed: there is one for each page, whether it has events or not. */
    follow: (subscription: Subscription) => outside(followAll(subscription, true, giveStep))
  }
})
