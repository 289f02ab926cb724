/** Failures of a database that pass by themselves, and how long to wait between attempts until they have. */
import { Schedule } from "effect"
import { StoreError } from "../StoreError.ts"

/** Whether the same call can succeed later although nobody changes anything: the database was gone, or busy. */
export const isTransient = (error: unknown): error is StoreError => error instanceof StoreError && error.isRetryable

/** 100 milliseconds, then twice the delay after each attempt, at most 5 seconds, with jitter. It never gives up. */
export const transientDelays = Schedule.jittered(
  Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("5 seconds")])
)
