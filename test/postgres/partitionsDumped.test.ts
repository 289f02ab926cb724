/** A log with partitions that was dumped and restored into a new database is one that everything works with. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { jsonLines, strata, temporaryDirectory } from "../cli/harness.ts"
import { postgresUrl, scratchDatabase } from "../support/database.ts"
import * as Dumping from "../support/dumping.ts"
import { archiving } from "./archive.harness.ts"
import { event, follow, plainInsert, serveEvents, versionsIn } from "./events.harness.ts"
import { execute, migrate, query } from "./harness.ts"

const size = 50n

/** Logs with events in several partitions: one that had events before it was divided, and one that is new. */
const origins = [
  {
    name: "that was divided later",
    make: (url: string) =>
      Effect.gen(function* () {
        const stores = yield* serveEvents({ url, options: { schema: "ledger" } })
        yield* stores.events.append({ ...event("old", "before"), tags: ["old"] })
        yield* migrate(url, { schema: "ledger", partitions: { size } })
        yield* query("SELECT setval('ledger.events_version_seq', 249999)", url)
        return stores
      })
  },
  {
    name: "that is new",
    make: (url: string) =>
      Effect.gen(function* () {
        const stores = yield* serveEvents({ url, options: { schema: "ledger", partitions: { size } } })
        yield* stores.events.append({ ...event("old", "before"), tags: ["old"] })
        return stores
      })
  }
]

const complaints = (url: string) =>
  Effect.map(strata(["doctor", "--json", "--schema", "ledger"], { url }), ({ stdout }) =>
    jsonLines(stdout).flatMap(({ check, level, says }) =>
      // The tests' server is fast rather than safe, and the command is told of no archive.
      level === "ok" || check === "durability" || check === "archive" ? [] : [`${level} ${check}: ${says}`]
    )
  )

describe("a log with partitions", () => {
  for (const { make, name } of origins) {
    it.live(`${name} works as before once it was dumped and restored`, ({ skip }) =>
      Effect.gen(function* () {
        const programs = yield* Dumping.programsFor(postgresUrl)
        if (programs.missing !== undefined) return yield* Effect.sync(() => skip(programs.missing))
        const [from, to] = [yield* scratchDatabase(), yield* scratchDatabase()]
        const files = Postgres.EventArchive.layerDirectory(yield* temporaryDirectory)
        const source = yield* make(from)
        for (let n = 0; n < 130; n++) yield* source.events.append({ ...event(`aggregate ${n % 7}`, `event ${n}`) })
        if (name === "that is new") assert.strictEqual((yield* archiving(source, files).archive(51n)).parts.length, 1)
        const stored = yield* Stream.runCollect(source.events.read({ after: 51n }))
        const key = yield* query("SELECT ledger.events_key()::text", from)
        yield* Dumping.copy(programs.directory, from, to)
        assert.deepStrictEqual(yield* query("SELECT ledger.events_key()::text", to), key)
        assert.deepStrictEqual(yield* complaints(to), [])
        const served = serveEvents({
          url: to,
          options: { schema: "ledger" },
          layer: (options) => Layer.provide(Postgres.layerStorage(options), files)
        })
        const [one, other] = [yield* served, yield* served]
        assert.deepStrictEqual(yield* Stream.runCollect(one.events.read({ after: 51n })), stored)
        const reader = yield* follow(other, { after: yield* one.events.latestVersion })
        yield* one.events.append(event("aggregate 1"))
        yield* reader.until(yield* one.events.latestVersion)
        for (const known of ["before", "event 3", "event 129"]) {
          assert.strictEqual((yield* one.events.get(known)).id, known)
          assert.strictEqual((yield* Effect.flip(one.events.append(event("a", known))))._tag, "DuplicateEvent")
          const refusal = yield* Effect.flip(query(plainInsert("ledger.events", known), to))
          assert.match(String(refusal.reason.cause), /duplicate key/)
        }
        const last = (yield* one.events.loadByAggregate("aggregate 1")).at(-1)?.version ?? 0n
        yield* one.events.append(event("aggregate 1"), { expected: last })
        assert.strictEqual(
          (yield* Effect.flip(other.events.append(event("aggregate 1"), { expected: last })))._tag,
          "VersionConflict"
        )
        const { condition, events: decided } = yield* one.events.readForDecision([{ tags: ["old"] }])
        assert.strictEqual(decided.length, 1)
        yield* one.events.append({ ...event("b"), tags: ["old"] }, { condition })
        assert.strictEqual((yield* Effect.flip(other.events.append(event("b"), { condition })))._tag, "ConditionFailed")
        // Forged versions are refused, and partitions are made ahead.
        const forged = yield* Effect.flip(
          query("INSERT INTO ledger.events (version, id, aggregate_id, event_type) VALUES (3, 'forged', 'a', 'T')", to)
        )
        assert.match(String(forged.reason.cause), /leave the column version out|no partition/)
        const partitions = query(
          "SELECT count(*)::int FROM pg_inherits WHERE inhparent = 'ledger.events'::regclass",
          to
        )
        const before = Number((yield* partitions)[0]?.[0])
        for (let n = 0; n < 120; n++) yield* execute([plainInsert("ledger.events", `plain ${n}`)], to)
        assert.isAbove(Number((yield* partitions)[0]?.[0]), before + 1)
        yield* one.events.append(Array.from({ length: 200 }, () => event("many")))
        yield* reader.until(yield* one.events.latestVersion)
        assert.deepStrictEqual(reader.seen, (yield* versionsIn("ledger.events", "true", to)).slice(-reader.seen.length))
        assert.deepStrictEqual(
          yield* query(
            `SELECT count(*)::int FROM ledger.events LEFT JOIN ledger.events_ids USING (id, version) WHERE events_ids.id IS NULL`,
            to
          ),
          [[0]]
        )
        assert.deepStrictEqual(yield* complaints(to), [])
        // What is pending later runs there, too.
        yield* migrate(to, { schema: "ledger", partitions: { size } })
      }).pipe(Effect.scoped)
    )
  }
})
