/** Processes that run projections, a row each, with what each of them runs. */
import type { ComponentChildren } from "preact"
import type { Answer } from "../api/Answers.ts"
import { Badge, Table, Time } from "./Parts.tsx"

type Process = Omit<Answer<"/api/processes">[number], "runs">

interface ProcessTableProps<One extends Process> {
  readonly all: ReadonlyArray<One>
  /** The title of the last column. */
  readonly title: string
  /** What stands there. */
  readonly runs: (one: One) => ComponentChildren
}

export const ProcessTable = <One extends Process>({ all, runs, title }: ProcessTableProps<One>) => (
  <Table label="Processes" heads={["Process", "Host", { right: "Pid" }, "State", "Since", "Heard of", title]} isRoomy>
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
  </Table>
)
