/** A command that is interrupted says how to go on, and goes on when it is run again. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readdir, readFile, utimes, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { session } from "../postgres/events.harness.ts"
import { execute, freshSchema, query } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { begin, start, succeeds, temporaryDirectory } from "./harness.ts"

/** A log of 250 events, and 30 messages that have bounced. */
const filled = Effect.fnUntraced(function* (...flags: ReadonlyArray<string>) {
  const schema = yield* freshSchema()
  const directory = yield* temporaryDirectory
  const options = { url: postgresUrl, env: { DB_SCHEMA: schema, DB_ARCHIVE_DIR: directory } }
  yield* succeeds(["migrate", ...flags], options)
  yield* execute([
    `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data)
     SELECT 'e' || n, 'a', 'T', to_jsonb(n) FROM generate_series(1, 250) AS n`
  ])
  return { schema, directory, options }
})

/** Runs a command until it waits for what another session holds, interrupts it, and lets go. Returns what it has said. */
const interrupted = Effect.fnUntraced(function* (
  args: ReadonlyArray<string>,
  options: Parameters<typeof begin>[1] & { readonly env: { readonly DB_SCHEMA: string } },
  hold: string
) {
  const run = yield* session()
  yield* run("BEGIN")
  yield* run(hold)
  const running = yield* begin(args, options)
  const waiting = `
    SELECT 1 FROM pg_stat_activity AS a WHERE wait_event_type = 'Lock' AND query LIKE '%${options.env.DB_SCHEMA}%'
      OR EXISTS (SELECT 1 FROM pg_locks AS l WHERE l.pid = a.pid AND NOT granted AND l.relation IN
        (SELECT oid FROM pg_class WHERE relnamespace = '${options.env.DB_SCHEMA}'::regnamespace))`
  while (running.isRunning() && (yield* query(waiting)).length === 0) yield* query("SELECT pg_sleep(0.02) IS NULL")
  yield* running.interrupt
  const { status, stderr, stdout } = yield* running.ended
  yield* run("ROLLBACK")
  assert.deepStrictEqual([status, stdout], [130, ""], stderr)
  return stderr
})

const goesOn = "strata: interrupted; run it again to go on\n"

describe("a command that is interrupted says that it goes on, and goes on:", () => {
  it.live("events export", () =>
    Effect.gen(function* () {
      const { directory, options, schema } = yield* filled()
      const file = join(directory, "events.jsonl")
      assert.strictEqual(yield* interrupted(["events", "export", file], options, `LOCK TABLE ${schema}.events`), goesOn)
      yield* succeeds(["events", "export", file], options)
      assert.lengthOf((yield* Effect.promise(() => readFile(file, "utf8"))).trim().split("\n"), 251)
    }).pipe(Effect.scoped)
  )

  it.live("migrate", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* filled()
      const args = ["migrate", "--partitions", "100"]
      assert.strictEqual(yield* interrupted(args, options, `LOCK TABLE ${schema}.events`), goesOn)
      yield* succeeds(args, options)
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${schema}.events`), [[250]])
    }).pipe(Effect.scoped)
  )

  it.live("archive and restore", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* filled("--partitions", "100")
      const archive = ["archive", "--before", "200"]
      assert.strictEqual(yield* interrupted(archive, options, `LOCK TABLE ${schema}.events`), goesOn)
      yield* succeeds(archive, options)
      assert.strictEqual(yield* interrupted(["restore"], options, `LOCK TABLE ${schema}.events_archives`), goesOn)
      yield* succeeds(["restore"], options)
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${schema}.events`), [[250]])
    }).pipe(Effect.scoped)
  )

  it.live("spool requeue", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* filled()
      yield* execute([
        `INSERT INTO ${schema}.strata_messages (queue, id, state, attempts, max_attempts, created, updated, next_retry, payload)
         SELECT 'q', 'm' || n, 4, 5, 5, now(), now(), now(), '1' FROM generate_series(1, 30) AS n`
      ])
      const args = ["spool", "requeue", "--queue", "q", "--state", "bounce", "--yes"]
      const held = `SELECT FROM ${schema}.strata_messages WHERE id = 'm7' FOR UPDATE`
      assert.match(yield* interrupted(args, options, held), /interrupted after \d+ messages; run it again to go on\n$/)
      yield* succeeds(args, options)
      const states = `SELECT state::int, count(*)::int FROM ${schema}.strata_messages GROUP BY 1`
      assert.deepStrictEqual(yield* query(states), [[0, 30]])
    }).pipe(Effect.scoped)
  )
})

describe("an import that is killed", () => {
  it.live("leaves a draft of the file of versions, which a later import removes once nobody writes it", () =>
    Effect.gen(function* () {
      const { directory, options, schema } = yield* filled()
      const file = join(directory, "events.jsonl")
      yield* succeeds(["events", "export", file], options)
      const other = yield* freshSchema()
      yield* succeeds(["migrate", "--schema", other], options)
      const run = yield* session()
      yield* run("BEGIN")
      yield* run(`LOCK TABLE ${other}.events IN EXCLUSIVE MODE`)
      const importing = yield* start(["events", "import", file, "--schema", other], { ...options, input: "" })
      const files = Effect.promise(async () => (await readdir(directory)).toSorted())
      yield* Effect.repeat(files, { until: (names) => names.length > 1 })
      importing.child.kill("SIGKILL")
      yield* importing.ended
      yield* run("ROLLBACK")
      const versions = "events.jsonl.versions.jsonl"
      const [events, left = ""] = yield* files
      assert.strictEqual(events, "events.jsonl")
      assert.match(left, /^events\.jsonl\.versions\.jsonl\.[\da-f-]{36}\.draft$/)
      yield* succeeds(["events", "import", file, "--schema", other], options)
      // It may be one that another process writes.
      assert.deepStrictEqual(yield* files, [events, versions, left])
      const before = Date.now() / 1000 - 7200
      yield* Effect.promise(async () => {
        await utimes(join(directory, left), before, before)
        await writeFile(join(directory, `${versions}.mine.draft`), "mine")
        await utimes(join(directory, `${versions}.mine.draft`), before, before)
      })
      yield* succeeds(["events", "import", file, "--schema", other], options)
      assert.deepStrictEqual(yield* files, [events, versions, `${versions}.mine.draft`])
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${other}.events`), [[250]])
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${schema}.events`), [[250]])
    }).pipe(Effect.scoped)
  )
})
