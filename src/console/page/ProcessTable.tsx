/** Processes that run projections, a row each, with what each of them runs. */
import type { ComponentChildren } from "preact"
import type { Answer } from "../api/Answers.ts"
import { Badge, Time } from "./Parts.tsx"

type Process = Omit<Answer<"/api/processes">[number], "runs">

interface ProcessTableProps<One extends Process> {
  readonly all: ReadonlyArray<One>
  /** The title of the last column. */
  readonly title: string
  /** What stands there. */
  readonly runs: (one: One) => ComponentChildren
}

export const ProcessTable = <One extends Process>({ all, runs, title }: ProcessTableProps<One>) => (
  <div class="table-box" tabIndex={0} role="group" aria-label="Processes">
    <table class="roomy">
      <thead>
        <tr>
          <th>Process</th>
          <th>Host</th>
          <th class="right">Pid</th>
          <th>State</th>
          <th>Since</th>
          <th>Heard of</th>
          <th>{title}</th>
        </tr>
      </thead>
      <tbody>
        {all.map((one) => (
          <tr key={one.id}>
            <td>{one.name}</td>
            <td>{one.host}</td>
            <td class="right">{one.pid}</td>
            <td>
              <Badge state={one.isSilent ? "silent" : "running"} />
            </td>
            <td>
              <Time at={one.since} />
            </td>
            <td>
              <Time at={one.heardAt} />
            </td>
            <td class="wrap">{runs(one)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  </div>
)
