/** Transactions of a shard that have lost against others: they are counted, told in the log, and tried again. */
import { type Cause, Effect, Metric, Predicate, Schedule } from "effect"
import { SqlError } from "effect/sql"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import * as Telemetry from "../../internal/Telemetry.ts"
import { StoreError } from "../../StoreError.ts"
import { HandlerFailed } from "../Errors.ts"

const contention = Telemetry.counter("strata_projection_contention")

/** How long to wait before another attempt at a transaction that another one was in the way of. */
const contentionDelays = Schedule.jittered(
  Schedule.min([Schedule.exponential("10 millis"), Schedule.spaced("2 seconds")])
)

/**
 * How often in a row a handler may lose before that is a failure like any other. Each time one transaction wins, so few are
 * enough where shards are in each other's way; somebody who keeps a row locked for an hour is something else.
 */
const mostLossesOfHandler = 10

/** The least time between two warnings of a shard. */
const warningIntervalMillis = 60_000

/** How deep in an error the one that has caused it is looked for. */
const deepest = 5

const sqlContention: ReadonlySet<string> = new Set(["DeadlockError", "SerializationError", "LockTimeoutError"])

/** Why an error came of a concurrent transaction, if it did: it is certain that nothing was stored. */
const lossOf = (error: unknown, depth = 0): string | undefined => {
  if (error instanceof StoreError) return error.reason._tag === "Contention" ? error.message : undefined
  if (SqlError.isSqlError(error)) {
    const { cause, message } = error.reason
    if (!sqlContention.has(error.reason._tag)) return undefined
    return cause instanceof Error ? cause.message : message
  }
  return depth < deepest && Predicate.hasProperty(error, "cause") ? lossOf(error.cause, depth + 1) : undefined
}

const lossIn = ({ reasons }: Cause.Cause<unknown>): string | undefined => {
  for (const reason of reasons) {
    const loss = "error" in reason ? lossOf(reason.error) : "defect" in reason ? lossOf(reason.defect) : undefined
    if (loss !== undefined) return loss
  }
  return undefined
}

/** What is done about the contention of one shard. */
export const make = (projection: string, shard: number) => {
  const counter = Metric.withAttributes(contention, { projection })
  let warnedAt = Number.NEGATIVE_INFINITY
  let untold = 0

  const tell = Effect.fnUntraced(function* (loss: string) {
    yield* Metric.update(counter, 1)
    const now = yield* monotonicMillis
    untold++
    if (now - warnedAt < warningIntervalMillis) return
    const count = untold === 1 ? "" : ` (${untold} times since the last warning)`
    warnedAt = now
    untold = 0
    yield* Effect.logWarning(
      `shard ${shard} of projection "${projection}" has lost against a concurrent transaction${count}, and its batch is tried ` +
        `again within 2 seconds: ${loss}; where shards write the same rows, as one for each customer under shards by order, ` +
        "let shardBy name what the rows are for, or write them in one order"
    )
  })

  return {
    /** Makes an attempt at a transaction again and again while others are in its way, and tells of it. */
    untilWon: <A, E, R>(attempt: Effect.Effect<A, E, R>, isPassing: (error: E) => boolean): Effect.Effect<A, E, R> =>
      Effect.suspend(() => {
        let losses = 0
        const isLost = (error: E): boolean =>
          error instanceof HandlerFailed
            ? lossIn(error.cause) !== undefined && ++losses < mostLossesOfHandler
            : lossOf(error) !== undefined || isPassing(error)
        return attempt.pipe(
          Effect.tapError((error) => {
            const loss = error instanceof HandlerFailed ? lossIn(error.cause) : lossOf(error)
            return loss === undefined ? Effect.void : tell(loss)
          }),
          Effect.retry({ schedule: contentionDelays, while: isLost })
        )
      })
  }
}
