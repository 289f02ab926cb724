/**
 * A log is to be divided, and what does so ends at some step: killed, or by a crash of the server. Then it goes on, or is given
 * up.
 */
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { jsonLines, strata } from "../cli/harness.ts"
import { database } from "../support/databases.ts"
import { fillStatements } from "../support/largeLogs.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import { dividedTo, dividedToReader, ends } from "./dividing.harness.ts"
import { event, plainInsert, serveEvents, versionsIn } from "./events.harness.ts"
import { execute, migrate, query } from "./harness.ts"

// Their ids are gathered in three parts.
const eventCount = 25_000

/** A server, and on it a database whose log has these events. */
class Filled extends Context.Service<
  Filled,
  { readonly server: PostgresServer.PostgresServer; readonly template: string }
>()("strata-test/Filled") {
  static readonly layer = Layer.effect(
    Filled,
    Effect.gen(function* () {
      const server = yield* PostgresServer.make()
      const url = yield* database(server.url)
      yield* migrate(url, { schema: "public" })
      yield* execute(fillStatements("public.events", eventCount), url)
      return { server, template: new URL(url).pathname.slice(1) }
    })
  )
}

/** What the doctor says of a log that is left at a step. */
const gathering = /^warning: .*also writes its ids to events_gathered/
const limited = /^warning: .*appends are refused from version \d+ on, \d+ versions from here/

/** How far the process comes before it ends. */
const steps = [
  { name: "the trigger gathers ids", reached: (url: string) => dividedTo(url, ends.gathering), says: gathering },
  {
    name: "some ids are gathered",
    reached: (url: string) => dividedTo(url, ends.gathering, ends.gathered),
    says: gathering
  },
  { name: "the versions are limited", reached: (url: string) => dividedTo(url, ends.limited), says: limited },
  { name: "it waits for the table", reached: dividedToReader, says: limited }
]

const findings = (url: string) =>
  Effect.map(strata(["doctor", "--json"], { url }), ({ stdout }) =>
    jsonLines(stdout).filter(({ check }) => check === "partitions")
  )

/** Does what the doctor says to give it up. Nothing is left then. */
const giveUp = Effect.fnUntraced(function* (url: string, remedy: unknown) {
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
})

/** Divides the log. It has so many events then, and knows the ids of all of them. */
const divide = Effect.fnUntraced(function* (url: string, count: number) {
  yield* migrate(url, { schema: "public", partitions: { size: 10_000n } })
  assert.match(String((yield* findings(url))[0]?.["says"]), /^\d+ of 10000 versions each/)
  const { events } = yield* serveEvents({ url, options: { schema: "public" } })
  assert.strictEqual((yield* Effect.flip(events.append(event("a", "meanwhile"))))._tag, "DuplicateEvent")
  yield* events.append(event("a", "afterwards"))
  assert.strictEqual((yield* versionsIn("events", "true", url)).length, count + 1)
  assert.deepStrictEqual(
    yield* query(
      `SELECT count(*)::int FROM events FULL JOIN events_ids USING (id, version) WHERE event_type IS NULL OR events_ids.id IS NULL`,
      url
    ),
    [[0]]
  )
}, Effect.scoped)

const accidents = [
  ["the process was killed", (kill: Effect.Effect<void>) => kill],
  [
    "the server crashed",
    (_kill: Effect.Effect<void>, server: PostgresServer.PostgresServer) => server.restart("immediate")
  ]
] as const

layer(Filled.layer, { excludeTestServices: true })("a log that is being divided", (it) => {
  for (const [how, happens] of accidents) {
    for (const step of steps) {
      const found = Effect.gen(function* () {
        const { server, template } = yield* Filled
        const url = yield* database(server.url, template)
        yield* Effect.scoped(
          Effect.flatMap(step.reached(url), ({ ended, kill }) => Effect.andThen(happens(kill, server), ended))
        )
        const found = yield* findings(url)
        assert.strictEqual(found.length, 1, JSON.stringify(found))
        const [{ level, remedy, says } = {}] = found
        assert.match(`${level}: ${says}`, step.says)
        // An append meanwhile does not notice.
        yield* execute([plainInsert("events", "meanwhile")], url)
        return { url, remedy }
      })

      it.effect(`is found by the doctor where ${how} when ${step.name}, and goes on`, () =>
        Effect.flatMap(found, ({ url }) => divide(url, eventCount + 1))
      )

      it.effect(`is found by the doctor where ${how} when ${step.name}, and is given up by what it says`, () =>
        Effect.gen(function* () {
          const { remedy, url } = yield* found
          yield* giveUp(url, remedy)
          yield* divide(url, eventCount + 2)
        })
      )
    }
  }
})
