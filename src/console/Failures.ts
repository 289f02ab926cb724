/** How the errors of the stores become those of the API. */
import { Effect } from "effect"
import { InvalidInput } from "../InvalidInput.ts"
import { isReason, type Reason, StoreError } from "../StoreError.ts"
import { type ApiError, BadRequest, DatabaseFailed, NotAllowed, NotThere } from "./api/Fields.ts"

const ofReason = ({ _tag, message }: Reason): ApiError =>
  _tag === "Denied" ? new NotAllowed({ message }) : new DatabaseFailed({ message })

/** The names of errors that say that there is no such thing. */
const absent = new Set(["EventNotFound", "MessageNotFound", "UnknownProjection"])

const isApiError = (error: unknown): error is ApiError =>
  error instanceof DatabaseFailed ||
  error instanceof NotAllowed ||
  error instanceof NotThere ||
  error instanceof BadRequest

export const apiError = (error: Error & { readonly _tag: string }): ApiError => {
  if (isApiError(error)) return error
  if (isReason(error)) return ofReason(error)
  if (error instanceof StoreError) return ofReason(error.reason)
  if (error instanceof InvalidInput) return new BadRequest({ message: error.explanation })
  const { message } = error
  return absent.has(error._tag) ? new NotThere({ message }) : new BadRequest({ message })
}

/** Fails as the API does. */
export const answered = <A, E extends Error & { readonly _tag: string }, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, ApiError, R> => Effect.mapError(effect, apiError)
