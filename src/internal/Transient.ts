/** Failures of a database that pass by themselves, and how long to wait between attempts until they have. */
import { Schedule } from "effect"
import { type Reason, StoreError } from "../StoreError.ts"

/**
 * Whether what runs for ever waits for the end of it: the database was gone or busy, or it is a standby that may be promoted.
 * A single call is not worth repeating against a standby, so `isRetryable` does not say that of it.
 */
export const isPassing = (reason: Reason): boolean =>
  reason.isRetryable || (reason._tag === "Denied" && reason.mayPass === true)

/** Whether the same call can succeed later although nobody changes the program. */
export const isTransient = (error: unknown): error is StoreError =>
  error instanceof StoreError && isPassing(error.reason)

/** 100 milliseconds with jitter, then twice the delay after each attempt, at most a second. It never gives up. */
export const transientDelays = Schedule.min([
  Schedule.jittered(Schedule.exponential("100 millis")),
  Schedule.spaced("1 second")
])
