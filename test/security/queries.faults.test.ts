/** What another session does may have a secret in it: its text is shown to nobody who has not asked for it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { plainInsert, session } from "../postgres/events.harness.ts"
import { execute } from "../postgres/harness.ts"
import { withDatabase } from "../support/database.ts"
const card = "4111-1111-1111-1111"

describe("a session that holds up readers", () => {
  it.live("is named with its process and its state, and with its query only where doctor is asked for it", () =>
    withDatabase((url) =>
      Effect.gen(function* () {
        yield* succeeds(["migrate"], { url })
        yield* execute([plainInsert("events", "first")], url)
        const holder = yield* session(url)
        yield* holder("BEGIN")
        yield* holder(plainInsert("events", "held"))
        yield* holder(`SELECT '${card}'`)
        yield* execute([plainInsert("events", "last")], url)

        const file = `${yield* temporaryDirectory}/events.jsonl`
        for (const args of [
          ["doctor"],
          ["doctor", "--json"],
          ["status"],
          ["status", "--json"],
          ["events", "export", file],
          ["events", "read", "--verbose"]
        ]) {
          const { stderr, stdout } = yield* strata(args, { url })
          const shown = `${args.join(" ")}\n${stdout}${stderr}`
          assert.match(shown, /pid \d+, idle in transaction for \d+ s, application '[^']*'/)
          assert.notInclude(shown, card)
          assert.notInclude(shown, "query:")
        }
        const asked = yield* strata(["doctor", "--queries"], { url })
        assert.match(
          asked.stdout,
          new RegExp(`readers may have to wait for pid \\d+, idle in .*, query: SELECT '${card}'`)
        )
        yield* holder("ROLLBACK")
      })
    )
  )
})
