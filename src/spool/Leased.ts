/** The messages that are leased to one worker: each from its claim until it is settled or lost. */
import { Effect, type Fiber, Metric } from "effect"
import * as Telemetry from "../internal/Telemetry.ts"
import type { Lease as LeaseSchema, Outcome, SpoolMessage } from "../SpoolStore.ts"

export type Lease = typeof LeaseSchema.Type

/** A message that is claimed and not settled. */
export interface Leased {
  readonly lease: Lease
  readonly message: SpoolMessage
  /** Its handler, once that has begun. */
  fiber: Fiber.Fiber<Outcome | undefined> | undefined
  /** What becomes of the message, from the end of its handler until that is settled. */
  outcome: Outcome | undefined
  isLost: boolean
}

/** Leased messages by their ids: a worker has one lease of a message at a time. */
export type LeasedMessages = Map<string, Leased>

/** Removes the message, unless another lease of the same message has taken its place. */
export const forget = (messages: LeasedMessages, leased: Leased): void => {
  if (messages.get(leased.lease.id) === leased) messages.delete(leased.lease.id)
}

const leasesLost = Telemetry.counter("strata_spool_leases_lost")

/** Counts a lease that a worker of the queue has lost, and logs it. */
export const warnOfLoss = (queue: string) => {
  const counter = Metric.withAttributes(leasesLost, { queue })
  return ({ id }: { readonly id: string }, why = "it was moved, or its lease ran out") =>
    Effect.andThen(
      Metric.update(counter, 1),
      Effect.logWarning(
        `message "${id}" of queue "${queue}" is no longer held by this worker: ${why}; the worker that has its lease handles it again`
      )
    )
}
