/** How a report looks: in a terminal, in the guide, and as a chart. */
import { chart } from "./chart.ts"
import { reasonOf } from "./reasons.ts"
import type { Change, Measurement, Report, Settings } from "./report.ts"
import { writersOf } from "./writers.ts"

export const amount = (value: number): string =>
  value < 100 && !Number.isInteger(value) ? value.toFixed(2) : Math.round(value).toLocaleString("en")

export const factor = (value: number): string => (value < 0.1 ? value.toPrecision(2) : value.toFixed(2))

const columns = (cells: ReadonlyArray<string>) =>
  [
    ...cells.slice(0, 1).map((cell) => cell.padEnd(28)),
    ...cells.slice(1, 5).map((cell) => cell.padStart(12)),
    ...cells.slice(5)
  ].join("  ")

export const header = columns(["figure", "strata", "other", "ratio", "min-max"])

const cellsOf = ({ conditions, max, min, name, other, otherName, ratio, strata, unit }: Measurement) => [
  name,
  amount(strata),
  amount(other),
  factor(ratio),
  `${factor(min)}-${factor(max)}`,
  `${unit}, ${conditions}, against the ${otherName}`
]

export const row = (measurement: Measurement): string => columns(cellsOf(measurement))

export const settings = (library: string, settings: Settings): ReadonlyArray<string> =>
  [["effect-strata", library], ...Object.entries(settings)].map(([name, value]) => `  ${name}: ${value}`)

export const change = ({ earlier, name, now, verdict }: Change): string =>
  columns([name, factor(earlier), factor(now), "", "", verdict])

/** Where a report comes from, in one line. */
export const origin = ({ settings }: Report): string =>
  `${settings["machine"]}; PostgreSQL ${settings["server_version"]}, fsync ${settings["fsync"]}, synchronous_commit ${settings["synchronous_commit"]}; Node ${settings["node"]}`

/** Whether a figure is in the large table of the guide: the writers are in a chart, and what others have built has a table. */
export const isTold = ({ name }: Measurement): boolean => !/^(peers\/|append\/writers-)|-p99\.9$/.test(name)

/** A table in Markdown. Where the other side wins, it says why. */
export const table = (measurements: ReadonlyArray<Measurement>): string =>
  [
    "| figure | Strata | other | ratio | min-max | | why the other side wins |",
    "|---|--:|--:|--:|--:|---|---|",
    ...measurements.map((measurement) => {
      const [name = "", ...cells] = cellsOf(measurement)
      return `| ${[`\`${name}\``, ...cells, reasonOf(measurement) ?? ""].join(" | ")} |`
    })
  ].join("\n")

/** The table of the guide. */
export const markdown = (report: Report): string =>
  [
    table(report.measurements.filter(isTold)),
    "",
    `${origin(report)}; effect ${report.settings["effect"]}, ${report.settings["driver"]}; Strata ${report.library}; ${report.settings["mode"]} run.`,
    ""
  ].join("\n")

/** The chart of appends against writers; undefined if a report has none of them. */
export const writersChart = (report: Report): string | undefined => {
  const measured = report.measurements.flatMap((measurement) => {
    const writers = writersOf(measurement.name)
    return writers === undefined ? [] : [{ ...measurement, writers }]
  })
  if (measured.length === 0) return undefined
  return chart(
    [
      { name: "Strata", colour: "#0969da", points: measured.map(({ strata, writers }) => [writers, strata]) },
      { name: "bare driver", colour: "#bc4c00", points: measured.map(({ other, writers }) => [writers, other]) }
    ],
    { title: "Events appended per second, one at a time by each writer", subtitle: origin(report) }
  )
}
