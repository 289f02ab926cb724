/** How commands show the processes that run projections. */
import { DateTime } from "effect"
import type * as Projection from "../../Projection.ts"
import type * as Output from "../terminal/Output.ts"

type Process = Projection.RunningProcess

/** A process, as people look for it. */
export const whoIs = ({ host, name, pid }: Process): string => `${name} (pid ${pid} on ${host})`

/** What a process runs: how many shards of each projection. */
const runsOf = ({ runs }: Process): string =>
  runs.map(({ projectionName, shards }) => `${projectionName} ${shards.length}`).join(", ")

export const processColumns: Output.Listing<Process>["columns"] = [
  { title: "PROCESS", show: ({ name }) => name },
  { title: "HOST", show: ({ host }) => host },
  { title: "PID", show: ({ pid }) => String(pid), right: true },
  { title: "STATE", show: ({ isSilent }) => (isSilent ? "silent" : "running") },
  { title: "SINCE", show: ({ since }) => DateTime.formatIso(since) },
  { title: "HEARD", show: ({ heardAt }) => DateTime.formatIso(heardAt) },
  { title: "SHARDS", show: runsOf }
]

export const processJson = ({ heardAt, since, ...process }: Process) => ({
  ...process,
  since: DateTime.formatIso(since),
  heardAt: DateTime.formatIso(heardAt)
})
