/** How soon a worker that waits begins with a message. */
import { Deferred, Effect, Schema } from "effect"
import { Spool, type SpoolStore, type Transactor } from "effect-strata"
import { type Latency, now, steadily } from "./harness.ts"

const Payload = Schema.Struct({ index: Schema.Int })

let rounds = 0

export const latencies = (quick: boolean): ReadonlyArray<Latency> => [
  {
    name: "spool/latency",
    otherName: "enqueue itself",
    conditions: "from the call of enqueue, 500 messages/s of 16 fibers, 1 worker of 16 handlers",
    round: Effect.gen(function* () {
      const context = yield* Effect.context<SpoolStore.SpoolStore | Transactor.Transactor>()
      const count = quick ? 150 : 2_000
      const jobs = Spool.make({ name: `latency ${rounds++}`, payload: Payload })
      const called: Array<number> = []
      const strata: Array<number> = []
      const other: Array<number> = []
      const begun = yield* Deferred.make<void>()
      const done = yield* Deferred.make<void>()
      const worker = jobs.run(
        Effect.fnUntraced(function* ({ index }) {
          // The first message only shows that the worker runs.
          if (index < 0) return void (yield* Deferred.succeed(begun, undefined))
          strata.push((yield* now) - (called[index] ?? Number.NaN))
          if (strata.length === count) yield* Deferred.succeed(done, undefined)
        }),
        { concurrency: 16 }
      )
      yield* Effect.forkScoped(Effect.provideContext(worker, context))
      yield* jobs.enqueue({ index: -1 })
      yield* Deferred.await(begun)
      yield* steadily(
        { count, rate: 500, writers: 16 },
        Effect.fnUntraced(function* (index) {
          const before = yield* now
          called[index] = before
          yield* jobs.enqueue({ index })
          other.push((yield* now) - before)
        })
      )
      // Messages that have not come by then are missing from the number of those that arrived.
      yield* Effect.timeoutOption(Deferred.await(done), "10 seconds")
      return { strata, other }
    })
  }
]
