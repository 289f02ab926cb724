/** How writes end. */
import { type Effect, Schema } from "effect"
import type { EventStore, SpoolStore, StoreError } from "effect-strata"
import type { Ended } from "../support/histories.ts"

export class RolledBack extends Schema.TaggedError<RolledBack>()("RolledBack", {}) {}

export type Failure =
  | Effect.Error<ReturnType<EventStore.EventStore["Service"]["append"]>>
  | SpoolStore.IdConflict
  | RolledBack

export const isRetryable = (error: Failure): error is StoreError.StoreError =>
  error._tag === "StoreError" && error.isRetryable

export const endOf = (error: Failure): Omit<typeof Ended.Type, "write"> => {
  if (error._tag === "RolledBack" || error._tag === "VersionConflict") return { end: "rolled back" }
  return isRetryable(error) ? { end: "in doubt" } : { end: "in doubt", surprise: `${error._tag}: ${error.message}` }
}
