/** How many questions it takes to read the end of a log with many holes. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Option, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"
import * as LastSeen from "../../src/events/LastSeen.ts"
import { PostgresDatabase, type Query } from "../../src/postgres/database/PostgresDatabase.ts"
import { versionOf } from "../../src/postgres/events/TailItems.ts"
import * as TailReader from "../../src/postgres/events/TailReader.ts"
import type { Ear } from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { plainInsert, session } from "./events.harness.ts"
import { execute, freshSchema } from "./harness.ts"

const count = 5000

/** What reads the tail in a schema, and how it asks a real server. */
const makeReader = Effect.fnUntraced(function* (schema: string) {
  const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
  const context = yield* Layer.build(Layer.provideMerge(Postgres.PostgresDatabase.layer({ schema }), pool))
  const { query } = Context.get(context, PostgresDatabase)
  return { query, reader: yield* Effect.provide(TailReader.make, context) }
})

const earOf = (query: Query): Ear => ({
  query,
  wait: () => Effect.as(Effect.sleep(1), Option.none<void>()),
  isHeard: () => false,
  again: false
})

/** A tail that is read from the start of a log up to its last version, with what it asked for on its way. */
const readAll = Effect.fnUntraced(function* (schema: string, last: bigint, asked: Array<string> = []) {
  const { query, reader } = yield* makeReader(schema)
  const done = yield* Deferred.make<void>()
  const versions: Array<unknown> = []
  let read = 0
  const counting: Query = (statement) =>
    Effect.suspend(() => {
      asked.push(statement.compile()[0])
      return Effect.tap(query(statement), (rows) => Effect.sync(() => void (read += rows.length)))
    })
  const publish: TailReader.Publish = (rows, { version: upTo }) => {
    for (const row of rows) versions.push(versionOf(row))
    return upTo >= last ? Deferred.succeed(done, undefined) : Effect.void
  }
  yield* Effect.raceFirst(reader(earOf(counting), LastSeen.of(0n), publish), Deferred.await(done))
  return { asked, read, versions }
})

const migrated = Effect.gen(function* () {
  const schema = yield* freshSchema()
  const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
  yield* Layer.build(Layer.provide(Postgres.layerMigrations({ schema }), pool))
  return { schema, table: `${schema}.events` }
})

/** Every second version is rolled back. */
const insertEverySecond = (table: string) => `
  DO $$ BEGIN
    FOR number IN 1..${count} LOOP
      PERFORM nextval(pg_get_serial_sequence('${table}', 'version'));
      INSERT INTO ${table} (id, aggregate_id, event_type) VALUES (number::text, 'a', 'Plain');
    END LOOP;
  END $$`

const even = Array.from({ length: count }, (_, index) => BigInt(2 * index + 2))

it.live("5,000 dead holes cost one look, and pages that grow", () =>
  Effect.gen(function* () {
    const { schema, table } = yield* migrated
    yield* execute([insertEverySecond(table)])
    const { asked, versions } = yield* readAll(schema, BigInt(2 * count))
    assert.deepStrictEqual(versions, even)
    const looks = asked.filter((text) => text.includes("pg_locks"))
    // One at the start, one at the first hole, and one at the end of what the second one could decide.
    assert.isAtMost(looks.length, 3)
    // 16, 32, 64, 128, 256, and then 512 events each, and the page that had the first hole once more.
    assert.isAtMost(asked.length - looks.length, 5 + Math.ceil(count / 512) + 5)
  })
)

it.live("while a hole is waited for, what is behind it is not read again and again", () =>
  Effect.gen(function* () {
    const { schema, table } = yield* migrated
    yield* execute([
      `INSERT INTO ${table} (id, aggregate_id, event_type) SELECT 'b' || n, 'a', 'Plain' FROM generate_series(1, ${count}) AS n`
    ])
    const t = yield* session()
    yield* t("BEGIN")
    yield* t(plainInsert(table, "held"))
    yield* execute([insertEverySecond(table)])
    const asked: Array<string> = []
    const reading = yield* Effect.forkChild(readAll(schema, BigInt(3 * count + 1), asked))
    // It asks for some 30 pages until it waits, and then for a page and the holders in turn.
    yield* Effect.repeat(Effect.sleep(10), { until: () => asked.length > 100 })
    yield* t("COMMIT")
    const { read, versions } = yield* Fiber.join(reading)
    const before = Array.from({ length: count + 1 }, (_, index) => BigInt(index + 1))
    assert.deepStrictEqual(versions, [...before, ...even.map((version) => version + BigInt(count + 1))])
    // Each event once, those behind the hole in the page that met it, and pages of 16 while it waited.
    assert.isAtMost(read, 2 * count + 1 + 512 + 16 * asked.length)
  })
)

it.live("pages grow, although each of them has a hole that somebody may still fill", () =>
  Effect.gen(function* () {
    const { reader } = yield* makeReader("public")
    const done = yield* Deferred.make<void>()
    const limits: Array<number> = []
    const seen: Array<bigint> = []
    const last = 121n
    /** Every eighth version is in flight, up to the one that has been filled last: one with each look. */
    let filled = 0n
    const isThere = (version: bigint) => version % 8n !== 0n || version <= filled
    const server = { standby: false, isolation: "read committed", server: "1" }
    const sequence = { name: "s", cache: 1n, increment: 1n, cycles: false }
    const scripted: Query = (statement) =>
      Effect.sync((): ReadonlyArray<unknown> => {
        const [text, [after, limit]] = statement.compile()
        if (text.includes("AS description")) return [{ description: "a writer" }]
        if (text.includes("max(version)")) return [{ version: last }]
        if (typeof after !== "bigint" || typeof limit !== "number") {
          filled += 8n
          const holders = Array.from(
            { length: Number((last - filled) / 8n) + 1 },
            (_, index) => `2/${Number(filled) + 8 * index}`
          )
          return [{ ...server, ...sequence, holders }]
        }
        limits.push(limit)
        const rows: Array<unknown> = []
        for (let version = after; version <= last && rows.length < limit; version++) {
          if (version > 0n && isThere(version)) rows.push({ version, id: String(version) })
        }
        return rows
      })
    const publish: TailReader.Publish = (rows, { version: upTo }) => {
      for (const row of rows) seen.push(versionOf(row))
      return upTo >= last ? Deferred.succeed(done, undefined) : Effect.void
    }
    yield* Effect.raceFirst(reader(earOf(scripted), LastSeen.of(0n), publish), Deferred.await(done))
    assert.deepStrictEqual(
      seen,
      Array.from({ length: Number(last) }, (_, index) => BigInt(index + 1))
    )
    assert.isAtLeast(Math.max(...limits), 64)
  })
)

it.live("where another server answers, subscribers are told at once, although there is no event", () =>
  Effect.gen(function* () {
    const { schema, table } = yield* migrated
    yield* execute([plainInsert(table, "a")])
    const { query, reader } = yield* makeReader(schema)
    const told = yield* Deferred.make<LastSeen.Seen>()
    const before = LastSeen.add(LastSeen.of(0n), [{ version: 1n, id: "a" }], 1n, "the server before")
    const publish: TailReader.Publish = (rows, seen) => {
      assert.deepStrictEqual(rows, [])
      return Deferred.succeed(told, seen)
    }
    yield* Effect.raceFirst(reader(earOf(query), before, publish), Deferred.await(told))
    const { events, server, version } = yield* Deferred.await(told)
    assert.deepStrictEqual([version, events], [1n, before.events])
    assert.notStrictEqual(server, before.server)
  })
)
