/**
 * The figures of what others have built for the same purpose. They are installed when they are asked for, beside the files
 * that use them: with a `package.json` of theirs here, this package would have another name for all files of the bench.
 */
import { execFileSync } from "node:child_process"
import type { Figure, Latency } from "./harness.ts"

const folder = new URL("peers/", import.meta.url)

/** Installs the peers, unless they are there, and gives their figures. */
export const load = async (): Promise<ReadonlyArray<Figure | Latency>> => {
  // On Windows npm is a script, which needs a shell.
  execFileSync("npm", ["install"], { cwd: folder, stdio: "inherit", shell: process.platform === "win32" })
  // graphile-worker's own test of performance sets it, too: without it each job makes a line of text.
  process.env.NO_LOG_SUCCESS = "1"
  const peers = [
    await import("./peers/graphileWorker.ts"),
    await import("./peers/pgBoss.ts"),
    await import("./peers/persistedQueue.ts"),
    await import("./peers/emmett.ts")
  ]
  return peers.flatMap(({ figures, latencies }) => [figures, latencies]).flat()
}
