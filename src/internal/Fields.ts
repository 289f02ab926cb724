/** The fields that the models of several stores share. */
import { DateTime, Duration, Option, Schema } from "effect"

/** Whether a value is text that every backend keeps as it is: Postgres cannot hold NUL, and UTF-8 no lone surrogate. */
export const isText = (value: unknown): value is string =>
  typeof value === "string" && !value.includes("\0") && value.isWellFormed()

/** Whether a value is an `Identifier` of that length, if it is not one that has more units than characters. */
export const isIdentifier = (value: unknown, max: number): value is string =>
  isText(value) && value !== "" && value.length <= max

/**
 * An identifier for a `VARCHAR(max)` column: not empty, no NUL (Postgres text cannot hold it), no lone surrogate (UTF-8
 * cannot: two ids would silently become one), at most `max` characters as Postgres counts them, by code point.
 */
export const Identifier = (max: number) =>
  Schema.String.check(
    Schema.makeFilter((text) =>
      text === ""
        ? "Expected a non-empty string"
        : text.includes("\0")
          ? "Expected a string without NUL characters"
          : !text.isWellFormed()
            ? "Expected a string without lone surrogates"
            : text.length > max && [...text].length > max
              ? `Expected at most ${max} characters`
              : undefined
    )
  )

/** Text for a `TEXT` column, which may be empty: no NUL, no lone surrogate. */
export const Text = Schema.String.check(
  Schema.makeFilter((text) =>
    text.includes("\0")
      ? "Expected a string without NUL characters"
      : text.isWellFormed()
        ? undefined
        : "Expected a string without lone surrogates"
  )
)

const latestYear = 9999

/** A time that every backend can keep: from the year 1 to the year 9999. */
export const Time = Schema.DateTimeUtc.check(
  Schema.makeFilter((time) => {
    const year = DateTime.getPartUtc(time, "year")
    return year >= 1 && year <= latestYear ? undefined : `Expected a time from the year 1 to the year ${latestYear}`
  })
)

const longest = Duration.days(100 * 366)

// `Duration.fromInput` decides: it takes whatever a caller without a type checker sends.
const mayBeDuration = (value: unknown): value is Duration.Input => value !== undefined

/** How long something takes, as `Duration.Input`: not negative, at most a hundred years. */
export const TimeSpan = Schema.declare(
  (value): value is Duration.Input =>
    mayBeDuration(value) &&
    Option.exists(Duration.fromInput(value), Duration.between({ minimum: Duration.zero, maximum: longest })),
  { expected: "a duration from 0 to 100 years" }
)

/** The milliseconds of a `TimeSpan`. */
export const millisOf = (timeSpan: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(timeSpan))

/** A value of a `BIGINT` column. */
export const Int64 = Schema.BigInt.check(
  Schema.isBetweenBigInt({ minimum: -(2n ** 63n), maximum: 2n ** 63n - 1n }, { message: "Expected a 64-bit integer" })
)

/** An object that was written as such: whatever it has is its own. */
export const isLiteral = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

/** A shard number: a whole number from 0 to 2^53 - 1. */
export const ShardNumber = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
