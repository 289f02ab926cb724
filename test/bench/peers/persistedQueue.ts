/** Effect's own `PersistedQueue` on SQL, on the client that the stores use, too. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer } from "effect"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { latencies as idle, type Open, Payload, payload, sends, works } from "../queues.ts"

const peer = "PersistedQueue"

const open = (workers: number): Open =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    const tableName = `persisted_queue_${crypto.randomUUID().slice(0, 8)}`
    yield* Effect.addFinalizer(() => Effect.orDie(sql`DROP TABLE ${sql(tableName)}`))
    const context = yield* Layer.build(
      Layer.provide(PersistedQueue.layer, PersistedQueue.layerStoreSql({ tableName })).pipe(
        Layer.provide(Layer.succeed(SqlClient.SqlClient, sql))
      )
    )
    const queue = yield* Context.get(context, PersistedQueue.PersistedQueueFactory).make({
      name: "no-op",
      schema: Payload
    })
    const send = queue.offer(payload)
    return {
      send,
      sendMany: (count) =>
        Effect.forEach(
          Array.from({ length: count }, () => send),
          (offer) => offer,
          { concurrency: 64, discard: true }
        ),
      work: (handled) =>
        Effect.forEach(
          Array.from({ length: workers }, () => Effect.forever(queue.take(() => Effect.sync(handled)))),
          (take) => Effect.forkScoped(take)
        )
    }
  })

export const figures = [
  sends({ name: "persisted-queue/offer", peer, open: open(1), settings: "offer, pool of 25" }),
  works({ name: "persisted-queue/take", peer, open: open(16), settings: "16 fibers that take" }, 4_000)
]

export const latencies = idle({
  name: "persisted-queue/idle-latency",
  peer,
  open: open(1),
  settings: "1 fiber that takes"
})
