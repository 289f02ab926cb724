/** Processes that are kept running: a process that ends is started again, and it is a mistake to end by itself. */
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

/** The time between two steps of a clock. */
const between = "40 millis"

/** How long a process may take to come back after faults, or to end once it is told to, on a machine that is very busy. */
const longest = "2 minutes"

export interface Process {
  readonly name: string
  /** The name that the process which runs now gives the server. No process before it had this one. */
  readonly application: () => string
  /** Sends SIGKILL, and starts the process again after so many milliseconds. */
  readonly kill: (millis: number) => Effect.Effect<void>
  /** Sends SIGSTOP, and SIGCONT when the effect has ended. */
  readonly pause: <A, E>(during: Effect.Effect<A, E>) => Effect.Effect<A, E>
  /** Sets the wall clock ahead by so much and back, again and again, both in milliseconds. */
  readonly step: (ahead: number, millis: number) => Effect.Effect<void>
  readonly tell: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Ends it for good, in its own time. */
  readonly end: Effect.Effect<void>
  /** Returns when it can work, for the first time. */
  readonly ready: Effect.Effect<void>
  /** Returns when the process next says that it has done something. It is a mistake to say nothing for too long. */
  readonly works: Effect.Effect<void>
  readonly mistakes: ReadonlyArray<string>
  readonly starts: () => number
  /** The longest time in which it has done nothing, however often it was started, and when that was over. */
  readonly longestRest: () => Rest
}

/** In milliseconds, by `performance.now()`. */
interface Rest {
  readonly millis: number
  readonly until: number
}

export const supervise = Effect.fnUntraced(function* (options: {
  readonly name: string
  readonly script: URL
  readonly arguments: ReadonlyArray<string>
  readonly directory: string
  readonly patience?: Duration.Input
  /** What the server has of the process that has given it this name, for the account of a mistake. */
  readonly look?: (application: string) => Effect.Effect<string>
}): Effect.fn.Return<Process, never, Scope.Scope> {
  const { directory, look = () => Effect.succeed(""), name, patience = longest, script } = options
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

  let startedAt = 0
  let workedAt: number | undefined
  let lastLine = ""
  let restingSince = performance.now()
  let longestRest: Rest = { millis: 0, until: 0 }

  const application = () => `${name}#${starts}`

  const ago = (at: number) => `${((performance.now() - at) / 1000).toFixed(1)} s ago`

  const said = () => (lastLine === "" ? [] : [`it last said "${lastLine}"`])

  /** A mistake, with what the process has done last, and what the server has of it. */
  const accuse = (mistake: string) =>
    Effect.map(look(application()), (seen) => {
      const account = [
        `${application()} was started ${ago(startedAt)}`,
        workedAt === undefined ? "it has never worked" : `it last worked ${ago(workedAt)}`,
        ...said(),
        ...(seen === "" ? [] : [seen])
      ]
      mistakes.push(`${name} ${mistake}: ${account.join("; ")}`)
    })

  const noteWork = (at: number) => {
    if (at - restingSince > longestRest.millis) longestRest = { millis: at - restingSince, until: at }
    restingSince = at
    workedAt = at
  }

  const start = () => {
    let isReady = false
    killed = false
    starts++
    startedAt = performance.now()
    workedAt = undefined
    const started = spawn(
      process.execPath,
      ["--conditions=@effect-strata/source", "--import", clock.href, script.pathname, ...options.arguments],
      {
        stdio: ["ignore", "pipe", "pipe", "ipc"],
        env: { ...process.env, NODE_COMPILE_CACHE: cache, CHAOS_CLOCK: String(ahead), PGAPPNAME: application() }
      }
    )
    child = started
    started.stderr?.pipe(log, { end: false })
    createInterface(started.stderr ?? Readable.from([])).on("line", (line) => {
      lastLine = line
    })
    createInterface(started.stdout ?? Readable.from([])).on("line", (line) => {
      // A line that is a number says that the process has done something.
      const hasWorked = /^\d+$/.test(line)
      if (line !== "ready" && !hasWorked) {
        lastLine = line
        return void log.write(`${line}\n`)
      }
      isReady = true
      if (hasWorked) noteWork(performance.now())
      // The next sign is made first: a fiber that waits for this one goes on at once, and may then wait for the next.
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
      // A process that finds no server when it starts may give up; later on it has to wait.
      if (!killed && isReady) mistakes.push([`${name} has ended by itself: ${signal ?? code}`, ...said()].join("; "))
      timer = setTimeout(start, killed ? downtime : 500)
      return undefined
    })
  }

  const set = (to: number) =>
    Effect.sync(() => {
      ahead = to
      const setting: typeof Setting.Type = { ahead }
      // The setting may not reach a process that is about to end. The next process starts with it.
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
        orElse: () =>
          accuse("did not end when it was told to").pipe(
            Effect.andThen(tell("SIGKILL")),
            Effect.andThen(Deferred.await(over))
          )
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
    application,
    kill: (millis) =>
      Effect.sync(() => {
        killed = true
        downtime = millis
        child?.kill("SIGKILL")
      }),
    pause: (during) =>
      Effect.suspend(() => {
        // Only the process that was stopped goes on, not a process that has come after it.
        const stopped = child
        stopped?.kill("SIGSTOP")
        return Effect.ensuring(
          during,
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
        orElse: () => accuse("did not come back")
      })
    ),
    mistakes,
    starts: () => starts,
    longestRest: () => longestRest
  }
})
