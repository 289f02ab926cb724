/**
 * Questions of a first day and of an incident. The first section that a search for the words of a question finds has the answer.
 * The first ten were written down before the guides were, the others when decisions, the console, clusters and standbys came.
 */
import { assert, describe, it } from "@effect/vitest"
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import { root } from "./package/run.ts"
import { search, sectionsOf } from "./package/searching.ts"

const folder = join(root, "resources", "guides")
const names = (await readdir(folder)).filter((name) => name.endsWith(".md"))
const guides = await Promise.all(
  names.map(async (name) => sectionsOf(name, await readFile(join(folder, name), "utf8")))
)
const sections = guides.flat()

describe("the first section that a search finds", () => {
  it.each([
    ["how do I test a worker", "testing.md", /Receipts\.run|worker/],
    ["why is my subscriber not getting events", "runbooks.md", /strata status/],
    ["how do I rename an event", "events.md", /upcast/],
    ["may I run two versions side by side", "deploying.md", /side by side/],
    ["how big must the pool be", "deploying.md", /connections/],
    ["what do I back up", "deploying.md", /pg_dump|backup/],
    ["how do I erase a user", "runbooks.md", /DELETE|UPDATE/],
    ["who holds the tail", "runbooks.md", /strata status|strata doctor/],
    ["what happens when Postgres fails over", "runbooks.md", /LogReplaced/],
    ["how do I delete a projection", "projections.md", /remove/],
    ["what does this alert mean (lag)", "runbooks.md", /strata_projection_lag_seconds.*a-projection-is-behind/],
    ["how do I find the message that failed", "runbooks.md", /last_error/],
    ["may I delete events", "runbooks.md", /DELETE FROM events/],
    ["how do I move to another server", "deploying.md", /pg_dump[^]*replication/],
    ["what does a locked table do", "runbooks.md", /pg_locks/],
    ["how do I decide across aggregates", "decisions.md", /Decision\.make/],
    ["how do I keep a user name unique", "decisions.md", /\*\*conditions\*\*/],
    ["how do I give old events tags", "decisions.md", /tagAll/],
    ["who may use the console", "console.md", /--allow-writes/],
    ["how do I put the console into my application", "console.md", /Console\.layer/],
    ["do I need a cluster", "deploying.md", /Plain processes are enough/],
    ["which process runs a projection", "deploying.md", /strata projections processes/],
    ["how do I adopt a large table", "deploying.md", /concurrently/],
    ["does a migration lock a large table", "deploying.md", /lets writers\s+pass/],
    ["how do I read from a standby", "deploying.md", /Postgres\.layerReplica/],
    ["how do I read my own writes on a standby", "deploying.md", /atLeast/],
    ["how do I move jobs from pg-boss", "coming-from.md", /pgboss\.job/],
    ["how do I move jobs from River", "coming-from.md", /river_job/],
    ["how do I move events from KurrentDB", "coming-from.md", /readAll/],
    ["how do I use Kysely or Drizzle", "transactions.md", /sql\.unsafe/],
    ["does a connection use TLS", "settings.md", /sslmode=disable/]
  ] as const)("for: %s, has the answer", (question, file, answer) => {
    const found = search(sections, question)
    const shown = found.slice(0, 3).map(({ file, headings }) => `${file}: ${headings.join(" > ")}`)
    assert.strictEqual(found[0]?.file, file, `${question}: ${shown.join("; ")}`)
    assert.match(found[0]?.text ?? "", answer, shown[0])
  })
})
