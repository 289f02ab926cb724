/**
 * The `strata` command, from its sources: in the process of the tests, or as a process of its own.
 *
 * **Details**
 *
 * In this process the command takes milliseconds, where a process of its own takes a second of CPU. Nothing else differs but
 * what a process is: signals, pipes, terminals and the exit of Node. Only tests of these start one.
 */
import { assert } from "@effect/vitest"
import { Effect, Runtime } from "effect"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Readable, Writable } from "node:stream"
import { fileURLToPath } from "node:url"
import { run } from "../../src/cli/main.ts"
import { OutputUnread } from "../../src/cli/terminal/ClosedPipe.ts"

export const bin = fileURLToPath(new URL("../../src/cli/bin.ts", import.meta.url))

/** A program of this project, from its sources. */
export const node = (path: string, args: ReadonlyArray<string>) => [
  process.execPath,
  "--conditions=@effect-strata/source",
  path,
  ...args
]

const command = (args: ReadonlyArray<string>) => node(bin, args)

/** What a command left behind. */
export interface Ended {
  readonly status: number | string
  readonly stdout: string
  readonly stderr: string
}

/** A command that runs. */
export interface Running {
  /** Waits until the command has written this, to stdout or stderr. Fails if the command ends before. */
  readonly says: (text: string | RegExp) => Effect.Effect<void>
  /** Interrupts it as Ctrl-C does. */
  readonly interrupt: Effect.Effect<void>
  readonly ended: Effect.Effect<Ended>
  readonly isRunning: () => boolean
}

/** A command that runs as a process of its own. */
export interface RunningProcess extends Running {
  readonly child: ChildProcess
  /** What it has written to stdout so far. */
  readonly written: () => string
  readonly type: (text: string) => Effect.Effect<void>
}

export interface Options {
  readonly url?: string
  readonly env?: Readonly<Record<string, string>>
  /** All of stdin; nothing unless given. */
  readonly input?: string
  /** Whether nobody has read the output from the first, for a command in this process. */
  readonly unread?: boolean
}

const environmentOf = ({ env, url }: Options) => {
  const { DATABASE_URL: _, FORCE_COLOR: __, ...inherited } = process.env
  for (const name of Object.keys(inherited)) if (name.startsWith("PG")) delete inherited[name]
  return { ...inherited, NO_COLOR: "1", ...(url === undefined ? {} : { DATABASE_URL: url }), ...env }
}

/** What a command has written so far, and whether it has ended. */
const makeTranscript = () => {
  const text = { stdout: "", stderr: "" }
  let status: number | string | undefined
  let waiting: Array<() => void> = []
  const wake = () => {
    const woken = waiting
    waiting = []
    for (const resume of woken) resume()
  }
  const until = <A>(f: () => Effect.Effect<A> | undefined) =>
    Effect.callback<A>((resume) => {
      const check = () => {
        const found = f()
        if (found === undefined) waiting.push(check)
        else resume(found)
      }
      check()
    })
  return {
    add: (name: "stdout" | "stderr", chunk: string) => {
      text[name] += chunk
      wake()
    },
    end: (with_: number | string) => {
      status = with_
      wake()
    },
    isRunning: () => status === undefined,
    written: () => text.stdout,
    says: (wanted: string | RegExp) =>
      until(() => {
        const all = text.stdout + text.stderr
        if (typeof wanted === "string" ? all.includes(wanted) : wanted.test(all)) return Effect.void
        return status === undefined ? undefined : Effect.die(new Error(`it ended without saying ${wanted}:\n${all}`))
      }),
    ended: until(() => (status === undefined ? undefined : Effect.succeed({ status, ...text })))
  }
}

/** A stream that the command writes to, on a terminal of 80 columns or not. */
const targetOf = (write: (chunk: string) => void, isTTY: boolean) =>
  Object.assign(
    new Writable({
      decodeStrings: false,
      write: (chunk, _encoding, callback) => {
        write(String(chunk))
        callback()
      }
    }),
    { isTTY, columns: 80 }
  )

const beginOn = (args: ReadonlyArray<string>, options: Options, isTTY: boolean) =>
  Effect.acquireRelease(
    Effect.sync((): Running => {
      const { add, end, ended, isRunning, says } = makeTranscript()
      const interruption = new AbortController()
      const host = {
        env: environmentOf(options),
        stdin: Object.assign(Readable.from([Buffer.from(options.input ?? "")]), { isTTY }),
        stdout: targetOf((chunk) => add("stdout", chunk), isTTY),
        stderr: targetOf((chunk) => add("stderr", chunk), isTTY)
      }
      // A fiber of its own, so that the command shares no layer with the test or with another command.
      const command = Effect.provideService(run(args, host), OutputUnread, options.unread ? Effect.void : Effect.never)
      void Effect.runPromiseExit(command, { signal: interruption.signal }).then((exit) =>
        Runtime.defaultTeardown(exit, end)
      )
      return { says, ended, isRunning, interrupt: Effect.sync(() => interruption.abort()) }
    }),
    ({ ended, interrupt }) => Effect.andThen(interrupt, ended)
  )

