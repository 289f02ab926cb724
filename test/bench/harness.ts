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

/** What is timed one by one: each round gives the times of both sides, in milliseconds. */
export interface Latency {
  readonly name: string
  readonly otherName: string
  readonly conditions: string
  readonly round: Effect.Effect<
    { readonly strata: ReadonlyArray<number>; readonly other: ReadonlyArray<number> },
    unknown,
    Services | Scope.Scope
  >
}

const percentile = (values: ReadonlyArray<number>, percent: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor((values.length * percent) / 100)] ?? Number.NaN

interface Round {
  readonly strata: number
  readonly other: number
}

const summary = (
  rounds: ReadonlyArray<Round>,
  { conditions, name, otherName, unit }: Pick<Measurement, "conditions" | "name" | "otherName" | "unit">
): Measurement => {
  const ratios = rounds.map((round) => round.strata / round.other)
  return {
    name,
    unit,
    strata: median(rounds.map((round) => round.strata)),
    other: median(rounds.map((round) => round.other)),
    otherName,
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    conditions
  }
}

/** Measures a latency in `rounds` rounds after one to warm up: a line for each percentile. */
export const measureLatency = Effect.fnUntraced(function* (figure: Latency, rounds: number) {
  const measured: Array<Effect.Success<typeof figure.round>> = []
  for (let round = -1; round < rounds; round++) {
    const result = yield* Effect.scoped(figure.round)
    if (round >= 0) measured.push(result)
  }
  return [50, 99, 99.9].map((percent) =>
    summary(
      measured.map(({ other, strata }) => ({ strata: percentile(strata, percent), other: percentile(other, percent) })),
      { ...figure, name: `${figure.name}-p${percent}`, unit: "ms" }
    )
  )
})

/** Measures one figure: two rounds to warm up, then `rounds` that count. */
export const measure = Effect.fnUntraced(function* (figure: Figure, rounds: number) {
  const { other, prepare, strata } = yield* figure.sides
  const measured: Array<Round> = []
  for (let round = -2; round < rounds; round++) {
    if (prepare !== undefined) yield* prepare(figure.operations)
    const result = { strata: yield* rate(strata, figure.operations), other: yield* rate(other, figure.operations) }
    if (round >= 0) measured.push(result)
  }
  return [summary(measured, figure)]
}, Effect.scoped)
