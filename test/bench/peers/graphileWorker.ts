/** graphile-worker, with the settings of the performance page of its documentation. */
import { Effect } from "effect"
import { Logger, makeWorkerUtils, run } from "graphile-worker"
import { batches, latencies as idle, type Open, payload, sends, works } from "../queues.ts"
import { ownSchema } from "./server.ts"

const peer = "graphile-worker"

const settings = "24 concurrent jobs, local queue of 500, completes and fails in batches at once, prepared statements"

const open: Open = Effect.gen(function* () {
  const { schema, url } = yield* ownSchema
  const preset = {
    worker: {
      connectionString: url,
      schema,
      logger: new Logger(() => () => undefined),
      maxPoolSize: 25,
      concurrentJobs: 24,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0
    }
  }
  const utils = yield* Effect.acquireRelease(
    Effect.tryPromise(() => makeWorkerUtils({ preset })),
    (utils) => Effect.promise(() => utils.release())
  )
  yield* Effect.tryPromise(() => utils.migrate())
  return {
    send: Effect.tryPromise(() => utils.addJob("no-op", payload)),
    sendMany: (count) =>
      Effect.tryPromise(() => utils.addJobs(Array.from({ length: count }, () => ({ identifier: "no-op", payload })))),
    work: (handled) =>
      Effect.acquireRelease(
        Effect.tryPromise(() =>
          run({ preset, taskList: { "no-op": handled }, parsedCronItems: [], noHandleSignals: true })
        ),
        (runner) => Effect.promise(() => runner.stop())
      )
  }
})

export const figures = [
  sends({ name: "graphile-worker/add-job", peer, open, settings: "addJob, pool of 25" }),
  batches({ name: "graphile-worker/add-jobs-1000", peer, open, settings: "addJobs" }),
  works({ name: "graphile-worker/end-to-end", peer, open, settings }, 20_000)
]

export const latencies = idle({ name: "graphile-worker/idle-latency", peer, open, settings })
