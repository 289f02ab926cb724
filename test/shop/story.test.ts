/** `npm start` tells its story to the end, on a Postgres inside the process and on a server, where it leaves nothing. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { withConnection } from "../support/connection.ts"
import { scratchDatabase } from "../support/database.ts"

const script = fileURLToPath(new URL("../examples/shop/story.ts", import.meta.url))

/** What is printed, without the versions of events: an append that has failed may use up a version. */
const tell = (url?: string) => {
  const { DATABASE_URL: _, ...environment } = process.env
  const { status, stderr, stdout } = spawnSync(process.execPath, ["--conditions=@effect-strata/source", script], {
    encoding: "utf8",
    env: url === undefined ? environment : { ...environment, DATABASE_URL: url }
  })
  assert.strictEqual(status, 0, stdout + stderr)
  return stdout.replaceAll(/event \d+/g, "event").split("\n")
}

it.live("npm start tells the story of the shop, wherever it runs", () =>
  Effect.gen(function* () {
    const [first, ...embedded] = tell()
    assert.include(first, "Starting a Postgres inside this process")
    const told = [
      "  event: Placed lamp",
      "  OverLimit, and nothing has happened",
      "  paid",
      "  refused: AlreadyPaid",
      "  attempt 1: the mail server is down. It is tried again in a second",
      '  attempt 2: sent to ada, "thank you for 400 for order lamp"',
      "  ada: 2 orders for 1300, of which she has paid 400"
    ]
    assert.includeMembers(embedded, told)
    assert.strictEqual(embedded.filter((line) => line === told.at(-1)).length, 2)

    const url = yield* scratchDatabase()
    assert.includeMembers(tell(url), told)
    const schemas = yield* withConnection(url, (sql) => sql`SELECT FROM pg_namespace WHERE nspname = 'strata_example'`)
    assert.isEmpty(schemas)
  })
)
