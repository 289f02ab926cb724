/** What a command says that is interrupted, and that goes on where it was when it is run again. */
import { Effect } from "effect"
import { HostProcess } from "./HostProcess.ts"
import { say } from "./Printable.ts"

/** Says on stderr that the work is interrupted, after how much of it if that is known, and that running it again goes on. */
export const resumable = <A, E, R>(work: Effect.Effect<A, E, R>, done?: () => string) =>
  Effect.flatMap(HostProcess, ({ stderr }) =>
    Effect.onInterrupt(work, () =>
      Effect.sync(() => {
        const after = done === undefined ? "" : ` after ${done()}`
        say(stderr, `interrupted${after}; run it again to go on`)
      })
    )
  )
