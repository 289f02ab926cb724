/**
 * Fields for integers of 64 bits, which JSON can hold and a JavaScript number cannot: `time.Now().UnixNano()` of a Go service,
 * a sum of small units of money.
 *
 * In JSON they are numbers with all of their digits, for every program in whatever language. Give the layer the option
 * `largeIntegers: "bigint"`: without it, what is beyond 2^53 is refused when it is written, and a `CorruptRow` when another
 * program has written it.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { EventStore, Json } from "effect-strata"
 * import * as Memory from "effect-strata/memory"
 *
 * class Paid extends Schema.TaggedClass<Paid>()("Paid", { atNanos: Json.Int64, reference: Json.Int64Text }) {}
 * const Payments = EventStore.typed({ events: [Paid] })
 *
 * export const program = Effect.gen(function* () {
 *   const payments = yield* Payments
 *   yield* payments.append("order-1", new Paid({ atNanos: 1764187200123456789n, reference: "9007199254740993" }))
 *   const [paid] = yield* payments.load()
 *   return paid?.event.atNanos // 1764187200123456789n
 * }).pipe(Effect.provide(Memory.layerWith({ largeIntegers: "bigint" })))
 * ```
 */
import { Schema, SchemaTransformation } from "effect"
import { normalInteger } from "./internal/ExactJson.ts"
import * as Fields from "./internal/Fields.ts"

/** What a JSON number becomes: a `bigint` if JavaScript would round it. A number is meant as JavaScript prints it. */
const integerOf = (value: unknown): bigint | undefined => {
  if (typeof value === "bigint") return value
  return typeof value === "number" && Number.isInteger(value) && Math.abs(value) < 1e21
    ? BigInt(String(value))
    : undefined
}

/** A number of JSON, as reads give it. It is written as it is: `Schema.toCodecJson` would make text of a `bigint`. */
const JsonInteger = Schema.declare((value): value is number | bigint => integerOf(value) !== undefined, {
  expected: "an integer",
  toCodecJson: () => undefined
})

/** An integer of 64 bits: a `bigint` in the program, and a number in JSON. */
export const Int64 = JsonInteger.pipe(
  Schema.decodeTo(
    Fields.Int64,
    SchemaTransformation.transform({
      decode: (value: number | bigint) => integerOf(value) ?? 0n,
      encode: normalInteger
    })
  )
)

const isInt64 = Schema.is(Fields.Int64)

const Digits = Schema.String.check(
  Schema.makeFilter((text) =>
    /^-?\d{1,19}$/.test(text) && String(BigInt(text)) === text && isInt64(BigInt(text))
      ? undefined
      : "Expected the digits of an integer of 64 bits"
  )
)

/** An integer of 64 bits: the text of its digits in the program, and a number in JSON. */
export const Int64Text = JsonInteger.pipe(
  Schema.decodeTo(
    Digits,
    SchemaTransformation.transform({
      decode: (value: number | bigint) => String(integerOf(value) ?? 0n),
      encode: (text: string) => normalInteger(BigInt(text))
    })
  )
)
