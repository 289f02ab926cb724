/** What a run prints and keeps. */
import { Effect } from "effect"
import { appendFileSync, mkdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import type { Finding } from "./verdict.ts"

export const make = (directory: string) => {
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })

  /** Prints a line, with the seconds since the start, and keeps it. */
  const say = (line: string) =>
    Effect.sync(() => {
      const seconds = (performance.now() / 1000).toFixed(1).padStart(6)
      console.log(`${seconds}  ${line}`)
      appendFileSync(join(directory, "run.log"), `${seconds}  ${line}\n`)
    })

  /** Says every finding, the good ones, too, and ends with the verdict. */
  const conclude = Effect.fnUntraced(function* (findings: ReadonlyArray<Finding>, good: string) {
    for (const { about, found, wrong } of findings) {
      yield* say(`${wrong.length === 0 ? "ok   " : "WRONG"}  ${about.padEnd(14)}  ${found}`)
      for (const line of wrong.slice(0, 10)) yield* say(`         ${line}`)
      if (wrong.length > 10) yield* say(`         and ${wrong.length - 10} more`)
    }
    const isGood = findings.every(({ wrong }) => wrong.length === 0)
    yield* say(isGood ? good : "The guarantees did not hold.")
    process.exitCode = isGood ? 0 : 1
  })

  return { directory, say, conclude }
}

export type Report = ReturnType<typeof make>
