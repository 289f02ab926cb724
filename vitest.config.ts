import { availableParallelism } from "node:os"
import { defineConfig } from "vitest/config"

/** The tests that take long by their nature: outages under load, crashes, storms of writers, installing. */
const faults = "test/**/*.faults.test.ts"

export default defineConfig({
  resolve: { conditions: ["@effect-strata/source"] },
  ssr: { resolve: { conditions: ["@effect-strata/source"] } },
  test: {
    globalSetup: "test/support/globalSetup.ts",
    // A busy machine takes ten times as long: a test fails for what it tests, or because it hangs.
    testTimeout: 300_000,
    hookTimeout: 600_000,
    // One more than there are cores, as many a test waits for a server, a process or a time limit.
    maxWorkers: availableParallelism() + 1,
    // A worker loads `effect` once, and not once for each file: this saves 20 of 79 seconds of CPU time of 24 files.
    isolate: false,
    projects: [
      { extends: true, test: { name: "suite", include: ["test/**/*.test.ts"], exclude: [faults] } },
      { extends: true, test: { name: "faults", include: [faults] } }
    ]
  }
})
