#!/usr/bin/env node
// The packages that the command needs are optional to all else, so they may be missing: say so, instead of a stack.
try {
  await import("./main.ts")
} catch (error) {
  const missing = error instanceof Error ? /Cannot find package '([^']+)'/.exec(error.message)?.[1] : undefined
  if (missing === undefined) throw error
  process.stderr.write(
    `strata: ${missing} is not installed; run: npm install effect @effect/platform-node @effect/sql-pg\n`
  )
  process.exitCode = 1
}
