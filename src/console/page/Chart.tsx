/** A chart of one number over the last hour: where nothing was seen, the line has a gap. The pointer reads it. */
import { useState } from "preact/hooks"
import { clock, span } from "./Format.ts"

export interface Point {
  readonly at: number
  readonly value: number
}

interface ChartProps {
  readonly title: string
  readonly points: ReadonlyArray<Point>
  readonly say: (value: number) => string
}

const [width, height] = [600, 100]

/** Longer than this without a sample is a gap. */
const gapMillis = 90_000

/** A shorter time than this would be a chart of two points. */
const leastMillis = 60_000

interface Scale {
  readonly x: (point: Point) => number
  readonly y: (point: Point) => number
}

/** The parts of the line between gaps. */
const partsOf = (points: ReadonlyArray<Point>): ReadonlyArray<ReadonlyArray<Point>> => {
  const parts: Array<Array<Point>> = []
  for (const point of points) {
    const last = parts.at(-1)
    if (last === undefined || point.at - (last.at(-1)?.at ?? 0) > gapMillis) parts.push([point])
    else last.push(point)
  }
  return parts
}

const lineOf = (part: ReadonlyArray<Point>, { x, y }: Scale): string =>
  part.map((point, index) => `${index === 0 ? "M" : "L"}${x(point).toFixed(1)} ${y(point).toFixed(1)}`).join("")

const areaOf = (part: ReadonlyArray<Point>, scale: Scale): string => {
  const ends = [part[0], part.at(-1)].map((point) => (point === undefined ? 0 : scale.x(point).toFixed(1)))
  return `${lineOf(part, scale)}L${ends[1]} ${height}L${ends[0]} ${height}Z`
}

export const Chart = ({ points, say, title }: ChartProps) => {
  const [pointed, setPointed] = useState<number | undefined>(undefined)
  const [first] = points
  const last = points.at(-1)
  if (first === undefined || last === undefined) return <div class="chart" />
  const most = Math.max(...points.map(({ value }) => value))
  const end = last.at
  const start = Math.min(first.at, end - leastMillis)
  const scale: Scale = {
    x: ({ at }) => ((at - start) / (end - start)) * width,
    y: ({ value }) => height - 1 - (value / Math.max(most, 1)) * (height - 4)
  }
  const parts = partsOf(points)
  const at = pointed === undefined ? undefined : start + pointed * (end - start)
  const read =
    at === undefined ? undefined : points.reduce((a, b) => (Math.abs(b.at - at) < Math.abs(a.at - at) ? b : a))
  const since = `since ${clock(first.at)}`
  return (
    <div
      class="chart"
      onPointerMove={({ clientX, currentTarget }) => {
        const { left, width } = currentTarget.getBoundingClientRect()
        setPointed(Math.max(0, Math.min(1, (clientX - left) / width)))
      }}
      onPointerLeave={() => setPointed(undefined)}
    >
      <div class="chart-caption">
        {read === undefined ? (
          <>
            <span>{`at most ${say(most)}`}</span>
            <span>
              {since}, {span(end - first.at)}
            </span>
          </>
        ) : (
          <>
            <strong>{say(read.value)}</strong>
            <span>{clock(read.at)}</span>
          </>
        )}
      </div>
      <svg
        viewBox={`0 0 ${width} ${height}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${title}, ${since}: ${say(last.value)} now, at most ${say(most)}`}
      >
        {parts.map((part) => (
          <g key={part[0]?.at}>
            <path class="chart-area" d={areaOf(part, scale)} />
            <path class="chart-line" d={lineOf(part, scale)} />
          </g>
        ))}
        {read === undefined ? null : (
          <line class="chart-pointer" x1={scale.x(read)} x2={scale.x(read)} y1={0} y2={height} />
        )}
      </svg>
    </div>
  )
}
