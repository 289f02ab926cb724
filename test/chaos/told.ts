/** Child processes that are told what to do, and that say what has come of it. */
import { Deferred, Effect, Schema, type Scope } from "effect"
import { spawn } from "node:child_process"

export interface Child<Command> {
  readonly tell: (what: Command) => Effect.Effect<void>
  /** Returns when the process has ended: how it has, if it was not killed. */
  readonly ended: Effect.Effect<number | null>
  /** How it has ended, if it has. */
  readonly code: () => number | null | undefined
}

/** Starts a process of this directory, whose arguments are those of `child.ts`. It does not outlive the scope. */
export const start = <Command, Said>(options: {
  readonly role: string
  readonly arguments: readonly [url: string, schema: string, name: string, directory: string]
  readonly said: Schema.Codec<Said, unknown>
  readonly hear: (said: Said) => void
}): Effect.Effect<Child<Command>, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const script = new URL(`${options.role}.ts`, import.meta.url).pathname
      const child = spawn(process.execPath, ["--conditions=@effect-strata/source", script, ...options.arguments], {
        stdio: ["ignore", "ignore", "inherit", "ipc"]
      })
      const decode = Schema.decodeUnknownSync(options.said)
      child.on("message", (message) => options.hear(decode(message)))
      const ended = Deferred.makeUnsafe<number | null>()
      let code: number | null | undefined
      child.once("close", (status) => {
        code = status
        Deferred.doneUnsafe(ended, Effect.succeed(status))
      })
      return {
        child,
        tell: (what: Command) => Effect.sync(() => void child.send(Object(what), () => {})),
        ended: Deferred.await(ended),
        code: () => code
      }
    }),
    ({ child }) => Effect.sync(() => void child.kill("SIGKILL"))
  )
