/** The figures of tags and decisions: beside appends that expect something, and beside Postgres's own answer to such races. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Schedule } from "effect"
import { EventStore } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { SqlClient } from "effect/sql"
import { event } from "./events.ts"
import { fibers, type Figure } from "./harness.ts"

const tagged = (fiber: number, ...tags: ReadonlyArray<string>) => ({ ...event(fiber), tags })

/**
 * Appends of fibers whose conditions have nothing to do with each other, beside appends that expect a version. Each decides upon a
 * tag that nothing has yet, such as a user name, and writes that tag.
 */
const conditions = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const numbers = Array.from({ length: count }, (_, fiber) => fiber)
    const { condition } = yield* events.readForDecision([{ tags: ["decided"] }])
    const versions = yield* Effect.forEach(numbers, (fiber) =>
      Effect.map(events.append(event(fiber)), ([stored]) => stored?.version ?? 0n)
    )
    let decisions = 0
    return {
      strata: fibers(count, (fiber) => {
        const tag = `decided-${count}:${decisions++}`
        // What a read for that tag gives: only the append is measured.
        const own = new EventStore.Condition({ ...condition.decided, items: [{ tags: [tag] }] })
        return events.append(tagged(fiber + count, tag), { condition: own })
      }),
      other: fibers(count, (fiber) =>
        Effect.map(events.append(event(fiber), { expected: versions[fiber] ?? 0n }), ([stored]) => {
          versions[fiber] = stored?.version ?? 0n
        })
      )
    }
  })

const threeTags = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    return {
      strata: fibers(count, (fiber, index) => events.append(tagged(fiber, `a:${fiber}`, `b:${index}`, "tenant"))),
      other: fibers(count, (fiber) => events.append(event(fiber)))
    }
  })

/**
 * Appends without tags to a log of which events have some, and to one that has not even a table for tags. Nothing but the tags
 * tells the two apart.
 */
const untagged = (count: number) =>
  Effect.gen(function* () {
    const events = yield* EventStore.EventStore
    const sql = yield* PgClient.PgClient
    const schema = `strata_bench_untagged_${process.pid}`
    yield* Effect.addFinalizer(() => Effect.orDie(sql`DROP SCHEMA IF EXISTS ${sql(schema)} CASCADE`))
    const context = yield* Layer.build(Postgres.layer({ schema }))
    yield* sql`DROP TABLE ${sql(schema)}.events_tags`
    const bare = Context.get(context, EventStore.EventStore)
    const numbers = Array.from({ length: 1_000 }, (_, index) => index)
    yield* events.append(numbers.map((index) => tagged(index, `n:${index}`, "tenant")))
    return {
      strata: fibers(count, (fiber) => events.append(event(fiber))),
      other: fibers(count, (fiber) => bare.append(event(fiber)))
    }
  })

const eventsOfOne = 100

const reads = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  for (let one = 0; one < 100; one++) {
    yield* events.append(Array.from({ length: eventsOfOne }, () => tagged(100_000 + one, `read:${one}`, "tenant")))
  }
  const one = (index: bigint) => Number(index % 100n)
  return {
    strata: fibers(1, (_, index) => events.readForDecision([{ tags: [`read:${one(index)}`, "tenant"] }])),
    other: fibers(1, (_, index) => events.loadByAggregate(event(100_000 + one(index)).aggregateId))
  }
})

const backoff = Schedule.exponential("2 millis").pipe(Schedule.jittered)

/** 16 fibers decide upon one tag, which has few events: one that is overtaken reads and decides again. */
const hot = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const sql = yield* PgClient.PgClient
  yield* sql`CREATE TABLE IF NOT EXISTS bench_hot (id BIGSERIAL PRIMARY KEY, tag TEXT NOT NULL, note TEXT NOT NULL)`
  yield* sql`CREATE INDEX IF NOT EXISTS bench_hot_tag ON bench_hot (tag)`
  let round = 0
  const decide = (tag: string) =>
    Effect.gen(function* () {
      const { condition } = yield* events.readForDecision([{ tags: [tag] }])
      return yield* events.append(tagged(round++, tag), { condition })
    }).pipe(Effect.retry({ schedule: backoff, while: ({ _tag }) => _tag === "ConditionFailed" }))
  const serially = (tag: string) =>
    Effect.gen(function* () {
      yield* sql`SELECT id, tag, note FROM bench_hot WHERE tag = ${tag}`
      yield* sql`INSERT INTO bench_hot (tag, note) VALUES (${tag}, 'a payment like any other')`
    }).pipe(
      sql.withTransaction,
      Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
      Effect.retry(backoff)
    )
  // A tag for each round of the bench, or the histories would grow from one to the next.
  return {
    strata: (operations: number) => {
      const tag = `hot:${crypto.randomUUID()}`
      return fibers(16, () => decide(tag))(operations)
    },
    other: (operations: number) => {
      const tag = `hot:${crypto.randomUUID()}`
      return fibers(16, () => serially(tag))(operations)
    }
  }
})

