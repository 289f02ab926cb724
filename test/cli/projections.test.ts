/** Projections that run elsewhere, administered by the command: on a server, and on a Postgres inside the process. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { hostname } from "node:os"
import { session } from "../postgres/events.harness.ts"
import { begin, fails, jsonLines, strata } from "./harness.ts"
import { embedded, onServer, prepared } from "./places.ts"

const parkedIds = (text: string) => jsonLines(text).map(({ aggregateId }) => aggregateId)

describe("strata projections retry", () => {
  it.live("has the process that runs it handle what is parked, once the handler is mended", () =>
    Effect.gen(function* () {
      const place = yield* prepared(yield* onServer)
      const { caughtUp, flags, model, open, options, pay, run } = place
      const retry = (...args: ReadonlyArray<string>) => run("projections", "retry", "balances", ...args)
      yield* place.process
      yield* pay("anna", 1, 2)
      yield* pay("bert", 10, 20, 30)
      yield* pay("carl", 100)
      yield* caughtUp
      assert.deepStrictEqual(parkedIds(yield* run("projections", "parked", "balances", "--json")).toSorted(), [
        "bert",
        "carl"
      ])
      const [all] = jsonLines(yield* run("projections", "list", "--json"))
      assert.deepInclude(all, { projectionName: "balances", shards: 2, state: "running", lag: "0", parked: 2 })

      // Who runs it: the process beside the command.
      const who = { host: hostname(), name: "balances.process.ts", isSilent: false }
      const [one, ...others] = jsonLines(yield* run("projections", "processes", "--json"))
      assert.deepInclude(one, { ...who, runs: [{ projectionName: "balances", shards: [0, 1] }] })
      assert.deepStrictEqual(others, [])
      assert.match(String(all?.["runBy"]), /^balances\.process\.ts \(pid \d+ on .+\)$/)
      for (const shard of jsonLines(yield* run("projections", "status", "balances", "--json"))) {
        assert.deepInclude(shard["process"], who)
      }
      const [screen] = jsonLines((yield* strata(["status", "--json", ...flags], options)).stdout)
      assert.lengthOf(Object.values(screen?.["processes"] ?? {}), 1)

      // Nothing has been mended yet.
      const again = yield* fails(
        ["projections", "retry", "balances", ...flags],
        1,
        /^strata: 2 aggregates failed again: parked from there on\n$/,
        options
      )
      assert.match(again.stdout, /^AGGREGATE  STATE   ERROR\n(bert|carl) +parked  Error: no account \w+\n/)
      yield* fails(["projections", "retry", "balances", "anna", ...flags], 1, /^strata: not parked: anna\n$/, options)
      yield* fails(["projections", "retry", "nobody", ...flags], 1, /No projection "nobody" has run/, options)
      yield* fails(["projections", "retry", "balances", "", ...flags], 2, /aggregateIds/, options)

      yield* open("bert")
      assert.deepStrictEqual(jsonLines(yield* retry("bert", "--json")), [
        { aggregateId: "bert", state: "handled", error: null }
      ])
      assert.deepStrictEqual(parkedIds(yield* run("projections", "parked", "balances", "--json")), ["carl"])
      assert.deepStrictEqual(yield* model, { anna: [3, [1, 2]], bert: [60, [10, 20, 30]] })
      yield* open("carl")
      assert.match(yield* retry(), /^AGGREGATE  STATE    ERROR\ncarl       handled\n$/)
      assert.strictEqual(yield* run("projections", "parked", "balances"), "")
      assert.strictEqual(yield* retry(), "")
      yield* pay("bert", 40)
      yield* caughtUp
      assert.deepStrictEqual(yield* model, {
        anna: [3, [1, 2]],
        bert: [100, [10, 20, 30, 40]],
        carl: [100, [100]]
      })
    }).pipe(Effect.scoped)
  )

  it.live("is done by the next process, where one is killed in the middle of it", () =>
    Effect.gen(function* () {
      const { schema, ...rest } = yield* onServer
      const place = yield* prepared({ schema, ...rest })
      const { caughtUp, flags, model, open, options, pay, run } = place
      const killed = yield* place.process
      yield* pay("bert", 10, 20, 30)
      yield* caughtUp
      yield* open("bert")
      // The process that retries waits for this lock, with the request and its effects in an open transaction.
      const other = yield* session()
      yield* other("BEGIN")
      yield* other(`SELECT FROM ${schema}.accounts WHERE id = 'bert' FOR UPDATE`)
      const asking = yield* begin(["projections", "retry", "balances", "--timeout", "60s", "--json", ...flags], options)
      // This takes another session: a transaction goes on seeing this view as it was at its first look.
      const look = yield* session()
      const isWaiting = look(`
          SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE "${schema}".accounts%'`)
      while ((yield* isWaiting).length === 0) yield* look("SELECT 1 FROM pg_sleep(0.05)")
      yield* Effect.sync(() => killed.child.kill("SIGKILL"))
      yield* killed.ended
      const examined = strata(["doctor", "--json", ...flags], options)
      yield* Effect.repeat(
        Effect.map(examined, ({ stdout }) => jsonLines(stdout).find(({ check }) => check === "processes")),
        {
          until: (found) =>
            /^process \d+ on .+ has said nothing for .+ shards of 1 projection$/.test(String(found?.["says"]))
        }
      )
      yield* other("ROLLBACK")
      assert.deepStrictEqual(parkedIds(yield* run("projections", "parked", "balances", "--json")), ["bert"])
      yield* place.process
      const { status, stdout } = yield* asking.ended
      assert.deepStrictEqual([status, jsonLines(stdout)[0]?.["state"]], [0, "handled"])
      assert.deepStrictEqual(yield* model, { anna: [0, []], bert: [60, [10, 20, 30]] })
      assert.strictEqual(yield* run("projections", "parked", "balances"), "")
    }).pipe(Effect.scoped)
  )
})

describe.each([
  ["a server", onServer],
  ["PGlite", embedded]
] as const)("on %s", (_, backend) => {
  it.live("a retry waits for a process, and for a projection that is paused", () =>
    Effect.gen(function* () {
      const place = yield* prepared(yield* backend)
      const { flags, model, open, options, pay, run } = place
      yield* pay("bert", 10, 20)
      yield* place.once
      const retry = (says: RegExp) =>
        fails(["projections", "retry", "balances", "--timeout", "100ms", ...flags], 1, says, options)
      const { stdout } = yield* retry(/^strata: no process runs "balances"; start one, which then retries what was/)
      assert.match(stdout, /^AGGREGATE  STATE    ERROR\nbert       waiting  Error: no account bert\n$/)
      assert.match(yield* run("projections", "parked", "balances"), /RETRY +ERROR\nbert .* asked for +Error/)
      yield* run("projections", "pause", "balances")
      yield* retry(/^strata: "balances" is paused, .*; run: strata projections resume balances\n$/)
      yield* run("projections", "resume", "balances")
      yield* open("bert")
      yield* pay("bert", 30)
      assert.deepStrictEqual(yield* model, { anna: [0, []], bert: [0, []] })
      yield* place.once
      assert.strictEqual(yield* run("projections", "parked", "balances"), "")
      assert.deepStrictEqual(yield* model, { anna: [0, []], bert: [60, [10, 20, 30]] })
    }).pipe(Effect.scoped)
  )
})
