/** pg-boss, with the options that its documentation names for throughput, and for latency. */
import { Effect } from "effect"
import { PgBoss } from "pg-boss"
import { batches, latencies as idle, type Open, payload, sends, works } from "../queues.ts"
import { ownSchema } from "./server.ts"

const peer = "pg-boss"

const queue = "no-op"

/** With `notify` a worker is woken for each message. */
const open = (notify: boolean): Open =>
  Effect.gen(function* () {
    const { schema, url } = yield* ownSchema
    const boss = yield* Effect.acquireRelease(
      Effect.tryPromise(async () => {
        const boss = new PgBoss({
          connectionString: url,
          schema,
          max: 25,
          supervise: false,
          schedule: false,
          useListenNotify: notify
        })
        boss.on("error", (error) => console.error("pg-boss:", error))
        await boss.start()
        return boss
      }),
      (boss) => Effect.promise(() => boss.stop({ graceful: false }))
    )
    yield* Effect.tryPromise(() => boss.createQueue(queue, { notify }))
    const options = notify ? {} : { batchSize: 500, localConcurrency: 4, burstWhenBatchFull: true }
    return {
      send: Effect.tryPromise(() => boss.send(queue, payload)),
      sendMany: (count) =>
        Effect.tryPromise(() =>
          boss.insert(
            queue,
            Array.from({ length: count }, () => ({ data: payload }))
          )
        ),
      work: (handled) =>
        Effect.acquireRelease(
          Effect.tryPromise(() =>
            boss.work(queue, { ...options, pollingIntervalSeconds: 0.5 }, async (jobs) => jobs.forEach(handled))
          ),
          () => Effect.promise(() => boss.offWork(queue, { wait: true }))
        )
    }
  })

export const figures = [
  sends({ name: "pg-boss/send", peer, open: open(false), settings: "send, pool of 25" }),
  batches({ name: "pg-boss/insert-1000", peer, open: open(false), settings: "insert" }),
  works(
    {
      name: "pg-boss/end-to-end",
      peer,
      open: open(false),
      settings: "4 workers, batches of 500, without a pause while they are full"
    },
    20_000
  )
]

export const latencies = idle({
  name: "pg-boss/idle-latency",
  peer,
  open: open(true),
  settings: "woken by LISTEN and NOTIFY"
})
