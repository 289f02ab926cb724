/** Content that takes time out of all proportion, or more of the stack than there is. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Stream } from "effect"
import { spawnSync } from "node:child_process"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { assertFailed, fails, node, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { serveEvents } from "../postgres/events.harness.ts"
import { execute } from "../postgres/harness.ts"
import { withDatabase } from "../support/database.ts"

const script = fileURLToPath(new URL("patterns.process.ts", import.meta.url))

/** What is linear takes seconds. What is not takes hours. */
const limitMillis = 240_000

const insert = (id: string, json: string) =>
  `INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('${id}', 'a', 'T', ${json})`

const nested = (levels: number) => `${"[".repeat(levels)}${"]".repeat(levels)}`

describe("content", () => {
  it("takes no more time than it is long, in every regular expression and for every number", () => {
    const [program = "", ...args] = node(script, [])
    const { signal, stderr, stdout } = spawnSync(program, args, {
      timeout: limitMillis,
      killSignal: "SIGKILL",
      encoding: "utf8"
    })
    assert.deepStrictEqual([signal, stderr], [null, ""], stdout)
    assert.isAtLeast(stdout.match(/^expression \//gm)?.length ?? 0, 20, stdout)
    assert.match(
      stdout,
      /as many URLs: 4750000\na long number: undefined\na long number in a text: string\na message of spaces: \d+\n$/
    )
  })

  it.live("a number of 100 KB and JSON of 5,000 levels are rows that cannot be read, and no more", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      const into = (id: string, json: string) => insert(id, json).replace("events", table)
      yield* execute([
        into("number", `('1' || repeat('0', 100000) || '1')::jsonb`),
        into("levels", `'${nested(5000)}'`),
        into("deepest", `'${nested(500)}'`),
        into("fraction", `('[0.' || repeat('1', 16000) || ']')::jsonb`)
      ])
      for (const [id, says] of [
        ["number", /JavaScript cannot hold the number 1000000/],
        ["levels", /JSON of more than 500 levels/],
        ["fraction", /JavaScript cannot hold the number 0\.1111/]
      ] as const) {
        const exit = yield* Effect.exit(events.get(id))
        assert.match(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", says)
      }
      const [read] = yield* Stream.runCollect(events.read({ after: 2n, limit: 1 }))
      assert.strictEqual(JSON.stringify(read?.data), nested(500))
    })
  )

  it.live("import has the limits of append, and the command can show whatever it reads", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        const directory = yield* temporaryDirectory
        const importing = Effect.fnUntraced(function* (name: string, data: string, metadata = "null") {
          const file = join(directory, `${name}.jsonl`)
          const event = `{"id":"${name}","aggregateId":"a","eventType":"T","data":${data},"metadata":${metadata}}\n`
          yield* Effect.promise(() => writeFile(file, event))
          const sqlite = join(directory, `${name}.db`)
          const database = new DatabaseSync(sqlite)
          database.exec(`CREATE TABLE events (version INTEGER PRIMARY KEY, id TEXT, aggregate_id TEXT, event_type TEXT,
            data TEXT, metadata TEXT, created_at TEXT)`)
          database
            .prepare("INSERT INTO events VALUES (1, ?, 'a', 'T', ?, ?, '2026-01-31T12:00:00Z')")
            .run(`${name}-sqlite`, data, metadata)
          database.close()
          return [
            ["events", "import", "--unchecked", file],
            ["events", "import", "--sqlite", sqlite]
          ] as const
        })
        for (const [name, data, says, metadata] of [
          ["number", `1${"0".repeat(100_000)}1`, /a number of more than 1000 digits/],
          ["exponent", "1e131000", /a number of more than 1000 digits/],
          ["fraction", "[1.5E-16000]", /a number of more than 1000 digits/],
          ["levels", nested(501), /more than 500 levels/],
          ["metadata", "1", /more than 500 levels/, `{"a":${nested(500)}}`],
          ["many", nested(5000), /more than 500 levels/]
        ] as const) {
          for (const args of yield* importing(name, data, metadata)) yield* fails(args, 1, says, { url })
        }
        for (const args of yield* importing("deepest", nested(500))) yield* succeeds(args, { url })
        const deepest = (yield* strata(["events", "show", "deepest", "--json"], { url })).stdout
        assert.include(deepest, `"data":${nested(500)}`)
        yield* succeeds(["events", "read"], { url })
        yield* fails(["events", "append", "--aggregate", "a", "--type", "T", "--data", nested(501)], 2, /500 levels/, {
          url
        })

        yield* execute([insert("others", `'${nested(5000)}'`)], url)
        for (const args of [
          ["events", "read"],
          ["events", "read", "--json"],
          ["events", "show", "others"]
        ]) {
          assertFailed(args, yield* strata(args, { url }), 1, /more than 500 levels/)
        }
        yield* execute(
          [
            `INSERT INTO states_store (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
             VALUES ('deep', 1, convert_to('${nested(20_000)}', 'UTF8'), 'm', 0, 0)`
          ],
          url
        )
        assert.include(yield* succeeds(["states", "show", "deep"], { url }), "base64")
      })
    )
  )
})
