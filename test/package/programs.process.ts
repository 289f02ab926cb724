/**
 * Runs the programs of a document one after the other, in one process: each begins when nothing of the one before it is
 * left to do. A line before each says which one it is.
 */
import { pathToFileURL } from "node:url"

const programs = process.argv.slice(2)

process.on("beforeExit", () => {
  const next = programs.shift()
  if (next === undefined) return
  process.stdout.write(`\u0001${next}\n`)
  // An import by itself does not keep a process alive. One that fails ends it, as any rejection that nobody handles does.
  const alive = setInterval(() => {}, 1000)
  void import(pathToFileURL(next).href).finally(() => clearInterval(alive))
})
