/**
 * What is stored, and what others say, is not trusted: no part of it moves the cursor of the operator's terminal, colours it,
 * or looks like a line of the command's own.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { type Ended, jsonLines, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { execute } from "../postgres/harness.ts"
import { withDatabase } from "../support/database.ts"
import { assertHarmless, hostileText } from "./hostile.ts"

const assertQuiet = ({ stderr, stdout }: Ended) => {
  assertHarmless(stdout)
  assertHarmless(stderr)
}

/** Runs a command that fails, and asserts that it says so in one harmless line. */
const failsQuietly = (args: ReadonlyArray<string>, says: RegExp, url: string) =>
  Effect.map(strata(args, { url }), (ended) => {
    const shown = `${args.join(" ")}\n${ended.stdout}${ended.stderr}`
    assert.notStrictEqual(ended.status, 0, shown)
    assert.match(ended.stderr, says)
    assertQuiet(ended)
    const lines = ended.stderr.trimEnd().split("\n")
    assert.isTrue(
      lines.every((line) => /^(strata: |Run strata )/.test(line)),
      shown
    )
  })

const event = (data: unknown) =>
  `${JSON.stringify({ id: hostileText, aggregateId: hostileText, eventType: hostileText, data, metadata: { [hostileText]: hostileText } })}\n`

describe("the terminal of an operator", () => {
  it.live("failures name what was asked for, in one line", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        yield* failsQuietly(["events", "show", hostileText], /No event has the id/, url)
        yield* failsQuietly(["states", "show", hostileText], /has no state/, url)
        yield* failsQuietly(["spool", "show", hostileText], /message/, url)
        yield* failsQuietly(["projections", "status", hostileText], /projection/, url)
        yield* failsQuietly(["offsets", "delete", hostileText], /no terminal to ask on/, url)
        yield* failsQuietly([hostileText], /Unknown subcommand/, url)
        yield* failsQuietly(["events", "read", "--limit", hostileText], /limit/, url)
        yield* failsQuietly(["events", "read", "--type", hostileText, "--after", hostileText], /after/, url)
        yield* failsQuietly(["events", "read", "--schema", hostileText], /strata: /, url)
        yield* failsQuietly(["events", "import", hostileText], /no such file/, url)
        yield* failsQuietly(["events", "import", "--sqlite", hostileText], /no file/, url)
        yield* failsQuietly(["events", "read", "--pglite", hostileText], /there is no database/, url)
      })
    )
  )

  it.live("the error of the server names a function of somebody else", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        yield* execute(
          [
            String.raw`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
              RAISE EXCEPTION E'no\nstrata: all is well\x1b[31m' USING DETAIL = E'\x1b]0;title\x07'; END$$`,
            "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()"
          ],
          url
        )
        const append = ["events", "append", "--aggregate", "a", "--type", "T"]
        yield* failsQuietly(append, /strata: .*no/, url)
        const ended = yield* strata([...append, "--verbose"], { url })
        assertQuiet(ended)
        assert.match(ended.stderr, /^ +at /m)
      })
    )
  )

  it.live("progress names events, and the log of the stores prepared transactions", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        const file = join(yield* temporaryDirectory, "events.jsonl")
        yield* Effect.promise(() => writeFile(file, event(1)))
        const compared = yield* strata(["events", "import", "--unchecked", "--verify", file], { url })
        assert.include(compared.stderr, "is not in the log")
        assertQuiet(compared)

        // The identifier of a prepared transaction is free text, and stands in the warnings of what it holds up.
        const gid = String.raw`E'gid\nstrata: all is well\x1b[31m'`
        yield* execute(
          [
            "BEGIN",
            "INSERT INTO events (id, aggregate_id, event_type, data) VALUES ('held', 'a', 'T', 'null')",
            `PREPARE TRANSACTION ${gid}`
          ],
          url
        )
        yield* Effect.gen(function* () {
          const doctor = yield* strata(["doctor"], { url })
          assert.include(doctor.stdout, "prepared transaction")
          assertQuiet(doctor)
          assertQuiet(yield* strata(["status"], { url }))
          assertQuiet(yield* strata(["doctor", "--json"], { url }))
        }).pipe(Effect.ensuring(Effect.orDie(execute([`ROLLBACK PREPARED ${gid}`], url))))
      })
    )
  )

  it.live("tables, records, JSON and exports show what is stored", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        const file = join(yield* temporaryDirectory, "events.jsonl")
        yield* Effect.promise(() => writeFile(file, event({ [hostileText]: [hostileText] })))
        const imported = yield* strata(["events", "import", "--unchecked", file], { url })
        assert.strictEqual(imported.status, 0, imported.stderr)
        yield* succeeds(["offsets", "set", hostileText, "0", "1", "--yes"], { url })
        yield* execute(
          [
            `INSERT INTO states_store (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
             VALUES (E'id\\nstrata: all is well\\x1b[31m\\u2028\\u202e', 1, '"x"', E'\\x1b[31m', 0, 0)`
          ],
          url
        )
        for (const args of [
          ["events", "read"],
          ["events", "read", "--json"],
          ["events", "show", hostileText],
          ["events", "show", hostileText, "--json"],
          ["events", "stats"],
          ["events", "stats", "--json"],
          ["events", "export"],
          ["offsets", "list"],
          ["offsets", "list", "--json"],
          ["states", "list"],
          ["states", "list", "--json"],
          ["status"],
          ["status", "--json"]
        ]) {
          const ended = yield* strata(args, { url })
          assert.strictEqual(ended.status, 0, `${args.join(" ")}\n${ended.stderr}`)
          assertQuiet(ended)
        }
        // A program reads the same text from it.
        const [read] = jsonLines((yield* strata(["events", "read", "--json"], { url })).stdout)
        assert.strictEqual(read?.["id"], hostileText)
        assert.deepStrictEqual(read?.["data"], { [hostileText]: [hostileText] })

        const exported = join(yield* temporaryDirectory, "exported.jsonl")
        yield* succeeds(["events", "export", exported], { url })
        yield* succeeds(["events", "import", "--verify", exported], { url })
      })
    )
  )
})
