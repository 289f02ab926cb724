/** `Spool` beside another queue, on one server: one after the other in each round. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Layer, Schema, type Scope } from "effect"
import { Spool, SpoolStore, type Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { fibers, type Figure, type Latency, type Services } from "./harness.ts"

/** What both sides send: as large as that of the other figures. */
export const payload = { to: "anna@example.org", subject: "a message like any other" }

export const Payload = Schema.Struct({ to: Schema.String, subject: Schema.String })

export interface Queue {
  /** Stores one message. */
  readonly send: Effect.Effect<unknown, unknown>
  /** Stores so many, in the fewest steps that it knows. */
  readonly sendMany: (count: number) => Effect.Effect<unknown, unknown>
  /** Works until the scope ends, and calls this for each message. The scope ends once everything handled is settled. */
  readonly work: (handled: () => void) => Effect.Effect<unknown, unknown, Scope.Scope>
}

/** A queue that is empty, as long as the scope lasts. */
export type Open = Effect.Effect<Queue, unknown, Services | Scope.Scope>

interface Comparison {
  readonly name: string
  readonly peer: string
  readonly open: Open
  /** The settings of the peer. */
  readonly settings: string
}

// Strata

/** `sender` is how messages are stored: in the worker's own process, unless it says otherwise. */
const spool = (
  options: Spool.RunOptions,
  sender: Effect.Effect<
    SpoolStore.SpoolStore["Service"],
    unknown,
    SpoolStore.SpoolStore | PgClient.PgClient | Scope.Scope
  >
): Open =>
  Effect.gen(function* () {
    const context = yield* Effect.context<SpoolStore.SpoolStore | Transactor.Transactor>()
    const store = yield* sender
    const jobs = Spool.make({ name: crypto.randomUUID(), payload: Payload })
    const send = Effect.provideService(SpoolStore.SpoolStore, store)
    return {
      send: send(jobs.enqueue(payload)),
      sendMany: (count: number) => send(jobs.enqueueAll(Array.from({ length: count }, () => ({ payload })))),
      work: (handled: () => void) =>
        Effect.forkScoped(
          Effect.provideContext(
            jobs.run(() => Effect.sync(handled), options),
            context
          )
        )
    }
  })

const sameProcess = SpoolStore.SpoolStore

/** A layer of its own wakes workers as another process would: by a notification. */
const otherProcess = Effect.map(Layer.build(Layer.fresh(Postgres.layer())), Context.get(SpoolStore.SpoolStore))

// Figures

/** Both queues, and what comes before a round: no side shall suffer from what the other one has left, or from old statistics. */
const both = (strata: Open, other: Open) =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    return { strata: yield* strata, other: yield* other, tidy: sql`VACUUM (ANALYZE)` }
  })

/** Messages that are sent one by one, by many fibers. */
export const sends = ({ name, open, peer, settings }: Comparison): Figure => ({
  name: `peers/${name}`,
  otherName: peer,
  unit: "messages/s",
  operations: 6_400,
  conditions: `16 fibers, 1 at a time; ${peer}: ${settings}`,
  sides: Effect.gen(function* () {
    const { other, strata, tidy } = yield* both(spool({}, sameProcess), open)
    return { prepare: () => tidy, strata: fibers(16, () => strata.send), other: fibers(16, () => other.send) }
  })
})

/** Messages that are sent a thousand at a time. */
export const batches = ({ name, open, peer, settings }: Comparison): Figure => ({
  name: `peers/${name}`,
  otherName: peer,
  unit: "messages/s",
  operations: 10_000,
  conditions: `1,000 at a time; ${peer}: ${settings}`,
  sides: Effect.gen(function* () {
    const { other, strata, tidy } = yield* both(spool({}, sameProcess), open)
    const load = (queue: Queue) => (operations: number) =>
      Effect.repeat(queue.sendMany(1_000), { times: operations / 1_000 - 1 })
    return { prepare: () => tidy, strata: load(strata), other: load(other) }
  })
})

/** Messages that wait are handled by a worker that does nothing, from its start to its end. */
export const works = ({ name, open, peer, settings }: Comparison, operations: number): Figure => ({
  name: `peers/${name}`,
  otherName: peer,
  unit: "messages/s",
  operations,
  conditions: `1 process, no-op handler, from the start of the worker to its end; Spool: concurrency 100, buffer 400; ${peer}: ${settings}`,
  sides: Effect.gen(function* () {
    const { other, strata, tidy } = yield* both(spool({ concurrency: 100, buffer: 400 }, sameProcess), open)
    const load = (queue: Queue) => (operations: number) =>
      Effect.gen(function* () {
        const done = yield* Deferred.make<void>()
        let handled = 0
        yield* queue.work(() => {
          if (++handled === operations) Deferred.doneUnsafe(done, Effect.void)
        })
        yield* Effect.timeout(Deferred.await(done), "2 minutes")
      }).pipe(Effect.scoped)
    const fill = (queue: Queue, operations: number) =>
      Effect.repeat(queue.sendMany(1_000), { times: operations / 1_000 - 1 })
    return {
      prepare: (operations) => Effect.all([fill(strata, operations), fill(other, operations), tidy], { discard: true }),
      strata: load(strata),
      other: load(other)
    }
  })
})

/** How soon a worker that has nothing to do begins with a message, from the call that sends it. */
const idle = (
  { name, open, peer, settings }: Comparison,
  sender: Parameters<typeof spool>[1],
  from: string
): Latency => ({
  name: `peers/${name}`,
  otherName: peer,
  conditions: `from the call to the handler, Spool woken from ${from}, 20 messages a round; ${peer}: ${settings}`,
  round: Effect.gen(function* () {
    const timed = Effect.fnUntraced(function* (queue: Queue) {
      let begun: (time: number) => void = () => undefined
      yield* queue.work(() => begun(performance.now()))
      return Effect.gen(function* () {
        const arrival = yield* Deferred.make<number>()
        begun = (time) => Deferred.doneUnsafe(arrival, Effect.succeed(time))
        yield* Effect.sleep("100 millis")
        const called = performance.now()
        yield* queue.send
        return (yield* Effect.timeout(Deferred.await(arrival), "1 minute")) - called
      })
    })
    const strata = yield* timed(yield* spool({}, sender))
    const other = yield* timed(yield* open)
    const times = { strata: new Array<number>(), other: new Array<number>() }
    for (let message = -3; message < 20; message++) {
      const pair = { strata: yield* strata, other: yield* other }
      if (message < 0) continue
      times.strata.push(pair.strata)
      times.other.push(pair.other)
    }
    return times
  })
})

export const latencies = (comparison: Comparison): ReadonlyArray<Latency> => [
  idle(comparison, sameProcess, "its own process"),
  idle({ ...comparison, name: `${comparison.name}-across` }, otherProcess, "another process")
]
