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

/** What a decision of the bench is upon: the events with a tag, or those of one type. */
interface Asked {
  readonly tag: string
  readonly eventTypes?: ReadonlyArray<string>
}

/** Reads, and appends one event with the tag: a decision that is overtaken is made again. */
const byCondition = Effect.map(
  EventStore.EventStore,
  (events) =>
    ({ eventTypes, tag }: Asked, fiber: number, eventType: string) =>
      Effect.gen(function* () {
        const items = [eventTypes === undefined ? { tags: [tag] } : { tags: [tag], eventTypes }]
        const { condition } = yield* events.readForDecision(items)
        return yield* events.append({ ...tagged(fiber, tag), eventType }, { condition })
      }).pipe(Effect.retry({ schedule: backoff, while: ({ _tag }) => _tag === "ConditionFailed" }))
)

/** How many events the tables of the other side have from the start. */
const fillers = 20_000

/**
 * The same decisions by what Postgres has for such races: a transaction with SERIALIZABLE reads the events that the decision is
 * upon, and writes one with its tag, or is made again.
 *
 * It does the same work, by hand: the table of events is like that of Strata, with the same columns and indexes, as the log is
 * read in the same ways; the reader gets whole events, and the event has its id, its data, its metadata and its tag. A table with
 * a note for the one query would be half of the work. Its table of tags has one index, made for these decisions: by the type,
 * too, as the transactions of all types would collide on it otherwise. Both tables have rows and statistics from the start: the
 * planner would go through a small table as a whole, and every transaction would collide with every other one.
 */
const bySerializable = Effect.gen(function* () {
  const sql = yield* PgClient.PgClient
  yield* sql`CREATE TABLE IF NOT EXISTS bench_events (LIKE events INCLUDING ALL)`
  yield* sql`CREATE TABLE IF NOT EXISTS bench_tags (tag TEXT, event_type TEXT, version BIGINT, PRIMARY KEY (tag, event_type, version))`
  yield* sql`
    WITH added AS (
      INSERT INTO bench_events (id, aggregate_id, event_type, data, metadata)
      SELECT gen_random_uuid()::text, 'filler-' || n, 'Deposited', '{}', 'null' FROM generate_series(1, ${fillers}::int) AS n
      RETURNING version, event_type
    )
    INSERT INTO bench_tags (tag, event_type, version) SELECT 'filler:' || version % 1000, event_type, version FROM added`
  yield* sql`ANALYZE bench_events, bench_tags`
  return ({ eventTypes, tag }: Asked, fiber: number, eventType: string) => {
    const { aggregateId, data } = event(fiber)
    const ofTypes = eventTypes === undefined ? sql`` : sql`AND event_type = ANY(${eventTypes}::text[])`
    return Effect.gen(function* () {
      yield* sql`
        SELECT version, id, aggregate_id, event_type, data, metadata, created_at FROM bench_events
        WHERE version = ANY(ARRAY(SELECT version FROM bench_tags WHERE tag = ${tag} ${ofTypes})) ORDER BY version`
      yield* sql`
        WITH added AS (
          INSERT INTO bench_events (id, aggregate_id, event_type, data, metadata)
          VALUES (${crypto.randomUUID()}, ${aggregateId}, ${eventType}, ${JSON.stringify(data)}, 'null')
          RETURNING version, event_type
        )
        INSERT INTO bench_tags (tag, event_type, version) SELECT ${tag}, event_type, version FROM added
        RETURNING version`
    }).pipe(
      sql.withTransaction,
      Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
      Effect.retry(backoff)
    )
  }
})

type Decide = (asked: Asked, fiber: number, eventType: string) => Effect.Effect<unknown, unknown>

/** 16 fibers decide upon one tag. Each round has a tag of its own, or the histories would grow from one to the next. */
const hotBy = (eventTypes: Asked["eventTypes"], typeOf: (place: bigint) => string) =>
  Effect.gen(function* () {
    const load = (decide: Decide) => (operations: number) => {
      const tag = `hot:${crypto.randomUUID()}`
      const asked = eventTypes === undefined ? { tag } : { tag, eventTypes }
      // The fibers come to their changes one after the other.
      return fibers(16, (fiber, index) => decide(asked, fiber, typeOf(index * 16n + BigInt(fiber))))(operations)
    }
    return { strata: load(yield* byCondition), other: load(yield* bySerializable) }
  })

/** All of them collide: each decision writes what the others have read. */
const hot = hotBy(undefined, () => "Deposited")

/** How rarely a decision changes what all of them decide upon: each change overtakes those that are under way. */
const changesOneIn = 130n

/** Nearly all of them write something else about the tag than they decide upon: about one decision in ten is overtaken. */
const hotTenth = hotBy(["Changed"], (place) => (place % changesOneIn === 0n ? "Changed" : "Deposited"))

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
