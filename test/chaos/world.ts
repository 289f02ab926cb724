/** What faults are inflicted on, and what they tell the verdict. */
import type { Effect } from "effect"
import type { Cluster } from "./cluster.ts"
import type { Process } from "./processes.ts"
import type { Fault } from "./schedule.ts"

export interface World {
  readonly cluster: Cluster
  readonly processes: ReadonlyArray<Process>
  readonly schema: string
  readonly projection: string
  readonly directory: string
}

/** Inflicts a fault, and returns what it has met. */
export type Inflict = (fault: Fault) => Effect.Effect<string, unknown>

export const chosen = <A>(all: ReadonlyArray<A>, pick: number) => all[Math.floor(pick * all.length)]
