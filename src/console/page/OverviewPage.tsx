/** The page that says at one glance whether all is well, and where it is not. */
import type { ComponentChildren } from "preact"
import type { Moment } from "../api/Answers.ts"
import { Chart, type Point } from "./Chart.tsx"
import { about, plural, rate, span, whole } from "./Format.ts"
import { type Live, lags, rates, useLive, waiting } from "./Live.ts"
import { Badge, Empty, Panel, type Queue, QueueCount, Skeleton, Span, Table, Time, Whole } from "./Parts.tsx"
import { href, processesHref, projectionHref, queueHref } from "./Route.ts"

type Problem = Moment["problems"][number]

const problemHref = ({ projection, queue }: Problem): string =>
  projection !== null
    ? projectionHref(projection)
    : queue !== null
      ? queueHref(queue === "" ? null : queue, "bounce")
      : href(["doctor"])

const Problems = ({ problems }: { readonly problems: ReadonlyArray<Problem> }) =>
  problems.length === 0 ? (
    <div class="note good" data-testid="all-well">
      <strong>All is well.</strong> Projections and queues are within their limits.
    </div>
  ) : (
    <ul class="problems" aria-label="Problems">
      {problems.map((problem) => (
        <li key={problem.message} class="note bad">
          <a href={problemHref(problem)}>
            <strong>{problem.message}</strong>
          </a>
          <span class="remedy">{problem.remedy}</span>
        </li>
      ))}
    </ul>
  )

interface TileProps {
  readonly title: string
  readonly value: ComponentChildren
  readonly detail: ComponentChildren
  /** What the chart shows, and how a point of it is said. */
  readonly chart: {
    readonly title: string
    readonly points: ReadonlyArray<Point>
    readonly say: (value: number) => string
  }
}

const Tile = ({ chart, detail, title, value }: TileProps) => (
  <div class="tile">
    <div class="tile-title">{title}</div>
    <div class="tile-value">{value}</div>
    <div class="tile-detail">{detail}</div>
    <Chart {...chart} />
  </div>
)

const Tiles = ({ moment, samples }: Live & { readonly moment: Moment }) => {
  const { log, projections, queues } = moment
  const all = projections?.all ?? []
  const slowest = all.toSorted((a, b) => b.behindMillis - a.behindMillis)[0]
  const sum = (of: (queue: NonNullable<typeof queues>["all"][number]) => number) =>
    (queues?.all ?? []).reduce((total, queue) => total + of(queue), 0)
  const inState = (...states: ReadonlyArray<Queue["estimated"][number]>) => {
    const count = sum((queue) => states.reduce((total, state) => total + (state === "archived" ? 0 : queue[state]), 0))
    return (queues?.all ?? []).some(({ estimated }) => states.some((state) => estimated.includes(state)))
      ? about(count)
      : whole(count)
  }
  const oldest = Math.max(0, ...(queues?.all ?? []).map(({ oldestReadyMillis }) => oldestReadyMillis ?? 0))
  return (
    <div class="tiles">
      <Tile
        title="Events a second"
        value={log?.rate === null || log === null ? "–" : rate(log.rate)}
        detail={
          log === null || log.latestAt === null ? (
            "the log is empty"
          ) : (
            <>
              up to version <Whole value={log.latestVersion} />, <Time at={log.latestAt} />
            </>
          )
        }
        chart={{ title: "Events a second", points: rates(samples), say: (value) => `${rate(value)} a second` }}
      />
      <Tile
        title="Furthest behind"
        value={slowest === undefined ? "–" : slowest.behindMillis === 0 ? "0 s" : span(slowest.behindMillis)}
        detail={
          slowest === undefined ? (
            "no projection has run"
          ) : (
            <>
              <a href={projectionHref(slowest.name)}>{slowest.name}</a>, {whole(slowest.lag)} versions
            </>
          )
        }
        chart={{
          title: "Lag of the slowest projection",
          points: lags(samples),
          say: (value) => plural(value, "version")
        }}
      />
      <Tile
        title="Messages waiting"
        value={inState("incoming", "deferred")}
        detail={
          <>
            {inState("active")} active, {inState("bounce")} bounced
            {oldest === 0 ? "" : `, the oldest ready for ${span(oldest)}`}
          </>
        }
        chart={{ title: "Messages waiting", points: waiting(samples), say: (value) => plural(value, "message") }}
      />
    </div>
  )
}

const Projections = ({ all }: { readonly all: NonNullable<Moment["projections"]>["all"] }) =>
  all.length === 0 ? (
    <Empty title="No projection has run on this database yet" />
  ) : (
    <Table
      label="Projections"
      heads={["Projection", "State", { right: "Behind" }, { right: "Lag" }, { right: "Parked" }]}
    >
      {all.map(({ behindMillis, lag, name, parked, state }) => (
        <tr key={name}>
          <td>
            <a href={projectionHref(name)}>{name}</a>
          </td>
          <td>
            <Badge state={state} />
          </td>
          <td class="right">
            <Span millis={behindMillis} />
          </td>
          <td class="right">
            <Whole value={lag} />
          </td>
          <td class="right">{parked === 0 ? "–" : <Whole value={parked} />}</td>
        </tr>
      ))}
    </Table>
  )

const Queues = ({ all }: { readonly all: NonNullable<Moment["queues"]>["all"] }) =>
  all.length === 0 ? (
    <Empty title="No message waits" />
  ) : (
    <Table
      label="Queues"
      heads={[
        "Queue",
        { right: "Incoming" },
        { right: "Active" },
        { right: "Deferred" },
        { right: "Bounced" },
        { right: "Waiting for" }
      ]}
    >
      {all.map((one) => (
        <tr key={one.queue ?? ""}>
          <td>
            <a href={queueHref(one.queue)}>{one.queue ?? "in no queue"}</a>
          </td>
          {(["incoming", "active", "deferred", "bounce"] as const).map((state) => (
            <td key={state} class={`right ${state === "bounce" && one.bounce > 0 ? "is-bad" : ""}`}>
              <QueueCount queue={one} state={state} />
            </td>
          ))}
          <td class="right">
            <Span millis={one.oldestReadyMillis ?? 0} />
          </td>
        </tr>
      ))}
    </Table>
  )

export const OverviewPage = () => {
  const live = useLive()
  const { moment } = live
  if (moment === undefined) return <Skeleton lines={9} />
  const { log, problems, projections, queues } = moment
  return (
    <>
      <Problems problems={problems} />
      {log === null || log.holders === null ? null : (
        <div class="note warn" data-testid="holders">
          <strong>Subscribers may have to wait at the end of the log</strong> for {log.holders}
        </div>
      )}
      <Tiles {...live} moment={moment} />
      <div class="columns">
        <Panel
          title="Projections"
          aside={
            <>
              <a href={processesHref()}>processes</a> <a href={href(["projections"])}>all</a>
            </>
          }
        >
          {projections === null ? <Skeleton /> : <Projections all={projections.all} />}
        </Panel>
        <Panel title="Queues" aside={<a href={href(["spool"])}>all</a>}>
          {queues === null ? <Skeleton /> : <Queues all={queues.all} />}
        </Panel>
      </div>
    </>
  )
}
