/** All projections: how far each is, and in which state. */
import { Chart } from "./Chart.tsx"
import { plural } from "./Format.ts"
import { lags, useLive } from "./Live.ts"
import { Badge, Empty, Panel, Whole, Skeleton, Span } from "./Parts.tsx"
import { projectionHref } from "./Route.ts"

export const ProjectionsPage = () => {
  const { moment, samples } = useLive()
  const projections = moment?.projections
  if (projections === undefined || projections === null) return <Skeleton />
  if (projections.all.length === 0) {
    return (
      <Empty title="No projection has run on this database yet">
        A projection is here as soon as a process has run it once.
      </Empty>
    )
  }
  return (
    <>
      <Panel title="Lag over time" aside="the slowest one">
        <Chart title="Lag of the slowest projection" points={lags(samples)} say={(value) => plural(value, "version")} />
      </Panel>
      <div class="table-box" tabIndex={0} role="group" aria-label="Projections">
        <table class="roomy">
          <thead>
            <tr>
              <th>Projection</th>
              <th>State</th>
              <th class="right">Shards</th>
              <th class="right">Offset</th>
              <th class="right">Lag</th>
              <th class="right">Behind</th>
              <th class="right">Parked</th>
              <th class="right">Skipped</th>
            </tr>
          </thead>
          <tbody>
            {projections.all.map((one) => (
              <tr key={one.name}>
                <td>
                  <a href={projectionHref(one.name)}>{one.name}</a>
                </td>
                <td>
                  <Badge state={one.state} />
                </td>
                <td class="right">
                  <Whole value={one.shards} />
                </td>
                <td class="right">
                  <Whole value={one.offset} />
                </td>
                <td class="right">
                  <Whole value={one.lag} />
                </td>
                <td class="right">
                  <Span millis={one.behindMillis} />
                </td>
                <td class={`right ${one.parked > 0 ? "is-bad" : ""}`}>
                  <Whole value={one.parked} />
                </td>
                <td class="right">
                  <Whole value={one.skipped} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  )
}
