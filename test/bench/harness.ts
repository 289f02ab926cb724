/**
 * Two sides on one server, in alternating rounds: the machine's speed drifts, so only the ratio within a round means
 * something, and the median over rounds is what is reported.
 */
import type { PgClient } from "@effect/sql-pg"
import { Clock, Effect, type Scope } from "effect"
import type * as Postgres from "effect-strata/postgres"
import type { Built } from "./built.ts"
import type { Measurement } from "./report.ts"

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

/** The time in milliseconds, with fractions. */
export const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Operations that begin at a steady rate per second, as far as `writers` fibers keep up. */
export const steadily = Effect.fnUntraced(function* <E, R>(
  { count, rate, writers }: { readonly count: number; readonly rate: number; readonly writers: number },
  operation: (index: number) => Effect.Effect<unknown, E, R>
) {
  const start = yield* now
  yield* Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    Effect.fnUntraced(function* (index) {
      const wait = start + (index * 1000) / rate - (yield* now)
      if (wait > 1) yield* Effect.sleep(wait)
      yield* operation(index)
    }),
    { concurrency: writers, discard: true }
  )
})

/** Numbers from 0 to 1, the same ones in each run. */
export const seeded = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

/** What is compared; `prepare` comes before each round and is not timed. */
export interface Sides {
  readonly prepare?: Load
  readonly strata: Load
  readonly other: Load
}

/** A rate: operations per second. */
export interface Figure {
  readonly name: string
  readonly unit: string
  readonly otherName: string
  readonly conditions: string
  /** Operations in one round. */
  readonly operations: number
  /** Operations in a round of `--quick`: a fourth, unless given. */
  readonly quick?: number
  readonly sides: Effect.Effect<Sides, unknown, Services | Scope.Scope>
}

/** What the figures may use. */
export type Services = Postgres.Stores | PgClient.PgClient | Built

/** A figure whose operations are timed one by one: each round gives the times of both sides, in milliseconds. */
export interface Latency {
  readonly name: string
  readonly otherName: string
  readonly conditions: string
  /** How many times on the side of Strata there have to be for each on the other: 1, unless given. */
  readonly copies?: number
  readonly round: Effect.Effect<
    { readonly strata: ReadonlyArray<number>; readonly other: ReadonlyArray<number> },
    unknown,
    Services | Scope.Scope
  >
}

/** One amount of each side. */
interface Round {
  readonly strata: number
  readonly other: number
}

/** A figure that is no rate: each round gives an amount of both sides. */
export interface Amount {
  readonly name: string
  readonly unit: string
  readonly otherName: string
  readonly conditions: string
  /** Whether the amount is the same in every round, so that one round is enough. */
  readonly constant?: boolean
  readonly amount: Effect.Effect<Round, unknown, Services | Scope.Scope>
}

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const percentile = (values: ReadonlyArray<number>, percent: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor((values.length * percent) / 100)] ?? Number.NaN

const sum = (values: ReadonlyArray<number>): number => values.reduce((total, value) => total + value, 0)

type Description = Pick<Measurement, "conditions" | "name" | "otherName" | "unit">

const summary = (
  rounds: ReadonlyArray<Round>,
  { conditions, name, otherName, unit }: Description,
  middle: (values: ReadonlyArray<number>) => number = median
): Measurement => {
  const ratios = rounds.map((round) => round.strata / round.other)
  return {
    name,
    unit,
    strata: middle(rounds.map((round) => round.strata)),
    other: middle(rounds.map((round) => round.other)),
    otherName,
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    conditions
  }
}

/** How many rounds there are, which of them do not count, and who is told that one begins. */
interface Rounds {
  readonly warmUp: number
  readonly measured: number
  readonly onRound: (round: number, rounds: number) => Effect.Effect<void>
}

/** Runs the rounds that do not count, and then those that are measured. */
const repeat = Effect.fnUntraced(function* <A, E, R>(round: Effect.Effect<A, E, R>, rounds: Rounds) {
  const measured: Array<A> = []
  for (let index = -rounds.warmUp; index < rounds.measured; index++) {
    yield* rounds.onRound(index + rounds.warmUp, rounds.warmUp + rounds.measured)
    const result = yield* round
    if (index >= 0) measured.push(result)
  }
  return measured
})

/** Operations per second. */
const rate = Effect.fnUntraced(function* (load: Load, operations: number) {
  const start = yield* now
  yield* load(operations)
  return operations / (((yield* now) - start) / 1000)
})

/** Measures a latency: a line for each percentile, and one for what has arrived in all rounds. */
const measureLatency = Effect.fnUntraced(function* (figure: Latency, rounds: Rounds) {
  const { copies = 1, name } = figure
  const measured = yield* repeat(Effect.scoped(figure.round), rounds)
  const percentiles = [50, 99, 99.9].map((percent) =>
    summary(
      measured.map(({ other, strata }) => ({ strata: percentile(strata, percent), other: percentile(other, percent) })),
      { ...figure, name: `${name}-p${percent}`, unit: "ms" }
    )
  )
  const arrived = summary(
    measured.map(({ other, strata }) => ({ strata: strata.length, other: other.length * copies })),
    { ...figure, name: `${name}-arrived`, unit: "arrived in all rounds", otherName: "number that had to" },
    sum
  )
  return [...percentiles, arrived]
})

/** Measures a rate. The sides take turns at coming first: what a round leaves behind is the same for both. */
const measureRate = Effect.fnUntraced(function* (figure: Figure, rounds: Rounds) {
  const { operations } = figure
  const { other, prepare, strata } = yield* figure.sides
  let turn = 0
  const round = Effect.gen(function* () {
    if (prepare !== undefined) yield* prepare(operations)
    if (turn++ % 2 === 0) return { strata: yield* rate(strata, operations), other: yield* rate(other, operations) }
    return { other: yield* rate(other, operations), strata: yield* rate(strata, operations) }
  })
  return [summary(yield* repeat(round, rounds), figure)]
}, Effect.scoped)

const measureAmount = Effect.fnUntraced(function* (figure: Amount, rounds: Rounds) {
  return [summary(yield* repeat(Effect.scoped(figure.amount), rounds), figure)]
})

/** Measures a figure of any kind. A quick run has no rounds to warm up: of three, a slow first one is not the median. */
export const measureAny = (
  figure: Amount | Figure | Latency,
  quick: boolean,
  onRound: Rounds["onRound"]
): Effect.Effect<ReadonlyArray<Measurement>, unknown, Services> => {
  const rounds = (warmUp: number, measured: number): Rounds =>
    quick ? { warmUp: 0, measured: Math.min(3, measured), onRound } : { warmUp, measured, onRound }
  if ("amount" in figure) {
    const isOnce = quick || figure.constant === true
    return measureAmount(figure, isOnce ? { warmUp: 0, measured: 1, onRound } : rounds(1, 5))
  }
  if ("round" in figure) return measureLatency(figure, rounds(1, 11))
  const operations = quick ? (figure.quick ?? Math.ceil(figure.operations / 4)) : figure.operations
  return measureRate({ ...figure, operations }, rounds(2, 11))
}
