/** The chart of the guide to measurements: rates against the number of writers, as an SVG. */

export interface Line {
  readonly name: string
  readonly colour: string
  /** Left to right. */
  readonly points: ReadonlyArray<readonly [writers: number, rate: number]>
}

const [width, height] = [720, 420]
const plot = { left: 76, right: width - 124, top: 64, bottom: height - 56 }

const escape = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

const text = (x: number, y: number, content: string, attributes = "") =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${escape(content)}</text>`

/** A round number of about a fifth of the largest value. */
const step = (largest: number) => {
  const power = 10 ** Math.floor(Math.log10(largest / 5))
  return ([1, 2, 5].find((factor) => factor * power * 6 >= largest) ?? 10) * power
}

/** Writers grow by factors, and have the same distance from each other. `subtitle` says where it was measured. */
export const chart = (lines: ReadonlyArray<Line>, { subtitle, title }: { title: string; subtitle: string }): string => {
  const points = lines.flatMap((line) => line.points)
  const writers = [...new Set(points.map(([count]) => count))].toSorted((a, b) => a - b)
  const [first = 1, last = 2] = [writers[0], writers.at(-1)]
  const tick = step(Math.max(...points.map(([, rate]) => rate)))
  const top = Math.ceil(Math.max(...points.map(([, rate]) => rate)) / tick) * tick
  const x = (count: number) =>
    plot.left + (Math.log2(count / first) / Math.max(Math.log2(last / first), 1)) * (plot.right - plot.left)
  const y = (rate: number) => plot.bottom - (rate / top) * (plot.bottom - plot.top)

  const grid = Array.from({ length: Math.round(top / tick) + 1 }, (_, index) => index * tick).flatMap((rate) => [
    `<line x1="${plot.left}" x2="${plot.right}" y1="${y(rate).toFixed(1)}" y2="${y(rate).toFixed(1)}" stroke="${rate === 0 ? "#57606a" : "#d8dee4"}"/>`,
    text(plot.left - 10, y(rate) + 4, rate.toLocaleString("en"), 'text-anchor="end"')
  ])
  const columns = writers.flatMap((count) => [
    `<line x1="${x(count).toFixed(1)}" x2="${x(count).toFixed(1)}" y1="${plot.bottom}" y2="${plot.bottom + 5}" stroke="#57606a"/>`,
    text(x(count), plot.bottom + 22, String(count), 'text-anchor="middle"')
  ])
  // Names stand where the lines end, below each other if those are close.
  const ends = lines
    .map(({ colour, name, points }) => ({ colour, name, y: y(points.at(-1)?.[1] ?? 0) + 4 }))
    .toSorted((a, b) => a.y - b.y)
  let lowest = -Infinity
  const names = ends.map(({ colour, name, y }) => {
    lowest = Math.max(y, lowest + 18)
    return text(plot.right + 12, lowest, name, `fill="${colour}" font-weight="600"`)
  })
  const drawn = lines.flatMap(({ colour, points }) => {
    return [
      `<polyline points="${points.map(([count, rate]) => `${x(count).toFixed(1)},${y(rate).toFixed(1)}`).join(" ")}" fill="none" stroke="${colour}" stroke-width="2.5" stroke-linejoin="round"/>`,
      ...points.map(
        ([count, rate]) => `<circle cx="${x(count).toFixed(1)}" cy="${y(rate).toFixed(1)}" r="4" fill="${colour}"/>`
      )
    ]
  })

  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13" fill="#424a53">`,
    `<title>${escape(title)}</title>`,
    `<rect width="${width}" height="${height}" rx="6" fill="#ffffff"/>`,
    text(24, 28, title, 'font-size="16" font-weight="600" fill="#1f2328"'),
    text(24, 47, subtitle, 'font-size="12"'),
    ...grid,
    ...columns,
    text((plot.left + plot.right) / 2, height - 14, "writers at once", 'text-anchor="middle"'),
    ...drawn,
    ...names,
    "</svg>",
    ""
  ].join("\n")
}
