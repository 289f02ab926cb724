/** One projection: its shards, who runs them, and what has failed. */
import { useState } from "preact/hooks"
import type { Answer } from "../api/Answers.ts"
import { Action, MissingGrants } from "./Action.tsx"
import { Chart } from "./Chart.tsx"
import { useAnswer } from "./Client.ts"
import { firstLine, plural, whole } from "./Format.ts"
import { lags, useLive } from "./Live.ts"
import { Badge, Empty, FailedNote, Panel, Skeleton, Span, Table, Whole } from "./Parts.tsx"
import { ProcessTable } from "./ProcessTable.tsx"
import { aggregateHref, eventHref, go, href, processesHref, projectionHref } from "./Route.ts"

type Detail = Answer<"/api/projection">
type Shard = Detail["shards"][number]
type Failure = NonNullable<Shard["failure"]>

/** How far the slowest shard has come, of all that is in the log now. */
const shareDone = ({ head, shards }: Detail): number => {
  const lowest = shards.reduce((low, { offset }) => (BigInt(offset) < low ? BigInt(offset) : low), BigInt(head))
  return head === "0" ? 1 : Number((lowest * 10_000n) / BigInt(head)) / 10_000
}

const Progress = ({ detail }: { readonly detail: Detail }) => {
  const share = shareDone(detail)
  const percent = share === 1 ? "100" : (Math.floor(share * 1000) / 10).toFixed(1)
  return (
    <div class="progress-box">
      <progress max={1} value={share} aria-label="How far the slowest shard has come" />
      <span class="number">
        {percent}% of version {whole(detail.head)}
      </span>
      {detail.rebuildAsked ? <span class="badge warn">a rebuild was asked for</span> : null}
      {share < 1 ? null : <span class="badge good">complete</span>}
    </div>
  )
}

/** The copy of the read model that is built beside the one that is served, if one is. */
const Beside = ({ name }: { readonly name: string }) => {
  const { moment } = useLive()
  const copy = moment?.projections?.all.find((one) => one.name === `${name} (rebuild)`)
  if (copy === undefined) return null
  const end = BigInt(copy.offset) + BigInt(copy.lag)
  const share = end === 0n ? 1 : Number((BigInt(copy.offset) * 10_000n) / end) / 10_000
  return (
    <div class="progress-box">
      <a href={projectionHref(copy.name)}>A copy is built beside it</a>
      <progress max={1} value={share} aria-label="How far the copy is" />
      <span class="number">{(Math.floor(share * 1000) / 10).toFixed(1)}%</span>
    </div>
  )
}

const Error = ({ error }: { readonly error: string | null }) =>
  error === null ? (
    <span class="muted">hidden</span>
  ) : error.includes("\n") ? (
    <details class="stack">
      <summary>{firstLine(error)}</summary>
      <pre>{error}</pre>
    </details>
  ) : (
    <span>{error}</span>
  )

const Failures = ({
  asked,
  failures,
  retryOf
}: {
  readonly failures: ReadonlyArray<Failure>
  readonly asked?: ReadonlySet<string>
  /** The projection whose aggregates can be retried one by one. */
  readonly retryOf?: string
}) => (
  <Table
    label="Failures"
    heads={[{ right: "Version" }, "Aggregate", "Type", "Failed with", ...(retryOf === undefined ? [] : ["Retry"])]}
  >
    {failures.map((failure) => (
      <tr key={`${failure.shardNumber} ${failure.version}`}>
        <td class="right">
          <a href={eventHref(failure.version)}>
            <Whole value={failure.version} />
          </a>
        </td>
        <td>
          <a href={aggregateHref(failure.aggregateId)}>{failure.aggregateId}</a>
          {asked?.has(failure.aggregateId) ? <span class="badge accent">retry asked for</span> : null}
        </td>
        <td>
          <span class="chip">{failure.eventType}</span>
        </td>
        <td class="wrap">
          <Error error={failure.error} />
        </td>
        {retryOf === undefined ? null : (
          <td>
            <Action
              name={`Retry ${failure.aggregateId}`}
              label="Retry"
              question={`Have the events of ${failure.aggregateId} handled again, from version ${whole(failure.version)} on?`}
              changes="projections"
              path="/api/actions/projection"
              change={{ action: "retry", name: retryOf, aggregates: [failure.aggregateId] }}
            />
          </td>
        )}
      </tr>
    ))}
  </Table>
)

const Shards = ({ shards }: { readonly shards: ReadonlyArray<Shard> }) => (
  <Table
    label="Shards"
    heads={[
      { right: "Shard" },
      "State",
      { right: "Offset" },
      { right: "Lag" },
      { right: "Behind" },
      { right: "Parked" },
      { right: "Skipped" },
      "Process",
      "Last failure"
    ]}
  >
    {shards.map((shard) => (
      <tr key={shard.shardNumber}>
        <td class="right">{shard.shardNumber}</td>
        <td>
          <Badge state={shard.state} />
        </td>
        <td class="right">
          <Whole value={shard.offset} />
        </td>
        <td class="right">
          <Whole value={shard.lag} />
        </td>
        <td class="right">
          <Span millis={shard.behindMillis} />
        </td>
        <td class="right">
          <Whole value={shard.parked} />
        </td>
        <td class="right">
          <Whole value={shard.skipped} />
        </td>
        <td>{shard.process ?? <span class="muted">none</span>}</td>
        <td class="wrap">
          {shard.failure === null ? (
            <span class="muted">none</span>
          ) : (
            <>
              at <a href={eventHref(shard.failure.version)}>{whole(shard.failure.version)}</a>:{" "}
              <Error error={shard.failure.error} />
            </>
          )}
        </td>
      </tr>
    ))}
  </Table>
)

