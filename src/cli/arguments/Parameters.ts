/** The kinds of arguments and flags that several subcommands have. */
import { type DateTime, Duration, Effect, Option, Result, Schema } from "effect"
import { Argument, CliError, Flag } from "effect/cli"
import { Key, Tag, Version } from "../../EventStore.ts"
import { exactJson } from "../../internal/ExactJson.ts"
import { Int64 } from "../../internal/Fields.ts"
import { SafeJson, SafeJsonObject } from "../../internal/SafeJson.ts"
import { invalidInput } from "../../InvalidInput.ts"
import * as TagTemplate from "./TagTemplate.ts"

const isInt64 = Schema.is(Int64)
const isVersion = Schema.is(Version)

const invalid = (option: string, value: string, expected: string, kind: "flag" | "argument" = "flag") =>
  Effect.fail(new CliError.InvalidValue({ option, value, expected, kind }))

const toBigInt = (text: string): bigint | undefined => (/^-?\d{1,19}$/.test(text) ? BigInt(text) : undefined)

/**
 * A flag that is there or not. It takes no value but one after `=`: the argument that follows it is the subcommand's own, also
 * if that is `1` or `no`.
 */
export const toggle = (name: string, description: string) =>
  Flag.Boolean(name).pipe(
    Flag.withOptionalValue("true"),
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription(description)
  )

/** An argument that is a whole number of 64 bits. */
export const int64 = (name: string) =>
  Argument.mapEffect(Argument.String(name), (text) => {
    const value = toBigInt(text)
    return isInt64(value) ? Effect.succeed(value) : invalid(name, text, "a whole number of 64 bits", "argument")
  })

/** A flag that is a version of an event, or one of these words. */
export const version = <const Word extends string = never>(name: string, words: ReadonlyArray<Word> = []) =>
  Flag.String(name).pipe(
    Flag.withMetavar(["VERSION", ...words].join("|")),
    Flag.mapEffect((text): Effect.Effect<bigint | Word, CliError.CliError> => {
      const word = words.find((word) => word === text)
      if (word !== undefined) return Effect.succeed(word)
      const value = toBigInt(text)
      return isVersion(value)
        ? Effect.succeed(value)
        : invalid(name, text, [...words.map((word) => `"${word}"`), "a version: a whole number from 0"].join(" or "))
    })
  )

/** A flag whose text a schema decodes. */
const decoded = <A>(name: string, schema: Schema.Codec<A, string>) => {
  const decode = Schema.decodeUnknownResult(schema)
  return Flag.String(name).pipe(
    Flag.mapEffect((text) => {
      const result = decode(text)
      if (Result.isSuccess(result)) return Effect.succeed(result.success)
      const { issues } = invalidInput("", "", result.failure.issue)
      return invalid(name, text, issues.map(({ message }) => message).join("; "))
    })
  )
}

/** A flag that is JSON. A number that JavaScript would round is refused. */
export const json = (name: string) =>
  decoded(name, exactJson("bigint").pipe(Schema.decodeTo(SafeJson))).pipe(Flag.withMetavar("JSON"))

/** A flag that is a JSON object. A number that JavaScript would round is refused. */
export const jsonObject = (name: string) =>
  decoded(name, exactJson("bigint").pipe(Schema.decodeTo(SafeJsonObject))).pipe(Flag.withMetavar("JSON"))

/** A flag that is an id, an aggregate id or an event type. */
export const key = (name: string) => decoded(name, Key).pipe(Flag.withMetavar("TEXT"))

/** A flag that is a tag of an event. */
export const tag = (name: string) => decoded(name, Tag).pipe(Flag.withMetavar("TAG"))

/** A flag that says how tags are made of events. */
export const tagTemplate = (name: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar("TEMPLATE"),
    Flag.mapEffect((text) =>
      Result.match(TagTemplate.parse(text), {
        onFailure: (expected) => invalid(name, text, expected),
        onSuccess: (template) => Effect.succeed(template)
      })
    )
  )

/** A flag that is a time. */
export const time = (name: string) => decoded(name, Schema.DateTimeUtcFromString).pipe(Flag.withMetavar("TIME"))

const decodeTime = Schema.decodeUnknownOption(Schema.DateTimeUtcFromString)

/** A flag that is a version of an event, or a time. */
export const versionOrTime = (name: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar("VERSION|TIME"),
    Flag.mapEffect((text): Effect.Effect<bigint | DateTime.Utc, CliError.CliError> => {
      const value = toBigInt(text)
      if (isVersion(value)) return Effect.succeed(value)
      return Option.match(decodeTime(text), {
        onNone: () => invalid(name, text, "a version, or a time such as 2026-01-31 or 2026-01-31T12:00:00Z"),
        onSome: (time) => Effect.succeed(time)
      })
    })
  )

/** A flag that is a whole number from 1. */
export const positive = (name: string) =>
  Flag.Int(name).pipe(
    Flag.withMetavar("N"),
    Flag.mapEffect((number) =>
      number > 0 ? Effect.succeed(number) : invalid(name, String(number), "a whole number from 1")
    )
  )

/** A flag that is a whole number from 0. */
export const count = (name: string) =>
  Flag.Int(name).pipe(
    Flag.withMetavar("N"),
    Flag.mapEffect((number) =>
      number >= 0 ? Effect.succeed(number) : invalid(name, String(number), "a whole number from 0")
    )
  )

const millisPerUnit: ReadonlyMap<string, number> = new Map([
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000]
])

/** A flag that is a duration such as `30s`, longer than nothing. */
export const duration = (name: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar("DURATION"),
    Flag.mapEffect((text) => {
      const [, amount, unit = ""] = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h)$/.exec(text) ?? []
      const millis = Number(amount) * (millisPerUnit.get(unit) ?? 0)
      return millis > 0
        ? Effect.succeed(Duration.millis(millis))
        : invalid(name, text, "a duration such as 500ms, 30s or 5m")
    })
  )
