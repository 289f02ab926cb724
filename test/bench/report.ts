/** What a run has measured, under which settings, and how it differs from an earlier one. */
import { Result, Schema } from "effect"

/** One line of the report. `min` and `max` are those of the ratio. */
export const Measurement = Schema.Struct({
  name: Schema.String,
  unit: Schema.String,
  strata: Schema.Number,
  other: Schema.Number,
  otherName: Schema.String,
  ratio: Schema.Number,
  min: Schema.Number,
  max: Schema.Number,
  conditions: Schema.String
})
export type Measurement = typeof Measurement.Type

/** Everything but the library that could make a figure another one, by its name. */
export const Settings = Schema.Record(Schema.String, Schema.String)
export type Settings = typeof Settings.Type

export const Report = Schema.Struct({
  /** The version of the library and its commit: what a comparison is about. */
  library: Schema.String,
  settings: Settings,
  measurements: Schema.Array(Measurement)
})
export type Report = typeof Report.Type

/** What `--json` writes. */
export const ReportFile = Schema.fromJsonString(Report)

/** The settings in which two runs differ, one line each. */
export const differences = (earlier: Settings, now: Settings): ReadonlyArray<string> =>
  [...new Set([...Object.keys(earlier), ...Object.keys(now)])]
    .filter((name) => earlier[name] !== now[name])
    .map((name) => `${name}: ${earlier[name] ?? "not told"} then, ${now[name] ?? "not told"} now`)

/** What has become of a ratio. The noise is the range of its rounds: ranges that overlap say nothing. */
export interface Change {
  readonly name: string
  readonly earlier: number
  readonly now: number
  readonly verdict: "higher" | "lower" | "within the range" | "other conditions"
}

/** What one round may be off by, on either side: it says nothing of the noise. */
const noiseOfOneRound = 0.05

const rangeOf = ({ max, min }: Measurement) =>
  max > min ? { min, max } : { min: min * (1 - noiseOfOneRound), max: max * (1 + noiseOfOneRound) }

const verdict = (earlier: Measurement, now: Measurement): Change["verdict"] => {
  const same = (["unit", "otherName", "conditions"] as const).every((key) => earlier[key] === now[key])
  if (!same) return "other conditions"
  const [before, after] = [rangeOf(earlier), rangeOf(now)]
  if (after.min > before.max) return "higher"
  return after.max < before.min ? "lower" : "within the range"
}

/** The ratios that both runs have; fails with the settings that differ, as then nothing can be said. */
export const compare = (earlier: Report, now: Report): Result.Result<ReadonlyArray<Change>, ReadonlyArray<string>> => {
  const different = differences(earlier.settings, now.settings)
  if (different.length > 0) return Result.fail(different)
  return Result.succeed(
    now.measurements.flatMap((measurement) => {
      const before = earlier.measurements.find(({ name }) => name === measurement.name)
      if (before === undefined) return []
      const { name, ratio } = measurement
      return [{ name, earlier: before.ratio, now: ratio, verdict: verdict(before, measurement) }]
    })
  )
}
