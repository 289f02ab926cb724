/** All processes that run projections: who runs what, and which of them has fallen silent. */
import type { Answer } from "../api/Answers.ts"
import { useAnswer } from "./Client.ts"
import { plural } from "./Format.ts"
import { useLive } from "./Live.ts"
import { Empty, FailedNote, Panel, Skeleton } from "./Parts.tsx"
import { ProcessTable } from "./ProcessTable.tsx"
import { projectionHref } from "./Route.ts"

type Process = Answer<"/api/processes">[number]

const Runs = ({ runs }: Pick<Process, "runs">) =>
  runs.length === 0 ? (
    <span class="muted">nothing now</span>
  ) : (
    <ul class="plain-list">
      {runs.map(({ projection, shards }) => (
        <li key={projection}>
          <a href={projectionHref(projection)}>{projection}</a>{" "}
          <span class="muted">
            {shards.length === 1 ? "shard" : "shards"} {shards.join(", ")}
          </span>
        </li>
      ))}
    </ul>
  )

/** The projections of which a shard has no process. */
const Idle = () => {
  const { moment } = useLive()
  const idle = (moment?.projections?.all ?? []).filter(({ state }) => state === "idle")
  return idle.length === 0 ? null : (
    <Panel title="Without a process" aside="in one shard at least">
      <ul class="plain-list">
        {idle.map(({ name }) => (
          <li key={name}>
            <a href={projectionHref(name)}>{name}</a>
          </li>
        ))}
      </ul>
    </Panel>
  )
}

export const ProcessesPage = () => {
  const { moment } = useLive()
  const { failed, value } = useAnswer("/api/processes", {}, moment?.projections?.at)
  if (value === undefined) return failed === undefined ? <Skeleton /> : <FailedNote failed={failed} />
  const silent = value.filter(({ isSilent }) => isSilent).length
  return (
    <>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      {value.length === 0 ? (
        <Empty title="No process runs a projection">
          Each process that runs one says so every few seconds, and is here until the others know that it has gone.
        </Empty>
      ) : (
        <>
          <div class="list-bar">
            <span>
              {plural(value.length, "process")}
              {silent === 0 ? "" : `, ${silent} of them silent`}
            </span>
          </div>
          <ProcessTable all={value} title="Runs" runs={({ runs }) => <Runs runs={runs} />} />
        </>
      )}
      <Idle />
    </>
  )
}