/** How rarely a decision changes what all of them decide upon: each change overtakes those that are under way. */
const changesOneIn = 130

/**
 * 16 fibers decide upon the changes of one thing, and nearly all of them write something else about it. About one decision in
 * ten is overtaken.
 */
const hotTenth = Effect.gen(function* () {
  const events = yield* EventStore.EventStore
  const sql = yield* PgClient.PgClient
  yield* sql`CREATE TABLE IF NOT EXISTS bench_hot_tenth (id BIGSERIAL PRIMARY KEY, tag TEXT NOT NULL, kind TEXT NOT NULL)`
  yield* sql`CREATE INDEX IF NOT EXISTS bench_hot_tenth_kind ON bench_hot_tenth (tag, kind)`
  const kindOf = (index: bigint) => (index % BigInt(changesOneIn) === 0n ? "Changed" : "Deposited")
  const decide = (tag: string, fiber: number, index: bigint) =>
    Effect.gen(function* () {
      const { condition } = yield* events.readForDecision([{ tags: [tag], eventTypes: ["Changed"] }])
      return yield* events.append({ ...tagged(fiber, tag), eventType: kindOf(index) }, { condition })
    }).pipe(Effect.retry({ schedule: backoff, while: ({ _tag }) => _tag === "ConditionFailed" }))
  const serially = (tag: string, index: bigint) =>
    Effect.gen(function* () {
      yield* sql`SELECT id FROM bench_hot_tenth WHERE tag = ${tag} AND kind = 'Changed'`
      yield* sql`INSERT INTO bench_hot_tenth (tag, kind) VALUES (${tag}, ${kindOf(index)})`
    }).pipe(
      sql.withTransaction,
      Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
      Effect.retry(backoff)
    )
  // The fibers come to their changes one after the other.
  const place = (fiber: number, index: bigint) => index * 16n + BigInt(fiber)
  return {
    strata: (operations: number) => {
      const tag = `hot:${crypto.randomUUID()}`
      return fibers(16, (fiber, index) => decide(tag, fiber, place(fiber, index)))(operations)
    },
    other: (operations: number) => {
      const tag = `hot:${crypto.randomUUID()}`
      return fibers(16, (fiber, index) => serially(tag, place(fiber, index)))(operations)
    }
  }
})

const unit = "events/s"

export const figures: ReadonlyArray<Figure> = [
  ...[1, 16, 256].map((count): Figure => ({
    name: `decide/condition-${count}`,
    operations: 5_120,
    otherName: "with expected",
    unit,
    conditions: `${count} fibers, disjoint tags`,
    sides: conditions(count)
  })),
  ...[1, 16].map((count): Figure => ({
    name: `decide/tags-${count}`,
    operations: 5_120,
    otherName: "without tags",
    unit,
    conditions: `${count} fibers, three tags`,
    sides: threeTags(count)
  })),
  ...[1, 16].map((count): Figure => ({
    name: `decide/untagged-${count}`,
    operations: 5_120,
    otherName: "log without a table of tags",
    unit,
    conditions: `${count} fibers, no tags`,
    sides: untagged(count)
  })),
  {
    name: "decide/read",
    operations: 2_000,
    otherName: "loadByAggregate",
    unit: "reads/s",
    conditions: `1 fiber, ${eventsOfOne} events`,
    sides: reads
  },
  {
    name: "decide/hot",
    operations: 480,
    otherName: "SERIALIZABLE",
    unit: "decisions/s",
    conditions: "16 fibers, one tag, retried after 2 ms and more",
    sides: hot
  },
  {
    name: "decide/hot-tenth",
    operations: 1_600,
    otherName: "SERIALIZABLE",
    unit: "decisions/s",
    conditions: "16 fibers, one tag, one in ten overtaken, retried after 2 ms and more",
    sides: hotTenth
  }
]
