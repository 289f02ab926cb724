/** What the command shows of a database with little in it, with much, and with long names. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { EventStore, Projection } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { ProjectionFailed } from "../../src/projection/Errors.ts"
import { execute, freshSchema } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { clientOf } from "./balances.ts"
import { beginOnTerminal, jsonLines, succeeds } from "./harness.ts"

const escape = "\u001b"

const migrated = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
  yield* succeeds(["migrate"], options)
  return { schema, options }
})

/** Runs a projection until it has handled all events. */
const runOnce = (schema: string, name: string) =>
  Effect.raceFirst(
    Projection.run(Projection.make({ name, handler: () => Effect.void })),
    Effect.flatMap(
      EventStore.EventStore.use(({ latestVersion }) => latestVersion),
      (version) => Projection.awaitVersion(name, version, "4 minutes")
    )
  ).pipe(Effect.provide(Layer.fresh(Layer.provideMerge(Postgres.layerStorage({ schema }), clientOf(postgresUrl)))))

const insertStates = (schema: string, count: number) =>
  execute([
    `INSERT INTO ${schema}.states_store
       (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
     SELECT 'account-' || n, 1, '1', 'm', 0, 0 FROM generate_series(1, ${count}) AS n`
  ])

const status = (options: Parameters<typeof succeeds>[1]) =>
  Effect.all([
    Effect.map(succeeds(["status"], options), (text) => /^states +(.*)$/m.exec(text)?.[1]),
    Effect.map(succeeds(["status", "--json"], options), (text) => jsonLines(text)[0]?.["states"])
  ])

describe("a screen", () => {
  it.live("counts states where they are few, those of projections apart, and estimates where they are many", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* migrated
      yield* succeeds(["events", "append", "--aggregate", "a", "--type", "T"], options)
      yield* runOnce(schema, "balances")
      assert.deepStrictEqual(yield* status(options), ["0", "0"])
      yield* insertStates(schema, 4)
      assert.deepStrictEqual(yield* status(options), ["4", "4"])
      const listed = jsonLines(yield* succeeds(["states", "list", "--json"], options))
      assert.deepStrictEqual(
        listed.map(({ persistenceId }) => persistenceId),
        ["account-1", "account-2", "account-3", "account-4"]
      )
      const all = jsonLines(yield* succeeds(["states", "list", "--all", "--json"], options))
      assert.include(
        all.map(({ persistenceId }) => persistenceId),
        "strata/projection/control/balances"
      )
      assert.isAbove(all.length, 4)

      yield* execute([`DELETE FROM ${schema}.states_store`])
      yield* insertStates(schema, 20_000)
      yield* execute([`ANALYZE ${schema}.states_store`])
      assert.deepStrictEqual(yield* status(options), ["about 20,000", "20000"])
    }).pipe(Effect.scoped)
  )

  it.live("has the same colour for the same type of events, on a terminal that has colours", () =>
    Effect.gen(function* () {
      const { options } = yield* migrated
      for (const type of ["Paid", "Opened", "Paid"]) {
        yield* succeeds(
          ["events", "append", "--aggregate", "a", "--type", type, "--data", `{"text":"${"x".repeat(80)}"}`],
          options
        )
      }
      const tail = Effect.fnUntraced(function* (env: Record<string, string>) {
        const args = ["events", "tail", "--after", "start"]
        const running = yield* beginOnTerminal(args, { ...options, env: { ...options.env, ...env } })
        yield* running.says(/Paid[^]*Opened[^]*Paid[^]*…/)
        yield* running.interrupt
        return (yield* running.ended).stdout
      })
      const plain = yield* tail({})
      assert.notInclude(plain, escape)
      const coloured = yield* tail({ NO_COLOR: "" })
      const codes = [...coloured.matchAll(new RegExp(`${escape}\\[(\\d+)m(\\w+) *${escape}\\[0m`, "g"))].map(
        ([, code, type]) => [type, code]
      )
      assert.deepStrictEqual(
        codes.map(([type]) => type),
        ["Paid", "Opened", "Paid"]
      )
      assert.strictEqual(codes[0]?.[1], codes[2]?.[1])
      assert.notStrictEqual(codes[0]?.[1], codes[1]?.[1])
      // Nothing else is different, and no line is longer.
      assert.strictEqual(coloured.replaceAll(new RegExp(`${escape}\\[\\d+m`, "g"), ""), plain)
      assert.isFalse(
        (yield* succeeds(["events", "read"], { ...options, env: { ...options.env, NO_COLOR: "" } })).includes(escape)
      )
    }).pipe(Effect.scoped)
  )

  it.live("has its columns under their titles, however long a name is", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* migrated
      yield* succeeds(["events", "append", "--aggregate", "a", "--type", "T"], options)
      const names = ["a", "balances of all accounts that anybody has ever opened", "z"]
      for (const name of names) yield* runOnce(schema, name)
      yield* execute([
        `INSERT INTO ${schema}.offsets_store (projection_name, shard_number, current_offset, timestamp)
         SELECT repeat('p', n), n, n, 0 FROM generate_series(1, 200) AS n`
      ])
      for (const [args, count] of [
        [["projections", "list"], 3],
        [["offsets", "list"], 203]
      ] as const) {
        const lines = (yield* succeeds(args, options)).trimEnd().split("\n")
        assert.strictEqual(lines.length, 1 + count)
        const [header = "", ...rows] = lines
        const end = header.indexOf("SHARD") + (args[0] === "projections" ? "SHARDS" : "SHARD").length
        for (const row of rows) assert.match(row.slice(0, end), / \d+$/, lines.join("\n"))
      }
    }).pipe(Effect.scoped)
  )
})

it("an error says how often the handler has failed", () => {
  const failed = (attempts: number) =>
    new ProjectionFailed({
      projectionName: "p",
      shardNumber: 0,
      version: 1n,
      eventId: "e",
      aggregateId: "a",
      eventType: "T",
      attempts,
      cause: "no"
    }).message
  assert.include(failed(1), "the handler failed once;")
  assert.include(failed(2), "the handler failed twice;")
  assert.include(failed(6), "the handler failed 6 times;")
})
