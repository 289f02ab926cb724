/**
 * The fields that the parts of the API share, and how its operations fail.
 *
 * Whole numbers of 64 bits are texts of their digits, and JSON that the application has stored is text, too: no program that
 * reads an answer rounds a number of it.
 */
import { Schema } from "effect"

/** A whole number of 64 bits, with all of its digits. */
export const Whole = Schema.BigIntFromString

/** A time, as `2026-01-31T12:00:00.000Z`. */
export const Time = Schema.DateTimeUtcFromString

/** JSON as text; null where the console hides what the application has stored. */
export const JsonText = Schema.NullOr(Schema.String)

/** How many things a page has at most, unless the page is asked for others. */
export const Limit = Schema.FiniteFromString.check(Schema.isInt(), Schema.isBetween({ minimum: 1, maximum: 500 }))

/** A whole number that is not negative, in an address. */
export const Count = Schema.FiniteFromString.check(Schema.isInt(), Schema.isGreaterThanOrEqualTo(0))

const says = { message: Schema.String }

/** The database does not answer, or not in time. The page asks again by itself. */
export class DatabaseFailed extends Schema.TaggedError<DatabaseFailed>("effect-strata/console/DatabaseFailed")(
  "DatabaseFailed",
  says,
  { httpApiStatus: 503 }
) {}

/** The role of the console may not do this in the database, or the console itself may not. */
export class NotAllowed extends Schema.TaggedError<NotAllowed>("effect-strata/console/NotAllowed")("NotAllowed", says, {
  httpApiStatus: 403
}) {}

/** There is no such thing, or no more. */
export class NotThere extends Schema.TaggedError<NotThere>("effect-strata/console/NotThere")("NotThere", says, {
  httpApiStatus: 404
}) {}

/** What was asked for makes no sense. */
export class BadRequest extends Schema.TaggedError<BadRequest>("effect-strata/console/BadRequest")("BadRequest", says, {
  httpApiStatus: 400
}) {}

/** How every operation can fail. */
export const errors = [DatabaseFailed, NotAllowed, NotThere, BadRequest] as const

export type ApiError = DatabaseFailed | NotAllowed | NotThere | BadRequest
