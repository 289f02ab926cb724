/** Processes that are kept running: one that ends is started again, and one that ends by itself is a mistake. */
import { Deferred, Effect, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { createWriteStream } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"

const cache = join(tmpdir(), "strata-compile-cache")

/** How long a process may take to end once it is told to. */
const patience = "30 seconds"

export interface Process {
  readonly name: string
  /** SIGKILL; it is started again after some time. */
  readonly kill: (millis: number) => Effect.Effect<void>
  /** SIGSTOP, and SIGCONT after some time. */
  readonly pause: (millis: number) => Effect.Effect<void>
  readonly tell: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Ends it for good, in its own time. */
  readonly end: Effect.Effect<void>
  /** Returns when it works, for the first time. */
  readonly ready: Effect.Effect<void>
  readonly mistakes: ReadonlyArray<string>
  readonly starts: () => number
}

export const supervise = Effect.fnUntraced(function* (options: {
  readonly name: string
  readonly script: URL
  readonly arguments: ReadonlyArray<string>
  readonly directory: string
}): Effect.fn.Return<Process, never, Scope.Scope> {
  const { directory, name, script } = options
  const mistakes: Array<string> = []
  const first = Deferred.makeUnsafe<void>()
  const over = Deferred.makeUnsafe<void>()
  const log = createWriteStream(join(directory, `${name}.log`), { flags: "a" })
  let child: ChildProcess | undefined
  let timer: NodeJS.Timeout | undefined
  let ending = false
  let killed = false
  let downtime = 0
  let starts = 0

  const start = () => {
    let isReady = false
    killed = false
    starts++
    const started = spawn(
      process.execPath,
      ["--conditions=@effect-strata/source", script.pathname, ...options.arguments],
      { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, NODE_COMPILE_CACHE: cache } }
    )
    child = started
    started.stderr.pipe(log, { end: false })
    createInterface(started.stdout).on("line", (line) => {
      // The projection's process says nothing but how large its batches are.
      if (line === "ready" || /^\d+$/.test(line)) {
        isReady = true
        Deferred.doneUnsafe(first, Effect.void)
      } else log.write(`${line}\n`)
    })
    started.once("close", (code, signal) => {
      child = undefined
      if (ending) return void Deferred.doneUnsafe(over, Effect.void)
      // One that finds no server when it starts may give up; later on it has to wait.
      if (!killed && isReady) mistakes.push(`${name} has ended by itself: ${signal ?? code}`)
      timer = setTimeout(start, killed ? downtime : 500)
      return undefined
    })
  }

  const tell = (signal: NodeJS.Signals) => Effect.sync(() => void child?.kill(signal))
  const end = Effect.gen(function* () {
    ending = true
    clearTimeout(timer)
    if (child === undefined) return
    yield* tell("SIGTERM")
    yield* Deferred.await(over).pipe(
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => {
          mistakes.push(`${name} did not end when it was told to`)
          return Effect.andThen(tell("SIGKILL"), Deferred.await(over))
        }
      })
    )
  })

  yield* Effect.acquireRelease(Effect.sync(start), () =>
    Effect.sync(() => {
      ending = true
      clearTimeout(timer)
      child?.kill("SIGKILL")
    })
  )
  return {
    name,
    kill: (millis) =>
      Effect.sync(() => {
        killed = true
        downtime = millis
        child?.kill("SIGKILL")
      }),
    pause: (millis) =>
      Effect.suspend(() => {
        // The one that is stopped, not one that has come after it.
        const stopped = child
        stopped?.kill("SIGSTOP")
        return Effect.andThen(
          Effect.sleep(millis),
          Effect.sync(() => void stopped?.kill("SIGCONT"))
        )
      }),
    tell,
    end,
    ready: Deferred.await(first),
    mistakes,
    starts: () => starts
  }
})
