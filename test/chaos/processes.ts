/** Processes that are kept running: one that ends is started again, and one that ends by itself is a mistake. */
import { Deferred, type Duration, Effect, Schedule, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { createWriteStream } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { Readable } from "node:stream"
import type { Setting } from "./clock.ts"

const clock = new URL("clock.ts", import.meta.url)
const cache = join(tmpdir(), "strata-compile-cache")

/** Between two steps of a clock. */
const between = "40 millis"

/** How long a process may take to come back after faults, or to end once it is told to. */
const longest = "30 seconds"

export interface Process {
  readonly name: string
  /** SIGKILL; it is started again after some time. */
  readonly kill: (millis: number) => Effect.Effect<void>
  /** SIGSTOP, and SIGCONT after some time. */
  readonly pause: (millis: number) => Effect.Effect<void>
  /** Its wall clock jumps by so much and back, again and again for some time. */
  readonly step: (ahead: number, millis: number) => Effect.Effect<void>
  readonly tell: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Ends it for good, in its own time. */
  readonly end: Effect.Effect<void>
  /** Returns when it can work, for the first time. */
  readonly ready: Effect.Effect<void>
  /** Returns when it has done something, from now on. That it does not come back to it is a mistake. */
  readonly works: Effect.Effect<void>
  readonly mistakes: ReadonlyArray<string>
  readonly starts: () => number
}

export const supervise = Effect.fnUntraced(function* (options: {
  readonly name: string
  readonly script: URL
  readonly arguments: ReadonlyArray<string>
  readonly directory: string
  readonly patience?: Duration.Input
}): Effect.fn.Return<Process, never, Scope.Scope> {
  const { directory, name, patience = longest, script } = options
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
  let ahead = 0
  let sign = Deferred.makeUnsafe<void>()

  const start = () => {
    let isReady = false
    killed = false
    starts++
    const started = spawn(
      process.execPath,
      ["--conditions=@effect-strata/source", "--import", clock.href, script.pathname, ...options.arguments],
      {
        stdio: ["ignore", "pipe", "pipe", "ipc"],
        env: { ...process.env, NODE_COMPILE_CACHE: cache, CHAOS_CLOCK: String(ahead) }
      }
    )
    child = started
    started.stderr?.pipe(log, { end: false })
    createInterface(started.stdout ?? Readable.from([])).on("line", (line) => {
      // A number is how much has been done.
      const hasWorked = /^\d+$/.test(line)
      if (line !== "ready" && !hasWorked) return void log.write(`${line}\n`)
      isReady = true
      // First of all, as whoever waits goes on at once: it is no sign for those who wait from now on.
      const before = sign
      if (hasWorked) sign = Deferred.makeUnsafe()
      Deferred.doneUnsafe(first, Effect.void)
      if (hasWorked) Deferred.doneUnsafe(before, Effect.void)
      return undefined
    })
    started.once("close", (code, signal) => {
      child = undefined
      if (ending) {
        if (code !== null && code !== 0) mistakes.push(`${name} has failed at its end: ${code}`)
        return void Deferred.doneUnsafe(over, Effect.void)
      }
      // One that finds no server when it starts may give up; later on it has to wait.
      if (!killed && isReady) mistakes.push(`${name} has ended by itself: ${signal ?? code}`)
      timer = setTimeout(start, killed ? downtime : 500)
      return undefined
    })
  }

  const set = (to: number) =>
    Effect.sync(() => {
      ahead = to
      const setting: typeof Setting.Type = { ahead }
      // To one that is about to end it may not arrive. The next one starts with it.
      if (child?.connected === true) child.send(setting, () => {})
    })

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
    step: (by, millis) =>
      Effect.andThen(Effect.delay(set(by), between), Effect.delay(set(0), between)).pipe(
        Effect.repeat(Schedule.during(millis)),
        Effect.asVoid
      ),
    tell,
    end,
    ready: Deferred.await(first),
    works: Effect.suspend(() => Deferred.await(sign)).pipe(
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => Effect.sync(() => void mistakes.push(`${name} did not come back`))
      })
    ),
    mistakes,
    starts: () => starts
  }
})
