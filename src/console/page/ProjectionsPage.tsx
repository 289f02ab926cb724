/** All projections: how far each is, and in which state. */
import type { Answer } from "../api/Answers.ts"
import { Chart } from "./Chart.tsx"
import { useAnswer } from "./Client.ts"
import { plural } from "./Format.ts"
import { lags, useLive } from "./Live.ts"
import { Badge, Empty, FailedNote, Panel, Skeleton, Span, Table, Time, Whole } from "./Parts.tsx"
import { processesHref, projectionHref } from "./Route.ts"
import { type Column, Rows } from "./Rows.tsx"

type Offset = Answer<"/api/offsets">[number]

const offsetColumns: ReadonlyArray<Column<Offset>> = [
  { title: "Projection", width: "minmax(9rem, 2fr)", show: ({ projectionName }) => projectionName },
  { title: "Shard", width: "5rem", isRight: true, show: ({ shardNumber }) => <Whole value={shardNumber} /> },
  { title: "Offset", width: "minmax(6rem, 1fr)", isRight: true, show: ({ value }) => <Whole value={value} /> },
  {
    title: "Written",
    width: "minmax(6rem, 1fr)",
    isRight: true,
    show: ({ writtenAt }) => (writtenAt === null ? <span class="muted">–</span> : <Time at={writtenAt} />)
  }
]

/** Every offset of the table: other programs may keep theirs beside those of projections. */
const Offsets = () => {
  const { moment } = useLive()
  const { failed, value } = useAnswer("/api/offsets", {}, moment?.projections?.at)
  if (failed !== undefined) return <FailedNote failed={failed} />
  if (value === undefined) return <Skeleton />
  if (value.length === 0) return <Empty title="There are no offsets" />
  return (
    <div class="rows-box">
      <Rows
        label="Offsets"
        rows={value}
        columns={offsetColumns}
        keyOf={({ projectionName, shardNumber }) => `${shardNumber} ${projectionName}`}
        hrefOf={({ projectionName }) => projectionHref(projectionName)}
        selected={undefined}
        footer={`${plural(value.length, "offset")}.`}
      />
    </div>
  )
}

export const ProjectionsPage = () => {
  const { moment, samples } = useLive()
  const projections = moment?.projections
  if (projections === undefined || projections === null) return <Skeleton />
  if (projections.all.length === 0) {
    return (
      <>
        <Empty title="No projection has run on this database yet">
          A projection is here as soon as a process has run it once.
        </Empty>
        <Panel title="Offsets" aside="of every program">
          <Offsets />
        </Panel>
      </>
    )
  }
  return (
    <>
      <div class="list-bar">
        <span>{plural(projections.all.length, "projection")}</span>
        <a href={processesHref()}>Processes that run them</a>
      </div>
      <Panel title="Lag over time" aside="the slowest one">
        <Chart title="Lag of the slowest projection" points={lags(samples)} say={(value) => plural(value, "version")} />
      </Panel>
      <Table
        label="Projections"
        heads={[
          "Projection",
          "State",
          { right: "Shards" },
          { right: "Offset" },
          { right: "Lag" },
          { right: "Behind" },
          { right: "Parked" },
          { right: "Skipped" }
        ]}
        isRoomy
      >
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
      </Table>
      <Panel title="Offsets" aside="of every program">
        <Offsets />
      </Panel>
    </>
  )
}
