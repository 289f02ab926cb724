#!/usr/bin/env node
// The packages that the command needs are optional peers of the library, so they may be missing. Then this file names
// the missing package and the remedy, instead of Node's stack.
try {
  const { main } = await import("./main.ts")
  main()
} catch (error) {
  const missing = error instanceof Error ? /Cannot find package '([^']+)'/.exec(error.message)?.[1] : undefined
  if (missing === undefined) throw error
  process.stderr.write(
    `strata: ${missing} is not installed; run: npm install effect @effect/platform-node @effect/sql-pg\n`
  )
  process.exitCode = 1
}
