/** Emmett's event store on Postgres, with its pool of connections and larger batches than it has by itself. */
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql"
import { Effect } from "effect"
import { appends, catchUps, data, eventType, latency, type Open, reads } from "../eventLogs.ts"
import { ownSchema } from "./server.ts"

const peer = "Emmett"

const open: Open = Effect.gen(function* () {
  const { schema, url } = yield* ownSchema
  // It has no option for the schema of its tables.
  const own = new URL(url)
  own.searchParams.set("options", `-c search_path=${schema}`)
  const store = yield* Effect.acquireRelease(
    Effect.sync(() => getPostgreSQLEventStore(own.href)),
    (store) => Effect.promise(() => store.close())
  )
  yield* Effect.tryPromise(() => store.schema.migrate())
  return {
    append: (stream, count) =>
      Effect.tryPromise(() =>
        store.appendToStream(
          stream,
          Array.from({ length: count }, () => ({ type: eventType, data }))
        )
      ),
    read: (stream) =>
      Effect.map(
        Effect.tryPromise(() => store.readStream(stream)),
        ({ events }) => events.length
      ),
    follow: (seen) =>
      Effect.gen(function* () {
        const consumer = yield* Effect.acquireRelease(
          Effect.sync(() => store.consumer({ pulling: { batchSize: 1_000, pullingFrequencyInMs: 1 } })),
          // The consumer is not closed: it would end the pool, which it shares with the store.
          (consumer) => Effect.promise(() => consumer.stop())
        )
        consumer.reactor({ processorId: crypto.randomUUID(), startFrom: "BEGINNING", eachMessage: seen })
        yield* Effect.forkScoped(Effect.tryPromise(() => consumer.start()))
      })
  }
})

const pool = "its own pool"
const consumer =
  "a reactor with batches of 1,000 and 1 ms between them, and a checkpoint after each event, which Strata's subscribe leaves to the caller"

export const figures = [
  appends(1, 1, { name: "emmett/append-1", peer, open, settings: pool }),
  appends(16, 1, { name: "emmett/append-16", peer, open, settings: pool }),
  appends(1, 100, { name: "emmett/append-batch-100", peer, open, settings: pool }),
  reads({ name: "emmett/read-stream", peer, open, settings: "readStream" }),
  catchUps({ name: "emmett/subscription", peer, open, settings: consumer })
]

export const latencies = [latency({ name: "emmett/subscription-latency", peer, open, settings: consumer })]
