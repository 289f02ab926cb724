/** `EventStore` beside the event store of others, on one server: one after the other in each round. */
import { PgClient } from "@effect/sql-pg"
import { Deferred, Effect, type Scope, Stream } from "effect"
import { EventStore } from "effect-strata"
import { fibers, type Figure, type Latency, type Services } from "./harness.ts"

export const eventType = "Deposited"

export const data = { amount: 100, currency: "EUR", note: "a payment like any other" }

export interface EventLog {
  /** Appends so many events to a stream, all or nothing. */
  readonly append: (stream: string, count: number) => Effect.Effect<unknown, unknown>
  /** Reads all events of a stream, and says how many. */
  readonly read: (stream: string) => Effect.Effect<number, unknown>
  /** Calls this for each event of the log from its first one on, those to come, too, until the scope ends. */
  readonly follow: (seen: () => void) => Effect.Effect<unknown, unknown, Scope.Scope>
}

/** A log, as long as the scope lasts. */
export type Open = Effect.Effect<EventLog, unknown, Services | Scope.Scope>

interface Comparison {
  readonly name: string
  readonly peer: string
  readonly open: Open
  /** The settings of the peer. */
  readonly settings: string
}

/** It follows the events that are appended after it was opened. */
const strata: Open = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const after = yield* events.latestVersion
  return {
    append: (aggregateId, count) =>
      events.append(Array.from({ length: count }, () => ({ aggregateId, eventType, data }))),
    read: (aggregateId) => Effect.map(events.loadByAggregate(aggregateId), (found) => found.length),
    follow: (seen) => Effect.forkScoped(Stream.runForEach(events.subscribe({ after }), () => Effect.sync(seen)))
  }
})

const both = (other: Open) =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    return { strata: yield* strata, other: yield* other, tidy: sql`VACUUM (ANALYZE)` }
  })

/** Names that no other round has. */
const streamOf = (fiber: number) => `account-${fiber}-${crypto.randomUUID()}`

/** Appends of `size` events by so many fibers, each to streams of ten appends. */
export const appends = (count: number, size: number, { name, open, peer, settings }: Comparison): Figure => ({
  name: `peers/${name}`,
  otherName: peer,
  unit: "events/s",
  operations: 1_000 * Math.max(1, size / 10),
  conditions: `${count} fibers, ${size} at a time; ${peer}: ${settings}`,
  sides: Effect.gen(function* () {
    const { other, strata, tidy } = yield* both(open)
    const load = (log: EventLog) => (operations: number) => {
      const streams = Array.from({ length: count }, (_, fiber) => streamOf(fiber))
      return fibers(count, (fiber) => log.append(streams[fiber] ?? "", size))(operations / size)
    }
    return { prepare: () => tidy, strata: load(strata), other: load(other) }
  })
})

/** Reads one stream, from its first event to its last. */
export const reads = ({ name, open, peer, settings }: Comparison): Figure => ({
  name: `peers/${name}`,
  otherName: peer,
  unit: "events/s",
  operations: 20_000,
  conditions: `a stream of 10,000 events; ${peer}: ${settings}`,
  sides: Effect.gen(function* () {
    const { other, strata, tidy } = yield* both(open)
    const [stream, length] = [streamOf(0), 10_000]
    yield* Effect.forEach([strata, other], (log) => Effect.repeat(log.append(stream, 1_000), { times: 9 }))
    yield* tidy
    const load = (log: EventLog) => (operations: number) =>
      log.read(stream).pipe(
        Effect.filterOrFail(
          (found) => found === length,
          (found) => new Error(`${found} of ${length} events`)
        ),
        Effect.repeat({ times: operations / length - 1 })
      )
    return { strata: load(strata), other: load(other) }
  })
})

/** Reads a log that was filled before, from its first event to its last. */
export const catchUps = ({ name, open, peer, settings }: Comparison): Figure => ({
  name: `peers/${name}`,
  otherName: peer,
  unit: "events/s",
  operations: 20_000,
  conditions: `no-op handler, 20,000 events that are there; ${peer}: ${settings}`,
  sides: Effect.gen(function* () {
    const { other, strata, tidy } = yield* both(open)
    yield* Effect.forEach([strata, other], (log) => Effect.repeat(log.append(streamOf(0), 1_000), { times: 19 }))
    yield* tidy
    const load = (log: EventLog) => (operations: number) =>
      Effect.gen(function* () {
        const done = yield* Deferred.make<void>()
        let seen = 0
        yield* log.follow(() => {
          if (++seen === operations) Deferred.doneUnsafe(done, Effect.void)
        })
        yield* Effect.timeout(Deferred.await(done), "2 minutes")
      }).pipe(Effect.scoped)
    return { strata: load(strata), other: load(other) }
  })
})

/** The time from the call of append to the handler of a subscription that has nothing else to do. */
export const latency = ({ name, open, peer, settings }: Comparison): Latency => ({
  name: `peers/${name}`,
  otherName: peer,
  conditions: `from the call of append to the handler, 5 events a round; ${peer}: ${settings}`,
  round: Effect.gen(function* () {
    const timed = Effect.fnUntraced(function* (log: EventLog) {
      let seen: (time: number) => void = () => undefined
      yield* log.follow(() => seen(performance.now()))
      const stream = streamOf(0)
      return Effect.gen(function* () {
        const arrival = yield* Deferred.make<number>()
        seen = (time) => Deferred.doneUnsafe(arrival, Effect.succeed(time))
        const called = performance.now()
        yield* log.append(stream, 1)
        return (yield* Effect.timeout(Deferred.await(arrival), "1 minute")) - called
      })
    })
    const own = yield* timed(yield* strata)
    const other = yield* timed(yield* open)
    const times = { strata: new Array<number>(), other: new Array<number>() }
    for (let event = -1; event < 5; event++) {
      // The delay is long, so that a log which looks less often while nothing is new does so, and random, so that appends
      // are at no fixed distance from its looks.
      const pair = { other: yield* other, strata: yield* Effect.delay(own, `${100 + Math.random() * 500} millis`) }
      if (event < 0) continue
      times.strata.push(pair.strata)
      times.other.push(pair.other)
    }
    return times
  })
})
