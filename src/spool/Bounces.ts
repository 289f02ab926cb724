/** What happens when a message bounces: it is counted, the application is told, and the message is kept, archived or deleted. */
import { Effect } from "effect"
import * as Origin from "../Origin.ts"
import type { Outcome, SpoolMessage } from "../SpoolStore.ts"
import type { Lease } from "./Leased.ts"

export type OnBounce = "keep" | "archive" | "delete"

/** What becomes of a message that bounces, in words. */
export const fateOf = {
  keep: "it bounces",
  archive: "it bounces, and is archived",
  delete: "it bounces, and is deleted"
} as const

/** What is logged of an attempt that has failed: what happens next, and why. */
export const failureOf = (
  queue: string,
  { attempts, id, maxAttempts }: SpoolMessage,
  next: string,
  why: string
): string => `message "${id}" of queue "${queue}" has failed, attempt ${attempts} of ${maxAttempts}; ${next}: ${why}`

/** The application's handler of messages that bounce. */
export type Bounced<R> = (message: SpoolMessage, reason: string) => Effect.Effect<unknown, unknown, R>

/** Counts a message that bounces, and tells the application before it does. A failure of the application is logged. */
export const tellerOf =
  <R>(queue: string, count: Effect.Effect<void>, bounced: Bounced<R> | undefined) =>
  (message: SpoolMessage, reason: string): Effect.Effect<void, never, R> =>
    Effect.andThen(
      count,
      bounced === undefined
        ? Effect.void
        : bounced(message, reason).pipe(
            Effect.provideService(Origin.Origin, Origin.of(message)),
            Effect.asVoid,
            Effect.catchCause((cause) =>
              Effect.logError(`the handler of bounced messages of queue "${queue}" has failed`, cause)
            )
          )
    )

/** The outcome with which a leased message bounces. */
export const outcomeOf = (onBounce: OnBounce, lease: Lease, error: string): Outcome => {
  switch (onBounce) {
    case "keep":
      return { outcome: "bounced", ...lease, error }
    case "archive":
      return { outcome: "archived", ...lease, error }
    case "delete":
      return { outcome: "done", ...lease }
  }
}
