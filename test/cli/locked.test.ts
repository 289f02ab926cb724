/** `strata status` and `strata doctor` answer while somebody has locked the tables, and say who that is and how to end it. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { session } from "../postgres/events.harness.ts"
import { execute, query, urlWith } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { jsonLines, strata, strataProcess, succeeds } from "./harness.ts"

const migrated = Effect.gen(function* () {
  const url = yield* scratchDatabase()
  yield* succeeds(["migrate"], { url })
  return url
})

/** A session that calls itself so, and its process. */
const named = Effect.fnUntraced(function* (server: string, application: string) {
  const url = urlWith(({ searchParams }) => searchParams.set("application_name", application), server)
  const run = yield* session(url)
  const [row] = yield* run("SELECT pg_backend_pid() AS pid")
  return { run, pid: Number(Object.values(row ?? {})[0]) }
})

/** What the doctor says of locks. */
const lockedBy = Effect.fnUntraced(function* (url: string) {
  const { status, stdout } = yield* strata(["doctor", "--json"], { url })
  assert.strictEqual(status, 1, stdout)
  const found = jsonLines(stdout)
  assert.isFalse(
    found.some(({ says }) => String(says).includes("could not be checked")),
    stdout
  )
  return found.flatMap(({ check, level, remedy, says }) =>
    check === "locked" ? [`${level}: ${says} -> ${remedy}`] : []
  )
})

it.live("the command ends, names who has locked the log, and what it prints ends the lock", () =>
  Effect.gen(function* () {
    const url = yield* migrated
    const { pid, run } = yield* named(url, "nightly job")
    yield* run("BEGIN")
    yield* run("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    const status = yield* strataProcess(["status"], { url })
    assert.strictEqual(status.status, 1, status.stdout)
    const who = String.raw`events is locked by pid ${pid}, idle in transaction for \d+ s, application 'nightly job'`
    const end = String.raw`SELECT pg_terminate_backend\(${pid}\)`
    assert.match(status.stderr, new RegExp(`^strata: ${who}; .*; .*: ${end}\n$`))
    const doctor = yield* strataProcess(["doctor"], { url })
    assert.strictEqual(doctor.status, 1, doctor.stderr)
    const [statement] = new RegExp(end).exec(doctor.stdout) ?? []
    assert.match(doctor.stdout, new RegExp(`^problem +locked +${who}; .*\n +-> .*: ${end}$`, "m"))
    yield* query(statement ?? "", url)
    yield* succeeds(["status"], { url })
    assert.deepStrictEqual(yield* lockedBy(url), [])
  })
)

it.live("any table can be the one that is locked", () =>
  Effect.gen(function* () {
    const url = yield* migrated
    const { run } = yield* named(url, "other")
    for (const table of ["events_tags", "strata_messages", "strata_migrations"]) {
      yield* run("BEGIN")
      yield* run(`LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`)
      const [found] = yield* lockedBy(url)
      assert.match(found ?? "", new RegExp(`^problem: ${table} is locked by pid`))
      yield* run("ROLLBACK")
    }
  })
)

it.live("of one that waits for the lock itself they say for whom it waits", () =>
  Effect.gen(function* () {
    const url = yield* migrated
    const reader = yield* named(url, "report")
    yield* reader.run("BEGIN")
    yield* reader.run("SELECT FROM events")
    const owner = yield* named(url, "deploy")
    yield* Effect.forkScoped(owner.run("ALTER TABLE events ADD COLUMN more TEXT"))
    const waiting = query(`SELECT FROM pg_locks WHERE pid = ${owner.pid} AND NOT granted`, url)
    yield* Effect.repeat(waiting, { until: ({ length }) => length > 0 })
    const [found, ...others] = yield* lockedBy(url)
    assert.deepStrictEqual(others, [])
    assert.match(
      found ?? "",
      new RegExp(
        String.raw`^problem: events is about to be locked by pid ${owner.pid}, active for \d+ s, application 'deploy', which waits for ` +
          String.raw`pid ${reader.pid}, idle in transaction for \d+ s, application 'report'; .*pg_terminate_backend\(${reader.pid}\)`
      )
    )
    yield* reader.run("COMMIT")
  })
)

it.live("a prepared transaction has no process, and is named by its name", () =>
  Effect.gen(function* () {
    const url = yield* migrated
    const { run } = yield* named(url, "two-phase")
    yield* run("BEGIN")
    yield* run("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    yield* run("PREPARE TRANSACTION 'left behind'")
    const [found] = yield* lockedBy(url)
    yield* execute(["ROLLBACK PREPARED 'left behind'"], url)
    assert.match(
      found ?? "",
      /^problem: events is locked by the prepared transaction 'left behind', for \d+ s.* -> .*: ROLLBACK PREPARED 'left behind'$/
    )
  })
)
