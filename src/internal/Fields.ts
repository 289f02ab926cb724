/** The fields that the models of several stores share. */
import { DateTime, Duration, Option, Schema } from "effect"

/**
 * How many bytes a row can have, with all its columns: as many as a message of the Postgres driver can. A longer row could
 * be written, but not be read again. The limits of the models follow from it, so that they are the same on every backend.
 */
export const maxRowBytes = 16 * 1024 * 1024

/** What is wrong with a text that a backend cannot keep as it is: Postgres cannot hold NUL, nor UTF-8 a lone surrogate. */
const textIssue = (text: string): string | undefined =>
  text.includes("\0")
    ? "Expected a string without NUL characters"
    : text.isWellFormed()
      ? undefined
      : "Expected a string without lone surrogates"

/** Whether a value is text that every backend keeps as it is. */
export const isText = (value: unknown): value is string => typeof value === "string" && textIssue(value) === undefined

/** Text for a `TEXT` column. It may be empty, but has no NUL and no lone surrogate. */
export const Text = Schema.String.check(Schema.makeFilter(textIssue))

/**
 * An identifier for a `VARCHAR(max)` column: not empty, no NUL and no lone surrogate (with one, two ids would silently become
 * the same), at most `max` characters as Postgres counts them, by code point.
 */
export const Identifier = (max: number) =>
  Schema.String.check(
    Schema.makeFilter((text) => {
      if (text === "") return "Expected a non-empty string"
      const isTooLong = text.length > max && [...text].length > max
      return textIssue(text) ?? (isTooLong ? `Expected at most ${max} characters` : undefined)
    })
  )

const latestYear = 9999

/** A time that every backend can keep: from the year 1 to the year 9999. */
export const Time = Schema.DateTimeUtc.check(
  Schema.makeFilter((time) => {
    const year = DateTime.getPartUtc(time, "year")
    return year >= 1 && year <= latestYear ? undefined : `Expected a time from the year 1 to the year ${latestYear}`
  })
)

const longestTimeSpan = Duration.days(100 * 366)

// The type only tells the compiler: `Duration.fromInput` takes any value, and decides.
const mayBeDuration = (value: unknown): value is Duration.Input => value !== undefined

/** How long something takes, as `Duration.Input`: not negative, at most a hundred years. */
export const TimeSpan = Schema.declare(
  (value): value is Duration.Input =>
    mayBeDuration(value) &&
    Option.exists(Duration.fromInput(value), Duration.between({ minimum: Duration.zero, maximum: longestTimeSpan })),
  { expected: "a duration from 0 to 100 years" }
)

/** The milliseconds of a `TimeSpan`. */
export const millisOf = (timeSpan: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(timeSpan))

/** A value of a `BIGINT` column. */
export const Int64 = Schema.BigInt.check(
  Schema.isBetweenBigInt({ minimum: -(2n ** 63n), maximum: 2n ** 63n - 1n }, { message: "Expected a 64-bit integer" })
)

/** A shard number: a whole number from 0 to 2^53 - 1. */
export const ShardNumber = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
