/** What the process keeps for each subscriber and each message, beside fibers or objects that do no more than hold them. */
import { PgClient } from "@effect/sql-pg"
import { Context, Deferred, Effect, Layer, PubSub, Schema, Stream } from "effect"
import { EventStore, Spool, SpoolStore, type Transactor } from "effect-strata"
import * as Memory from "effect-strata/memory"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { event } from "./events.ts"
import type { Amount } from "./harness.ts"

const Gc = Schema.declare((u: unknown): u is () => void => typeof u === "function")

const collect = Effect.suspend(() => {
  setFlagsFromString("--expose-gc")
  return Effect.map(Schema.decodeUnknownEffect(Gc)(runInNewContext("gc")), (gc) => {
    // It collects twice, as what the first collection finalises is free after the second.
    gc()
    gc()
  })
})

const used = Effect.map(collect, () => {
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
})

/** By how many kB the process has grown for each of `count`, while what was set up is still there. */
const kilobytes = <E, R>(count: number, setUp: Effect.Effect<unknown, E, R>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const before = yield* used
      yield* setUp
      return ((yield* used) - before) / count / 1000
    })
  )

const times = (count: number) => Array.from({ length: count }, (_, index) => index)

/** Counts to a number. */
const counter = (count: number) =>
  Effect.map(Deferred.make<void>(), (done) => {
    let seen = 0
    return {
      one: Effect.suspend(() => (++seen === count ? Deferred.succeed(done, undefined) : Effect.void)),
      all: Deferred.await(done)
    }
  })

const subscribers = 1_000

const perSubscriber: Amount = {
  name: "memory/per-subscriber",
  unit: "kB",
  otherName: "fiber that waits at a PubSub",
  conditions: `${subscribers.toLocaleString("en")} subscribers that have seen an event and wait`,
  amount: Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const strata = yield* kilobytes(
      subscribers,
      Effect.gen(function* () {
        const { all, one } = yield* counter(subscribers)
        const after = yield* events.latestVersion
        yield* Effect.forEach(times(subscribers), () =>
          events.subscribe({ after }).pipe(
            Stream.runForEach(() => one),
            Effect.forkScoped
          )
        )
        yield* events.append(event(0))
        yield* all
      })
    )
    const other = yield* kilobytes(
      subscribers,
      Effect.gen(function* () {
        const { all, one } = yield* counter(subscribers)
        const hub = yield* PubSub.unbounded<number>({ replay: 1 })
        yield* Effect.forEach(times(subscribers), () =>
          Stream.fromPubSub(hub).pipe(
            Stream.runForEach(() => one),
            Effect.forkScoped
          )
        )
        yield* PubSub.publish(hub, 1)
        yield* all
      })
    )
    return { strata, other }
  })
}

const Payload = Schema.Struct({ to: Schema.String, subject: Schema.String })
const payload = { to: "anna@example.org", subject: "a message like any other" }
const inHand = 2_000
const waiting = 10_000

/** A worker has all messages in hand, and its handlers do not end. */
const perMessage: Amount = {
  name: "memory/per-message",
  unit: "kB",
  otherName: "fiber that holds the payload",
  conditions: `${inHand.toLocaleString("en")} messages in the hands of a worker`,
  amount: Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    const context = yield* Effect.context<SpoolStore.SpoolStore | Transactor.Transactor>()
    const jobs = Spool.make({ name: "held", payload: Payload })
    yield* jobs.enqueueAll(times(inHand).map(() => ({ payload })))
    const strata = yield* kilobytes(
      inHand,
      Effect.gen(function* () {
        const { all, one } = yield* counter(inHand)
        const worker = jobs.run(() => Effect.andThen(one, Effect.never), {
          concurrency: inHand,
          buffer: 0,
          shutdownTimeout: "1 millis"
        })
        yield* Effect.forkScoped(Effect.provideContext(worker, context))
        yield* all
      })
    )
    yield* sql`DELETE FROM strata_messages WHERE queue = ${jobs.name}`
    const other = yield* kilobytes(
      inHand,
      Effect.gen(function* () {
        const { all, one } = yield* counter(inHand)
        yield* Effect.forEach(times(inHand), () => {
          const message = { ...payload }
          return Effect.forkScoped(Effect.andThen(one, Effect.as(Effect.never, message)))
        })
        yield* all
      })
    )
    return { strata, other }
  })
}

/** What the memory backend keeps for a message that waits, beside the same objects in a map. */
const perWaitingMessage: Amount = {
  name: "memory/per-waiting-message",
  unit: "kB",
  otherName: "object in a Map",
  conditions: `${waiting.toLocaleString("en")} messages that wait in the memory backend`,
  amount: Effect.gen(function* () {
    const stores = yield* Layer.build(Layer.fresh(Memory.layer))
    const spool = Context.get(stores, SpoolStore.SpoolStore)
    const message = () => ({ id: crypto.randomUUID(), queue: "waiting", payload: { ...payload } })
    const strata = yield* kilobytes(waiting, spool.storeMany(times(waiting).map(message)))
    const map = new Map<string, object>()
    const other = yield* kilobytes(
      waiting,
      Effect.sync(() => {
        for (const _ of times(waiting)) {
          const { id, ...rest } = message()
          map.set(id, rest)
        }
      })
    )
    if (map.size !== waiting) yield* Effect.fail(new Error("two messages had one id"))
    return { strata, other }
  })
}

export const figures: ReadonlyArray<Amount> = [perSubscriber, perMessage, perWaitingMessage]
