/** Errors of handlers as text, and the error that no further attempt can mend. */
import { Schema } from "effect"

/** How many characters of an error are stored. */
const longestText = 2000

/** An error in a few words, fit for a column of text. */
export const textOf = (error: unknown): string => {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  return text.replaceAll("\0", "").slice(0, longestText).toWellFormed()
}

/**
 * An error that no further attempt can mend: see `permanent`.
 *
 * **Remedy**
 *
 * Look at the message, mend what it says or what handles it, and requeue it: `strata spool requeue`.
 */
export class Permanent extends Schema.TaggedError<Permanent>("effect-strata/Spool/Permanent")("Permanent", {
  cause: Schema.Unknown
}) {
  override get message(): string {
    return textOf(this.cause)
  }
}

/** Makes a message bounce at once, when its handler fails with this. */
export const permanent = (error: unknown): Permanent => new Permanent({ cause: error })
