/**
 * Keeps the leases of a worker while handlers run: a lease is renewed each third of its time. A message whose lease is lost
 * is given up at once. If the store does not answer, every message is given up a lease's time after the last renewal.
 */
import { Cause, Duration, Effect, Result } from "effect"
import { monotonicMillis } from "../internal/Monotonic.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import { SpoolStore } from "../SpoolStore.ts"
import type { StoreError } from "../StoreError.ts"
import type { Lease, LeasedMessages } from "./Leased.ts"

const whyOf = (error: InvalidInput | StoreError | Cause.TimeoutError): string =>
  Cause.isTimeoutError(error) ? "the database did not answer" : error.message

/** Renews the leases for ever. `giveUp` is told of the leases that are lost. */
export const renewForever = (
  lease: Duration.Duration,
  messages: LeasedMessages,
  giveUp: (lost: ReadonlyArray<Pick<Lease, "id" | "owner">>, why?: string) => Effect.Effect<void>
): Effect.Effect<never, never, SpoolStore> =>
  Effect.gen(function* () {
    const spool = yield* SpoolStore
    const interval = Duration.times(lease, 1 / 3)
    let renewedAt = yield* monotonicMillis
    while (true) {
      yield* Effect.sleep(interval)
      const now = yield* monotonicMillis
      const leases = Array.from(messages.values(), (leased) => leased.lease)
      if (leases.length === 0) {
        renewedAt = now
        continue
      }
      const renewal = yield* Effect.result(Effect.timeout(spool.heartbeat(leases, lease), interval))
      if (Result.isSuccess(renewal)) {
        renewedAt = now
        yield* giveUp(renewal.success)
      } else if (now - renewedAt >= Duration.toMillis(lease)) {
        // The leases have run out, and other workers may have recovered the messages: this worker cannot know.
        yield* giveUp(leases, `its lease could not be renewed in time: ${whyOf(renewal.failure)}`)
      }
    }
  })