/** Begins a command in this process, piped. It ends with the scope. */
export const begin = (args: ReadonlyArray<string>, options: Options = {}) => beginOn(args, options, false)

/** Begins a command in this process whose streams say that they are a terminal. No key is pressed there. */
export const beginOnTerminal = (args: ReadonlyArray<string>, options: Options = {}) => beginOn(args, options, true)

/** Runs a command in this process to its end. */
export const strata = (args: ReadonlyArray<string>, options: Options = {}) =>
  Effect.scoped(Effect.flatMap(begin(args, options), ({ ended }) => ended))

/** Starts a program, which ends with the scope. */
export const launch = (argv: ReadonlyArray<string>, options: Options) =>
  Effect.acquireRelease(
    Effect.sync((): RunningProcess => {
      const { add, end, ended, isRunning, says, written } = makeTranscript()
      const [program = "", ...args] = argv
      const child = spawn(program, args, { env: environmentOf(options), stdio: ["pipe", "pipe", "pipe"] })
      for (const name of ["stdout", "stderr"] as const) {
        child[name].setEncoding("utf8").on("data", (chunk: string) => add(name, chunk))
      }
      child.stdin.on("error", () => {})
      if (options.input !== undefined) child.stdin.end(options.input)
      child.once("close", (code, signal) => end(code ?? signal ?? "unknown"))
      return {
        child,
        says,
        ended,
        isRunning,
        written,
        interrupt: Effect.sync(() => void child.kill("SIGINT")),
        type: (input) => Effect.sync(() => void child.stdin.write(input))
      }
    }),
    ({ child, ended }) =>
      Effect.andThen(
        Effect.sync(() => child.kill("SIGKILL")),
        ended
      )
  )

/** Starts a command as a process, which ends with the scope. Without `input` its stdin stays open. */
export const start = (args: ReadonlyArray<string>, options: Options = {}) => launch(command(args), options)

/** Runs a command as a process to its end. */
export const strataProcess = (args: ReadonlyArray<string>, options: Options = {}) =>
  Effect.scoped(Effect.flatMap(start(args, { input: "", ...options }), ({ ended }) => ended))

/** Runs a command that must succeed, and returns what it wrote to stdout. */
export const succeeds = (args: ReadonlyArray<string>, options: Options = {}) =>
  Effect.map(strata(args, options), ({ status, stderr, stdout }) => {
    assert.strictEqual(status, 0, `${args.join(" ")}\n${stdout}${stderr}`)
    return stdout
  })

/** Asserts that a command has failed: with this status, and with these words in a line or two, without a stack. */
export const assertFailed = (args: ReadonlyArray<string>, ended: Ended, status: 1 | 2, says: RegExp) => {
  const shown = `${args.join(" ")}\n${ended.stdout}${ended.stderr}`
  assert.strictEqual(ended.status, status, shown)
  assert.match(ended.stderr, says)
  assert.isAtMost(ended.stderr.trimEnd().split("\n").length, 2, shown)
  assert.notMatch(ended.stderr, /^\s+at /m)
}

/** Runs a command that must fail: with this status, and with these words in a line or two, without a stack. */
export const fails = (args: ReadonlyArray<string>, status: 1 | 2, says: RegExp, options: Options = {}) =>
  Effect.tap(strata(args, options), (ended) => Effect.sync(() => assertFailed(args, ended, status, says)))

/** The JSON values of lines. */
export const jsonLines = (text: string): ReadonlyArray<Record<string, unknown>> =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))

// Node has no pseudo-terminals: Python's standard library has them, and so has util-linux.
const bridges: ReadonlyArray<(argv: ReadonlyArray<string>) => ReadonlyArray<string>> = [
  (argv) => [
    "python3",
    "-c",
    "import os,pty,sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
    ...argv
  ],
  (argv) => ["script", "-qefc", argv.map((part) => `'${part.replaceAll("'", `'\\''`)}'`).join(" "), "/dev/null"]
]

const bridge = bridges.find((bridge) => {
  const [program = "", ...args] = bridge(["sh", "-c", "test -t 1 && exit 7"])
  return spawnSync(program, args, { stdio: ["pipe", "ignore", "ignore"] }).status === 7
})

/** Why there is no terminal for the tests, if there is none. */
export const noTerminal =
  bridge === undefined ? "neither python3 nor util-linux's script gives a terminal here" : undefined

/** Starts a command as a process on a terminal: all that it writes is `stdout`, and it reads what is typed. */
export const startOnTerminal = (args: ReadonlyArray<string>, options: Options = {}) =>
  bridge === undefined
    ? Effect.die(new Error(noTerminal))
    : launch(bridge(command(args)), { ...options, env: { TERM: "xterm", ...options.env } })

/** A directory that is removed with the scope. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "strata-test-"))),
  (directory) => Effect.promise(() => rm(directory, { recursive: true, force: true }))
)
