/** The `strata` command as a process of its own, from its sources: piped, or on a terminal. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const bin = fileURLToPath(new URL("../../src/cli/bin.ts", import.meta.url))

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
  readonly child: ChildProcess
  /** Waits until it has written this, to either of both; fails if it ends before. */
  readonly says: (text: string | RegExp) => Effect.Effect<void>
  readonly type: (text: string) => Effect.Effect<void>
  readonly ended: Effect.Effect<Ended>
}

export interface Options {
  readonly url?: string
  readonly env?: Readonly<Record<string, string>>
}

const environmentOf = ({ env, url }: Options) => {
  const { DATABASE_URL: _, FORCE_COLOR: __, ...inherited } = process.env
  return { ...inherited, NO_COLOR: "1", ...(url === undefined ? {} : { DATABASE_URL: url }), ...env }
}

/** Starts a program, which ends with the scope. */
export const launch = (argv: ReadonlyArray<string>, options: Options) =>
  Effect.acquireRelease(
    Effect.sync((): Running => {
      const [program = "", ...args] = argv
      const child = spawn(program, args, { env: environmentOf(options), stdio: ["pipe", "pipe", "pipe"] })
      const text = { stdout: "", stderr: "" }
      let waiting: Array<() => void> = []
      const look = () => {
        const now = waiting
        waiting = []
        for (const again of now) again()
      }
      for (const name of ["stdout", "stderr"] as const) {
        child[name].setEncoding("utf8").on("data", (chunk: string) => {
          text[name] += chunk
          look()
        })
      }
      child.stdin.on("error", () => {})
      let status: number | string | undefined
      child.once("close", (code, signal) => {
        status = code ?? signal ?? "unknown"
        look()
      })
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
        child,
        says: (wanted) =>
          until(() => {
            const all = text.stdout + text.stderr
            if (typeof wanted === "string" ? all.includes(wanted) : wanted.test(all)) return Effect.void
            return status === undefined
              ? undefined
              : Effect.die(new Error(`it ended without saying ${wanted}:\n${all}`))
          }),
        type: (input) => Effect.sync(() => void child.stdin.write(input)),
        ended: until(() => (status === undefined ? undefined : Effect.succeed({ status, ...text })))
      }
    }),
    ({ child, ended }) =>
      Effect.andThen(
        Effect.sync(() => child.kill("SIGKILL")),
        ended
      )
  )

/** Starts a command, which ends with the scope. Its stdin stays open. */
export const start = (args: ReadonlyArray<string>, options: Options = {}) => launch(command(args), options)

/** Runs a command to its end; `input` is all of its stdin. */
export const strata = (args: ReadonlyArray<string>, options: Options & { readonly input?: string } = {}) =>
  Effect.gen(function* () {
    const { child, ended } = yield* start(args, options)
    child.stdin?.end(options.input ?? "")
    return yield* ended
  }).pipe(Effect.scoped)

/** Runs a command that must succeed, and returns what it wrote to stdout. */
export const succeeds = (args: ReadonlyArray<string>, options: Options & { readonly input?: string } = {}) =>
  Effect.map(strata(args, options), ({ status, stderr, stdout }) => {
    assert.strictEqual(status, 0, `${args.join(" ")}\n${stdout}${stderr}`)
    return stdout
  })

/** Runs a command that must fail: with this status, with these words in a line or two, and without a stack. */
export const fails = (
  args: ReadonlyArray<string>,
  status: 1 | 2,
  says: RegExp,
  options: Options & { readonly input?: string } = {}
) =>
  Effect.map(strata(args, options), (ended) => {
    const shown = `${args.join(" ")}\n${ended.stdout}${ended.stderr}`
    assert.strictEqual(ended.status, status, shown)
    assert.match(ended.stderr, says)
    assert.isAtMost(ended.stderr.trimEnd().split("\n").length, 2, shown)
    assert.notMatch(ended.stderr, /^\s+at /m)
    return ended
  })

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

/** Starts a command on a terminal: all it writes is `stdout`, and what is typed comes from there. */
export const startOnTerminal = (args: ReadonlyArray<string>, options: Options = {}) =>
  bridge === undefined
    ? Effect.die(new Error(noTerminal))
    : launch(bridge(command(args)), { ...options, env: { TERM: "xterm", ...options.env } })

/** A directory that is gone with the scope. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "strata-test-"))),
  (directory) => Effect.promise(() => rm(directory, { recursive: true, force: true }))
)
