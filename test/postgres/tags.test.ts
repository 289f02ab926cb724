/** Tags on a server: how they are found, what they cost those that have none, and which locks they take. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Stream } from "effect"
import type { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { event, follow, foreignPartitions, goSyncKit, plainInsert, serveEvents } from "./events.harness.ts"
import { execute, freshRole, freshSchema, open, query } from "./harness.ts"

const tagged = (aggregateId: string, ...tags: ReadonlyArray<string>) => ({ ...event(aggregateId), tags })

const numbers = (length: number) => Array.from({ length }, (_, index) => index)

/** How many rows statements have read in the schema: by indexes, and by going through tables. */
const rowsRead = (schema: string) =>
  Effect.map(
    query(`SELECT coalesce(sum(seq_tup_read), 0)::int, coalesce(sum(idx_tup_fetch), 0)::int
      + (SELECT coalesce(sum(idx_tup_read), 0)::int FROM pg_stat_user_indexes WHERE schemaname = '${schema}')
      FROM pg_stat_user_tables WHERE schemaname = '${schema}'`),
    ([row]) => ({ sequentially: Number(row?.[0]), byIndex: Number(row?.[1]) })
  )

describe("events with a tag", () => {
  it.live("are found by the index, however long the log is and however little the planner knows of it", () =>
    Effect.gen(function* () {
      const { events, schema, sql } = yield* serveEvents({ client: { maxConnections: 1 } })
      // Every event has the tag of its tenant; every hundredth has the tag of the course.
      const log = numbers(20_000).map((n) =>
        tagged(`a${n}`, "tenant", ...(n % 100 === 7 ? ["course"] : []), ...(n % 500 === 3 ? ["student"] : []))
      )
      for (let n = 0; n < log.length; n += 5_000) yield* events.append(log.slice(n, n + 5_000))
      const item = (...tags: ReadonlyArray<string>) => ({ tags, eventTypes: ["Happened"] })
      const queries = [
        [{ tags: ["course"] }, 200],
        [{ tags: ["course", "tenant"], batchSize: 100 }, 200],
        [{ tags: ["course"], eventTypes: ["Happened"], after: 10_000n }, 100],
        [{ items: [item("course", "tenant"), item("student")], batchSize: 50 }, 240],
        [{ items: [item("course"), item("student")], direction: "backward" }, 240],
        [{ tags: ["tenant"], limit: 100, after: 15_000n }, 100],
        [{ tags: ["tenant"], limit: 1 }, 1],
        [{ tags: ["course"], eventTypes: ["Happened"], limit: 1, direction: "backward" }, 1]
      ] as const
      for (const isAnalyzed of [false, true]) {
        if (isAnalyzed) yield* sql.unsafe(`ANALYZE ${schema}.events, ${schema}.events_tags`)
        for (const [query, count] of queries) {
          yield* sql`SELECT pg_stat_force_next_flush()`
          const before = yield* rowsRead(schema)
          // Often enough for a plan that knows no values.
          for (let times = 0; times < 7; times++) {
            assert.lengthOf(yield* Stream.runCollect(events.read(query)), count)
          }
          yield* sql`SELECT pg_stat_force_next_flush()`
          const after = yield* rowsRead(schema)
          const what = `${JSON.stringify(query, (_, value) => (typeof value === "bigint" ? String(value) : value))}: ${JSON.stringify([before, after])}`
          assert.isBelow(after.sequentially - before.sequentially, 7 * 20, what)
          assert.isBelow(after.byIndex - before.byIndex, 7 * 12 * count, what)
        }
      }
    })
  )

  it.live("share a few commits where they are appended at once", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents()
      yield* Effect.forEach(
        numbers(500),
        (n) => events.append({ ...event(`aggregate ${n}`), tags: ["hot", `n:${n}`] }),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(yield* Stream.runCollect(events.read({ tags: ["hot"] })), 500)
      const [row] = yield* query(`SELECT count(DISTINCT xmin::text)::int, count(*)::int FROM ${table}`)
      assert.strictEqual(row?.[1], 500)
      assert.isAtMost(Number(row?.[0]), 40)
    })
  )

  it.live("do not wait for one of them that waits for its aggregate", () =>
    Effect.gen(function* () {
      const { events, withTransaction } = yield* serveEvents()
      const holder = yield* open(withTransaction, events.append(event("held"), { expected: "none" }))
      const waiting = yield* Effect.forkChild(events.append({ ...event("held"), tags: ["hot"] }), {
        startImmediately: true
      })
      yield* Effect.forEach(numbers(100), (n) => events.append({ ...event(`aggregate ${n}`), tags: ["hot"] }), {
        concurrency: 10
      })
      assert.isUndefined(waiting.pollUnsafe())
      yield* holder.commit
      yield* Fiber.join(waiting)
      assert.lengthOf(yield* Stream.runCollect(events.read({ tags: ["hot"] })), 101)
    })
  )

  it.live("come to subscribers of a tag in order, also where their transactions commit out of order", () =>
    Effect.gen(function* () {
      const served = yield* serveEvents()
      const { events, withTransaction } = served
      const { seen, until } = yield* follow(served, { after: "start", tags: ["t"] })
      const tagged = { ...event("a"), tags: ["t"] }
      const first = yield* open(withTransaction, events.append(tagged))
      yield* events.append([event("b"), tagged])
      yield* first.commit
      yield* events.append(tagged)
      yield* until(4n)
      assert.deepStrictEqual(seen, [1n, 3n, 4n])
    })
  )
})

