import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

/** The repository. */
export const root = fileURLToPath(new URL("../../", import.meta.url))

/** Tools of this repository, for Node to run. */
export const tsc = fileURLToPath(new URL("../../node_modules/typescript/bin/tsc", import.meta.url))
export const vitest = fileURLToPath(new URL("../../node_modules/vitest/vitest.mjs", import.meta.url))

interface Options {
  readonly cwd: string
  readonly env?: Readonly<Record<string, string>>
}

/** Everything that a process wrote and how it ended: 0, or what went wrong. */
export interface Outcome {
  readonly status: number | string
  readonly output: string
}

/** Runs a program to its end, without input. Kills a program that takes longer than four minutes. */
export const outcome = (command: string, args: ReadonlyArray<string>, { cwd, env }: Options): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env, NO_COLOR: "1", FORCE_COLOR: undefined },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 240_000,
      killSignal: "SIGKILL"
    })
    let output = ""
    const collect = (chunk: string) => {
      output += chunk
    }
    child.stdout.setEncoding("utf8").on("data", collect)
    child.stderr.setEncoding("utf8").on("data", collect)
    child.once("error", reject)
    child.once("close", (code, signal) => resolve({ status: code ?? signal ?? "unknown", output }))
  })

/** Runs a program that must succeed, and returns what it wrote. */
export const run = async (command: string, args: ReadonlyArray<string>, options: Options): Promise<string> => {
  const { output, status } = await outcome(command, args, options)
  if (status !== 0) throw new Error(`${[command, ...args].join(" ")} ended with ${status}:\n${output}`)
  return output
}
