/** A small chart without axes: how a number went, beside what it is now. */

interface SparklineProps {
  readonly values: ReadonlyArray<number>
  readonly label: string
}

const [width, height] = [160, 36]

const pathOf = (values: ReadonlyArray<number>): string => {
  const most = Math.max(...values, 1)
  const step = width / Math.max(1, values.length - 1)
  return values
    .map(
      (value, index) =>
        `${index === 0 ? "M" : "L"}${(index * step).toFixed(1)} ${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`
    )
    .join("")
}

export const Sparkline = ({ label, values }: SparklineProps) => {
  const line = pathOf(values)
  return (
    <svg class="sparkline" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label={label}>
      {values.length < 2 ? null : (
        <>
          <path class="sparkline-area" d={`${line}L${width} ${height}L0 ${height}Z`} />
          <path class="sparkline-line" d={line} />
        </>
      )}
    </svg>
  )
}