describe("the locks of tags", () => {
  it.live("are as few as the coarse lock, where an append has more than 250 tags, ids and aggregates", () =>
    Effect.gen(function* () {
      const { events, sql, withTransaction } = yield* serveEvents()
      const locks = sql`SELECT count(*)::int AS count FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()`
      for (const [length, expected] of [
        [60, 60 + 120 + 60 + 2],
        [70, 70 + 2]
      ] as const) {
        const batch = numbers(length).map((n) =>
          Object.assign({ id: `${length} ${n}` }, tagged(`a${n}`, `t:${n}`, `u:${n}`))
        )
        const held = yield* withTransaction(Effect.andThen(events.append(batch), locks))
        assert.deepStrictEqual(held, [{ count: expected }])
      }
      assert.lengthOf(yield* Stream.runCollect(events.read({ tags: ["u:7"] })), 2)
    })
  )
})

describe("a log without tags", () => {
  it.live("does without their table: no append and no read of it touches the table", () =>
    Effect.gen(function* () {
      const { events, schema } = yield* serveEvents()
      const { role, url } = yield* freshRole()
      yield* execute([
        `GRANT USAGE ON SCHEMA ${schema} TO ${role}`,
        `GRANT SELECT, INSERT ON ${schema}.events TO ${role}`
      ])
      const app = yield* serveEvents({ url, layer: Postgres.layerStorage, options: { schema } })
      yield* app.events.append(event("a"))
      yield* app.events.append([event("a"), event("b", "id")], { expected: "any" })
      yield* app.events.append(event("a"), { expected: "some" })
      assert.lengthOf(yield* app.events.load(), 4)
      const denied = yield* Effect.exit(app.events.append({ ...event("a"), tags: ["t"] }))
      assert.isTrue(Exit.isFailure(denied))
      assert.lengthOf(yield* events.load(), 4)
    })
  )
})

describe("tags beside a table that go-sync-kit has made", () => {
  it.live("are those of new events; those of Go have none", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* goSyncKit(schema)
      const { events, table } = yield* serveEvents({ options: { schema } })
      yield* events.append({ ...event("a"), tags: ["t"] })
      yield* execute([plainInsert(table, "go-3")])
      assert.lengthOf(yield* Stream.runCollect(events.read({ tags: ["t"] })), 1)
      assert.lengthOf(yield* Stream.runCollect(events.read({ items: [{ tags: ["t"] }, { eventTypes: ["Plain"] }] })), 2)
    })
  )
})

describe("tags beside a table in partitions", () => {
  it.live("lead to the events of each of them, for reads, decisions and taggings", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* foreignPartitions(schema, 11)
      const { events } = yield* serveEvents({ options: { schema } })
      const versionsOf = (all: ReadonlyArray<EventStore.StoredEvent>) => all.map(({ version }) => Number(version))
      const query = [{ tags: ["odd", "tenant"], eventTypes: ["Happened"] }, { tags: ["last"] }]
      const first = yield* events.readForDecision(query)
      const stored = yield* events.append(
        numbers(20).map((n) => tagged(`a${n}`, "tenant", n % 2 === 0 ? "odd" : "even"))
      )
      assert.deepStrictEqual(
        versionsOf(yield* Stream.runCollect(events.read({ tags: ["odd"], batchSize: 3 }))),
        numbers(10).map((n) => 2 * n + 1)
      )
      const failed = yield* Effect.flip(events.append(tagged("b", "odd"), { condition: first.condition }))
      assert.strictEqual(failed._tag === "ConditionFailed" && Option.getOrUndefined(failed.version), 1n)
      const second = yield* events.readForDecision(query)
      assert.lengthOf(second.events, 10)
      yield* events.append(tagged("b", "odd", "tenant"), { condition: second.condition })
      // One of each partition.
      const ends = stored.filter(({ version }) => version === 2n || version === 20n)
      const third = yield* events.readForDecision(query)
      yield* events.tag(ends.map(({ id, version }) => ({ id, version, tags: ["last"] })))
      assert.strictEqual(
        (yield* Effect.flip(events.append(tagged("c", "odd"), { condition: third.condition })))._tag,
        "ConditionFailed"
      )
      assert.deepStrictEqual(
        versionsOf((yield* events.readForDecision(query)).events),
        [1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20, 21]
      )
    })
  )
})