const Processes = ({ processes }: Pick<Detail, "processes">) =>
  processes.length === 0 ? (
    <Empty title="No process runs it">Start one: it goes on where the offsets are.</Empty>
  ) : (
    <ProcessTable all={processes} title="Shards" runs={({ shards }) => shards.join(", ")} />
  )

const Actions = ({ detail }: { readonly detail: Detail }) => {
  const { name, parked, paused } = detail
  const [to, setTo] = useState("0")
  const path = "/api/actions/projection"
  const version = /^\d+$/.test(to) ? to : "0"
  return (
    <div class="actions">
      {paused ? (
        <Action
          name="Resume"
          question={`Let ${name} go on from where it was?`}
          changes="projections"
          path={path}
          change={{ action: "resume", name }}
        />
      ) : (
        <Action
          name="Pause"
          question={`Stop ${name} in every process, until it is resumed?`}
          changes="projections"
          path={path}
          change={{ action: "pause", name }}
        />
      )}
      {parked.length === 0 ? null : (
        <Action
          name="Retry parked"
          question={`Have the events of the ${plural(parked.length, "parked aggregate")} of ${name} handled again?`}
          changes="projections"
          path={path}
          change={{ action: "retry", name }}
        />
      )}
      <Action
        name="Rebuild"
        isGrave
        question={`Empty the read model of ${name}, and have it built anew in the processes that run it?`}
        changes="projections"
        path={path}
        change={{ action: "rebuild", name }}
      />
      <Action
        name="Reset to"
        isGrave
        question={`Have ${name} handle everything after version ${whole(version)} again? Its read model is not emptied.`}
        changes="projections"
        path={path}
        change={{ action: "reset", name, to: version }}
      />
      <Action
        name="Accept the log"
        isGrave
        question={`If the log was set back or replaced, have ${name} take it for the one that it has read, and go on above its offset? Its read model stays as it is, and events that the log has now below the offset are not handled.`}
        changes="projections"
        path={path}
        change={{ action: "accept", name }}
      />
      <Action
        name="Remove"
        isGrave
        question={`Forget how far ${name} is, and end its run in every process? Its read model is not touched.`}
        changes="projections"
        path={path}
        change={{ action: "remove", name }}
        done={() => go(href(["projections"]))}
      />
      <input
        class="short number"
        inputMode="numeric"
        aria-label="The version after which the projection goes on"
        value={to}
        onInput={({ currentTarget }) => setTo(currentTarget.value.trim())}
      />
    </div>
  )
}

/** How far its slowest shard was behind in the last hour. */
const Lag = ({ name }: { readonly name: string }) => {
  const { samples } = useLive()
  return (
    <Panel title="Lag over time">
      <Chart title={`Lag of ${name}`} points={lags(samples, name)} say={(value) => plural(value, "version")} />
    </Panel>
  )
}

const Content = ({ detail }: { readonly detail: Detail }) => (
  <>
    <Progress detail={detail} />
    <Beside name={detail.name} />
    <MissingGrants changes="projections" />
    <Actions detail={detail} />
    <Lag name={detail.name} />
    {detail.rebuildFailure === null ? null : (
      <div class="note bad">It could not be rebuilt: {detail.rebuildFailure}</div>
    )}
    <Panel title="Shards" aside={`the copy "${detail.slot}" is served`}>
      <Shards shards={detail.shards} />
    </Panel>
    <Panel title="Parked" aside={plural(detail.parked.length, "aggregate")}>
      {detail.parked.length === 0 ? (
        <Empty title="Nothing is parked" />
      ) : (
        <Failures
          failures={detail.parked}
          retryOf={detail.name}
          asked={new Set(detail.parked.filter(({ retryAsked }) => retryAsked).map(({ aggregateId }) => aggregateId))}
        />
      )}
    </Panel>
    {detail.skippedTotal === 0 ? null : (
      <Panel title="Skipped" aside={plural(detail.skippedTotal, "event")}>
        <Failures failures={detail.skipped} />
      </Panel>
    )}
    <Panel title="Processes" aside={<a href={processesHref()}>all processes</a>}>
      <Processes processes={detail.processes} />
    </Panel>
  </>
)

export const ProjectionPage = ({ name }: { readonly name: string }) => {
  const { moment } = useLive()
  const { failed, value } = useAnswer("/api/projection", { name }, moment?.projections?.at)
  return (
    <>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      {value === undefined ? failed === undefined && <Skeleton /> : <Content detail={value} />}
    </>
  )
}
