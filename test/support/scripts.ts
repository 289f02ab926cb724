/** Scripts of the tests as processes of their own, from which nothing but their end is heard. */
import { Deferred, Effect } from "effect"
import { spawn, type StdioOptions } from "node:child_process"

interface Options {
  /** What Node is told beside the script. */
  readonly flags?: ReadonlyArray<string>
  readonly env?: Readonly<Record<string, string>>
  /** Errors are shown unless told otherwise. */
  readonly stdio?: StdioOptions
}

/** Starts a script, and kills it with the scope. */
export const startScript = (
  script: string,
  args: ReadonlyArray<string>,
  { env, flags = [], stdio = ["ignore", "ignore", "inherit"] }: Options = {}
) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, ["--conditions=@effect-strata/source", ...flags, script, ...args], {
        stdio,
        env: { ...process.env, ...env }
      })
      const ended = Deferred.makeUnsafe<number | null>()
      child.once("close", (code) => Deferred.doneUnsafe(ended, Effect.succeed(code)))
      const send = (signal: NodeJS.Signals) => Effect.sync(() => void child.kill(signal))
      return {
        send,
        /** Waits for its end, and gives its code. */
        ended: Deferred.await(ended),
        /** Kills it, and waits until it has gone. */
        kill: Effect.asVoid(Effect.andThen(send("SIGKILL"), Deferred.await(ended)))
      }
    }),
    ({ kill }) => kill
  )
