/** What the command does only on a terminal. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { withDatabase } from "../support/database.ts"
import { noTerminal, startOnTerminal, succeeds, temporaryDirectory } from "./harness.ts"

const onTerminal = (name: string, body: (url: string) => Effect.Effect<void, unknown, never>) =>
  it.live(name, ({ skip }) =>
    Effect.suspend(() => (noTerminal === undefined ? withDatabase(body) : Effect.sync(() => skip(noTerminal))))
  )

const prepared = (url: string) =>
  Effect.gen(function* () {
    yield* succeeds(["migrate"], { url })
    yield* succeeds(["offsets", "set", "accounts", "0", "7", "--yes"], { url })
  })

const offset = (url: string) => Effect.map(succeeds(["offsets", "list", "--json"], { url }), (text) => text)

describe("on a terminal", () => {
  onTerminal("a destructive subcommand asks, and does what it is told", (url) =>
    Effect.gen(function* () {
      yield* prepared(url)
      const refused = yield* startOnTerminal(["offsets", "delete", "accounts"], { url })
      yield* refused.says("Delete every offset")
      yield* refused.type("n")
      const { status, stdout } = yield* refused.ended
      assert.strictEqual(status, 1, stdout)
      assert.include(stdout, "nothing was done")
      assert.include(yield* offset(url), `"value":"7"`)

      const agreed = yield* startOnTerminal(["offsets", "delete", "accounts"], { url })
      yield* agreed.says("Delete every offset")
      yield* agreed.type("y")
      const ended = yield* agreed.ended
      assert.strictEqual(ended.status, 0, ended.stdout)
      assert.strictEqual(yield* offset(url), "")
    }).pipe(Effect.scoped)
  )

  onTerminal("Ctrl-C in a question and in a tail ends it at once, and nothing is done", (url) =>
    Effect.gen(function* () {
      yield* prepared(url)
      const asking = yield* startOnTerminal(["offsets", "delete", "accounts"], { url })
      yield* asking.says("Delete every offset")
      yield* asking.type("\u0003")
      assert.strictEqual((yield* asking.ended).status, 130)
      assert.include(yield* offset(url), `"value":"7"`)

      yield* succeeds(["events", "append", "--aggregate", "a", "--type", "T"], { url })
      const tail = yield* startOnTerminal(["events", "tail", "--after", "start"], { url })
      yield* tail.says("VERSION")
      yield* tail.type("\u0003")
      const { status, stdout } = yield* tail.ended
      assert.strictEqual(status, 130)
      assert.notMatch(stdout, /strata:|^\s+at /m)
    }).pipe(Effect.scoped)
  )

  onTerminal(
    "says that there is nothing, cuts what is too wide, and sends no control characters of stored text",
    (url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        const nothing = yield* startOnTerminal(["events", "read"], { url })
        assert.include((yield* nothing.ended).stdout, "no events")

        const data = JSON.stringify({ text: "x".repeat(200) })
        yield* succeeds(["events", "append", "--aggregate", "\u001b[31mred", "--type", "T", "--data", data], { url })
        const wide = yield* startOnTerminal(["events", "read"], { url })
        const { stdout } = yield* wide.ended
        const lines = stdout.trimEnd().split(/\r?\n/)
        assert.strictEqual(lines.length, 2, stdout)
        assert.include(lines[1], String.raw`\x1b[31mred`)
        assert.isTrue(lines[1]?.endsWith("…"), stdout)
        assert.isAtMost(lines[1]?.length ?? 0, 80)
        assert.notInclude(stdout, "\u001b[31m")
      }).pipe(Effect.scoped)
  )

  onTerminal("long work has a bar, which is erased when it ends", (url) =>
    Effect.gen(function* () {
      yield* succeeds(["migrate"], { url })
      const file = join(yield* temporaryDirectory, "events.jsonl")
      const line = (n: number) => `{"id":"e${n}","aggregateId":"a","eventType":"T","data":${n}}\n`
      yield* Effect.promise(() => writeFile(file, Array.from({ length: 3000 }, (_, n) => line(n)).join("")))
      const importing = yield* startOnTerminal(["events", "import", "--unchecked", file], { url })
      const { status, stdout } = yield* importing.ended
      assert.strictEqual(status, 0, stdout)
      // Each drawing erases the one before; the last text is what stays on the screen.
      const [before = "", ...drawn] = stdout.split("\r\u001b[K")
      assert.strictEqual(before, "")
      assert.match(drawn[0] ?? "", /^\[#{10}\.{20}\] imported 1,000 of 3,000 events, [\d,]+\/s$/)
      assert.match(drawn.at(-1) ?? "", /^3,000 events imported from .*\r\n$/)
    }).pipe(Effect.scoped)
  )
})
