/** The pictures of the guide to measurements that are made of the results of the bench, beside that of the writers. */
import { amount, factor, isTold, origin } from "../bench/printing.ts"
import type { Measurement, Report } from "../bench/report.ts"

/** Rates beside the bare driver. */
export const ratiosIn = (report: Report): ReadonlyArray<Measurement> =>
  report.measurements.filter(
    (measurement) =>
      isTold(measurement) && measurement.unit.endsWith("/s") && measurement.otherName.startsWith("bare driver")
  )

const escape = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

const text = (x: number, y: number, content: string, attributes = "") =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${attributes === "" ? "" : ` ${attributes}`}>${escape(content)}</text>`

const width = 760
const left = 220
const rowHeight = 26
const top = 84

const picture = (height: number, title: string, subtitle: string, parts: ReadonlyArray<string>) =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13" fill="#424a53">`,
    `<title>${escape(title)}</title>`,
    `<rect width="${width}" height="${height}" rx="6" fill="#ffffff"/>`,
    text(24, 28, title, 'font-size="16" font-weight="600" fill="#1f2328"'),
    text(24, 47, subtitle, 'font-size="12"'),
    ...parts,
    "</svg>",
    ""
  ].join("\n")

/** How fast Strata is beside the bare driver: the median of the ratios, and the lowest and the highest. */
const ratios = (report: Report): string => {
  const rows = ratiosIn(report)
  const ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32]
  const [first = 1, last = 2] = [ticks[0], ticks.at(-1)]
  const right = width - 84
  const x = (ratio: number) => left + (Math.log2(ratio / first) / Math.log2(last / first)) * (right - left)
  const bottom = top + rows.length * rowHeight
  const grid = ticks.flatMap((tick) => [
    `<line x1="${x(tick).toFixed(1)}" x2="${x(tick).toFixed(1)}" y1="${top - 8}" y2="${bottom}" stroke="${tick === 1 ? "#57606a" : "#d8dee4"}"/>`,
    text(x(tick), bottom + 20, tick === 1 ? "as fast" : `${tick} x`, 'text-anchor="middle" font-size="12"')
  ])
  const drawn = rows.flatMap(({ max, min, name, ratio }, index) => {
    const y = top + index * rowHeight + rowHeight / 2
    const colour = ratio < 1 ? "#bc4c00" : "#0969da"
    return [
      text(left - 14, y + 4, name, 'text-anchor="end" fill="#1f2328"'),
      `<line x1="${x(min).toFixed(1)}" x2="${x(max).toFixed(1)}" y1="${y}" y2="${y}" stroke="${colour}" stroke-width="3" stroke-opacity="0.35" stroke-linecap="round"/>`,
      `<circle cx="${x(ratio).toFixed(1)}" cy="${y}" r="5" fill="${colour}"/>`,
      text(width - 24, y + 4, `${factor(ratio)} x`, `text-anchor="end" fill="${colour}" font-weight="600"`)
    ]
  })
  const title = "Rates beside the bare driver: the median, and the range of all rounds"
  return picture(bottom + 40, title, origin(report), [...grid, ...drawn])
}

/** How long until it is there: of an event at a subscriber and at a read model, of a message at its handler. */
const latencies = (report: Report): string => {
  const rows = report.measurements.filter(({ name }) => /^(?:subscribe|projection|spool)\/.*p\d+(?:\.\d)?$/.test(name))
  const right = width - 84
  const longest = Math.max(...rows.map(({ strata }) => strata))
  const x = (millis: number) => left + (millis / longest) * (right - left)
  const height = rowHeight + 8
  const drawn = rows.flatMap(({ name, other, strata }, index) => {
    const y = top + index * height
    return [
      text(left - 14, y + 15, name, 'text-anchor="end" fill="#1f2328"'),
      `<rect x="${left}" y="${y}" width="${(x(strata) - left).toFixed(1)}" height="12" rx="2" fill="#0969da"/>`,
      `<rect x="${left}" y="${y + 14}" width="${(x(other) - left).toFixed(1)}" height="7" rx="2" fill="#afb8c1"/>`,
      text(x(strata) + 8, y + 11, `${amount(strata)} ms`, 'fill="#0969da" font-weight="600"')
    ]
  })
  const bottom = top + rows.length * height
  const key = [
    `<rect x="${left}" y="${bottom + 6}" width="12" height="12" rx="2" fill="#0969da"/>`,
    text(left + 20, bottom + 17, "from the call until it is there"),
    `<rect x="${left + 230}" y="${bottom + 9}" width="12" height="7" rx="2" fill="#afb8c1"/>`,
    text(left + 250, bottom + 17, "of which the append, or the enqueue")
  ]
  return picture(bottom + 36, "How long until it is there", origin(report), [...drawn, ...key])
}

/** The pictures by their names. */
export const charts = (report: Report): ReadonlyArray<readonly [file: string, svg: string]> => [
  ["ratios.svg", ratios(report)],
  ["latencies.svg", latencies(report)]
]
