/**
 * Rates of two sides on one server, in alternating rounds: the machine's speed drifts, so only the ratio within a round
 * means something, and the median over rounds is what is reported.
 */
import type { PgClient } from "@effect/sql-pg"
import { Clock, Effect, type Scope } from "effect"
import type * as Postgres from "effect-strata/postgres"

/** Something that can be repeated: runs the given number of operations. Whatever fails ends the bench. */
export type Load = (operations: number) => Effect.Effect<unknown, unknown>

/** Fibers that share the operations evenly, each told which one it is. */
export const fibers =
  (count: number, operation: (fiber: number, index: bigint) => Effect.Effect<unknown, unknown>): Load =>
  (operations) =>
    Effect.forEach(
      Array.from({ length: count }, (_, fiber) => fiber),
      (fiber) =>
        Effect.gen(function* () {
          for (let index = 0; index < operations / count; index++) yield* operation(fiber, BigInt(index))
        }),
      { concurrency: count, discard: true }
    )

/** What is compared; `prepare` comes before each round and is not timed. */
export interface Sides {
  readonly prepare?: Load
  readonly strata: Load
  readonly other: Load
}

export interface Figure {
  readonly name: string
  readonly unit: string
  readonly otherName: string
  readonly conditions: string
  /** Operations in one round. */
  readonly operations: number
  readonly sides: Effect.Effect<Sides, unknown, Services | Scope.Scope>
}

/** What the figures may use. */
export type Services = Postgres.Stores | PgClient.PgClient

/** One line of the report. `min` and `max` are those of the ratio. */
export interface Measurement {
  readonly name: string
  readonly unit: string
  readonly strata: number
  readonly other: number
  readonly otherName: string
  readonly ratio: number
  readonly min: number
  readonly max: number
  readonly conditions: string
}

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

/** Operations per second. */
const rate = Effect.fnUntraced(function* (load: Load, operations: number) {
  const start = yield* Clock.currentTimeNanos
  yield* load(operations)
  return operations / (Number((yield* Clock.currentTimeNanos) - start) / 1e9)
})

/** Measures one figure: two rounds to warm up, then `rounds` that count. */
export const measure = Effect.fnUntraced(function* (
  { conditions, name, operations, otherName, sides, unit }: Figure,
  rounds: number
) {
  const { other, prepare, strata } = yield* sides
  const measured: Array<{ readonly strata: number; readonly other: number }> = []
  for (let round = -2; round < rounds; round++) {
    if (prepare !== undefined) yield* prepare(operations)
    const result = { strata: yield* rate(strata, operations), other: yield* rate(other, operations) }
    if (round >= 0) measured.push(result)
  }
  const ratios = measured.map((result) => result.strata / result.other)
  const measurement: Measurement = {
    name,
    unit,
    strata: median(measured.map((result) => result.strata)),
    other: median(measured.map((result) => result.other)),
    otherName,
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    conditions
  }
  return measurement
}, Effect.scoped)
