/** What the tests of logs that are divided share: the process that does so, and what halts it at a step. */
import { Effect, Fiber } from "effect"
import { fileURLToPath } from "node:url"
import { startScript } from "../support/scripts.ts"
import { session } from "./events.harness.ts"

const script = fileURLToPath(new URL("fixtures/migrating.ts", import.meta.url))

/** A process that divides the log of a database. It is killed with the scope. */
export const dividing = (url: string, stdio: "inherit" | "ignore" = "inherit") =>
  startScript(script, [url, "10000"], { stdio })

/**
 * Keeps out all migrations of a database, until one of their transactions may pass. Each of them has the lock of all
 * migrations, so none is under way where `pass` has returned, and at most one has been since it was called.
 */
const halting = Effect.fnUntraced(function* (url: string) {
  const opened = Effect.gen(function* () {
    const run = yield* session(url)
    const [row] = yield* run("SELECT pg_backend_pid() AS pid")
    return { run, pid: Number(Object.values(row ?? {})[0]) }
  })
  const take = "SELECT pg_advisory_lock(hashtextextended('effect-strata', 0))"
  const give = "SELECT pg_advisory_unlock_all()"
  let [holder, next] = [yield* opened, yield* opened]
  yield* holder.run(take)
  return {
    run: (statement: string) => Effect.suspend(() => holder.run(statement)),
    pass: Effect.gen(function* () {
      const taking = yield* Effect.forkScoped(next.run(take))
      // Those who wait get the lock in turn: what migrates does not get it twice before this session.
      const waiting = `SELECT FROM pg_locks WHERE pid = ${next.pid} AND NOT granted`
      yield* Effect.repeat(holder.run(waiting), { until: (rows) => rows.length > 0 })
      yield* holder.run(give)
      yield* Fiber.join(taking)
      ;[holder, next] = [next, holder]
    }),
    goOn: Effect.suspend(() => holder.run(give))
  }
})

/** The ends of the transactions of a process that divides a log: what finds a row from then on. */
export const ends = {
  gathering: "FROM pg_class WHERE relname = 'events_gathered'",
  gathered: "FROM events_gathered WHERE version = 1",
  limited: "FROM pg_constraint WHERE conname = 'events_first' AND NOT convalidated",
  validated: "FROM pg_constraint WHERE conname = 'events_first' AND convalidated"
}

/**
 * Divides the log of a database up to these ends, which come one after the other. There the process is halted, until it may go
 * on.
 */
export const dividedTo = Effect.fnUntraced(function* (url: string, ...upTo: ReadonlyArray<string>) {
  const { goOn, pass, run } = yield* halting(url)
  const child = yield* dividing(url, "ignore")
  const early = Effect.flatMap(child.ended, (code) =>
    Effect.die(new Error(`it has ended with ${code} before the step`))
  )
  yield* Effect.gen(function* () {
    for (const end of upTo) while ((yield* run(`SELECT ${end}`)).length === 0) yield* Effect.delay(pass, 10)
  }).pipe(Effect.raceFirst(early))
  return { ...child, early, goOn }
})

/**
 * Divides the log of a database until all is prepared. A reader is in the way, and the process waits for the table again and
 * again.
 */
export const dividedToReader = Effect.fnUntraced(function* (url: string) {
  const child = yield* dividedTo(url, ends.validated)
  const reader = yield* session(url)
  yield* reader("BEGIN")
  yield* reader("SELECT FROM events LIMIT 1")
  yield* child.goOn
  const waiting = "mode = 'AccessExclusiveLock' AND NOT granted AND relation = 'events'::regclass"
  yield* Effect.delay(reader(`SELECT FROM pg_locks WHERE ${waiting}`), 10).pipe(
    Effect.repeat({ until: (rows) => rows.length > 0 }),
    Effect.raceFirst(child.early)
  )
  return child
})
