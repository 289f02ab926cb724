/**
 * A log is to be divided, and what does so ends at some step: killed, or by a crash of the server. Then it goes on, or is given
 * up.
 */
import { assert, describe, it } from "@effect/vitest"
import { Console, Effect } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { jsonLines, strata } from "../cli/harness.ts"
import { fillStatements } from "../support/largeLogs.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { event, plainInsert, serveEvents, session, versionsIn } from "./events.harness.ts"
import { execute, migrate, query } from "./harness.ts"

const eventCount = 100_000

const script = fileURLToPath(new URL("fixtures/migrating.ts", import.meta.url))

const has = (relation: string) => `EXISTS (SELECT FROM pg_class WHERE relname = '${relation}')`

/** What the server says once the process has come so far, and what the doctor says of a log that is left there. */
const steps = [
  {
    name: "the trigger gathers ids",
    isThere: has("events_gathered"),
    says: /^warning: .*also writes its ids to events_gathered/
  },
  {
    name: "some ids are gathered",
    isThere: `${has("events_gathered")} AND (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM events_gathered', false, true, '')))[1]::text::int > 0`,
    says: /^warning: .*also writes its ids to events_gathered/
  },
  {
    name: "the versions are limited",
    isThere: "EXISTS (SELECT FROM pg_constraint WHERE conname = 'events_first')",
    says: /^warning: .*appends are refused from version \d+ on, \d+ versions from here/
  },
  {
    name: "it waits for the table",
    isThere:
      "EXISTS (SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted AND relation = 'events'::regclass)",
    says: /^warning: .*appends are refused from version \d+ on, \d+ versions from here/
  }
]

/** Begins to divide the log of a database, and ends that by `end` once the server says that it has come to a step. */
const ended = Effect.fnUntraced(function* (
  url: string,
  step: (typeof steps)[number],
  end: (kill: () => boolean) => Effect.Effect<unknown, unknown>
) {
  // A reader is in the way of the last step alone: it comes once the limit is there.
  const isLast = step === steps.at(-1)
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, ["--conditions=@effect-strata/source", script, url, "10000"], { stdio: "ignore" })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const closed = once(child, "close")
  const until = (isThere: string) =>
    Effect.repeat(query(`SELECT WHERE ${isThere}`, url), { until: (rows) => rows.length > 0 })
  if (isLast) {
    yield* until(steps[2]?.isThere ?? "true")
    const reader = yield* session(url)
    yield* reader("BEGIN")
    yield* reader("SELECT FROM events LIMIT 1")
  }
  yield* until(step.isThere)
  yield* end(() => child.kill("SIGKILL"))
  yield* Effect.promise(() => closed)
}, Effect.scoped)

const findings = (url: string) =>
  Effect.map(strata(["doctor", "--json"], { url }), ({ stdout }) =>
    jsonLines(stdout).filter(({ check }) => check === "partitions")
  )

describe("a log that is being divided", () => {
  it.live("is found by the doctor wherever that was ended, and goes on, or is given up by what the doctor says", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make({ settings: { fsync: "on" } })
      let number = 0
      for (const [how, end] of [
        ["the process was killed", (kill: () => boolean) => Effect.sync(kill)],
        ["the server crashed", () => server.restart("immediate")]
      ] as const) {
        for (const step of steps) {
          for (const after of ["goes on", "is given up"] as const) {
            const name = `step_${number++}`
            yield* execute([`CREATE DATABASE ${name}`], server.url)
            const url = Object.assign(new URL(server.url), { pathname: `/${name}` }).href
            yield* migrate(url, { schema: "public" })
            yield* execute(fillStatements("public.events", eventCount), url)
            yield* ended(url, step, end)
            yield* Console.log(`${how} when ${step.name}: ${after}`)
            const found = yield* findings(url)
            assert.strictEqual(found.length, 1, JSON.stringify(found))
            const [{ level, remedy, says } = {}] = found
            assert.match(`${level}: ${says}`, step.says)
            // Whoever appends meanwhile does not notice.
            yield* execute([plainInsert("events", "meanwhile")], url)
            if (after === "is given up") {
              const statements = /as the owner: (.*)$/.exec(String(remedy))?.[1]?.split("; ") ?? []
              assert.strictEqual(statements.length, 3)
              yield* execute(statements, url)
              assert.deepStrictEqual(yield* findings(url), [])
              assert.deepStrictEqual(
                yield* query(
                  `SELECT relname::text FROM pg_class WHERE relname LIKE 'events_gather%'
                   UNION ALL SELECT proname::text FROM pg_proc WHERE proname LIKE 'events_gather%'
                   UNION ALL SELECT conname::text FROM pg_constraint WHERE conname = 'events_first'
                   UNION ALL SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'events_gather%'`,
                  url
                ),
                []
              )
              yield* execute([plainInsert("events", "given up")], url)
            }
            yield* migrate(url, { schema: "public", partitions: { size: 10_000n } })
            assert.match(String((yield* findings(url))[0]?.["says"]), /^\d+ of 10000 versions each/)
            yield* Effect.scoped(
              Effect.gen(function* () {
                const { events } = yield* serveEvents({ url, options: { schema: "public" } })
                assert.strictEqual((yield* Effect.flip(events.append(event("a", "meanwhile"))))._tag, "DuplicateEvent")
                yield* events.append(event("a", "afterwards"))
                assert.strictEqual(
                  (yield* versionsIn("events", "true", url)).length,
                  eventCount + (after === "is given up" ? 3 : 2)
                )
                assert.deepStrictEqual(
                  yield* query(
                    `SELECT count(*)::int FROM events FULL JOIN events_ids USING (id, version) WHERE event_type IS NULL OR events_ids.id IS NULL`,
                    url
                  ),
                  [[0]]
                )
              })
            )
            yield* execute([`DROP DATABASE ${name} WITH (FORCE)`], server.url)
          }
        }
      }
    }).pipe(Effect.scoped)
  )
})
