/** How writes end. */
import { type Effect, Schema } from "effect"
import type { EventStore, StoreError } from "effect-strata"
import { isTransient } from "../../src/internal/Transient.ts"
import type { Ended } from "../support/histories.ts"

export class RolledBack extends Schema.TaggedError<RolledBack>()("RolledBack", {}) {}

export type Failure =
  | Effect.Error<ReturnType<EventStore.EventStore["Service"]["append"]>>
  | EventStore.LogReplaced
  | RolledBack

/** Whether the write can succeed later: nobody could be reached, or a standby, which is to be promoted. */
export const isRetryable = (error: Failure): error is StoreError.StoreError => isTransient(error)

export const endOf = (error: Failure): Omit<typeof Ended.Type, "write"> => {
  if (error._tag === "RolledBack" || error._tag === "VersionConflict") return { end: "rolled back" }
  return isRetryable(error) ? { end: "in doubt" } : { end: "in doubt", surprise: `${error._tag}: ${error.message}` }
}
