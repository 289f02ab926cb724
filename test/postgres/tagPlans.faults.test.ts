/** What reads by tag read in a log of 1,000,000 events, by their plans: no more than they return, within a constant. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, Schema } from "effect"
import * as Postgres from "effect-strata/postgres"
import type { Statement } from "effect/sql"
import { Filter } from "../../src/Event.ts"
import * as DecisionMatches from "../../src/postgres/events/DecisionMatches.ts"
import * as EventPages from "../../src/postgres/events/EventPages.ts"
import { postgresUrl } from "../support/database.ts"
import { serveEvents } from "./events.harness.ts"

const total = 1_000_000

/** Each course has this many events. */
const ofCourse = 100

interface Plan {
  readonly "Node Type": string
  readonly "Actual Rows": number
  readonly "Actual Loops": number
  readonly "Rows Removed by Filter"?: number
  readonly "Rows Removed by Index Recheck"?: number
  readonly "Shared Hit Blocks": number
  readonly "Shared Read Blocks": number
  readonly Plans?: ReadonlyArray<Plan>
}

const Plan = Schema.Struct({
  "Node Type": Schema.String,
  "Actual Rows": Schema.Number,
  "Actual Loops": Schema.Number,
  "Rows Removed by Filter": Schema.optionalKey(Schema.Number),
  "Rows Removed by Index Recheck": Schema.optionalKey(Schema.Number),
  "Shared Hit Blocks": Schema.Number,
  "Shared Read Blocks": Schema.Number,
  Plans: Schema.optionalKey(Schema.Array(Schema.suspend((): Schema.Codec<Plan> => Plan)))
})

const Explained = Schema.NonEmptyArray(Schema.Struct({ "QUERY PLAN": Schema.NonEmptyArray(Schema.Struct({ Plan })) }))

/** The rows that the scans of a plan have read, those that they have left out among them. */
const rowsRead = (plan: Plan): number => {
  const own = plan["Actual Rows"] + (plan["Rows Removed by Filter"] ?? 0) + (plan["Rows Removed by Index Recheck"] ?? 0)
  const scanned = /^(Seq|Index|Index Only|Bitmap Heap) Scan$/.test(plan["Node Type"]) ? own : 0
  return (plan.Plans ?? []).reduce((sum, part) => sum + rowsRead(part), scanned * plan["Actual Loops"])
}

/** A value as SQL. */
const literal = (value: unknown): string => {
  if (Array.isArray(value)) return `ARRAY[${value.map(literal).join()}]::text[]`
  return typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value)
}

/** A log whose events have the tag of the tenant; every tenth has that of one of many courses, and ten events are rare. */
const filled = Effect.gen(function* () {
  const { schema, sql } = yield* serveEvents({ client: { maxConnections: 1 } })
  const run = (text: string) => sql.unsafe(text).unprepared
  for (const table of ["events", "events_tags"]) {
    yield* run(`ALTER TABLE ${schema}.${table} SET (autovacuum_enabled = off)`)
  }
  const [index] = yield* sql<{ readonly name: string }>`
    SELECT indexrelid::regclass::text AS name FROM pg_index
    WHERE indrelid = ${`${schema}.events_tags`}::regclass AND NOT indisprimary`
  yield* run(`DROP INDEX ${index?.name}`)
  yield* run(`ALTER TABLE ${schema}.events_tags DROP CONSTRAINT events_tags_pkey`)
  yield* run(`
    INSERT INTO ${schema}.events (id, aggregate_id, event_type, data, metadata)
    SELECT 'event-' || n, 'aggregate-' || n / 10, CASE n % 20 WHEN 0 THEN 'Opened' ELSE 'Changed' END, '{"amount": 100}', 'null'
    FROM generate_series(1, ${total}) AS n ORDER BY n`)
  yield* run(`
    INSERT INTO ${schema}.events_tags (tag, version)
    SELECT 'tenant', version FROM ${schema}.events
    UNION ALL
    SELECT 'course:' || version / 10 % ${total / 10 / ofCourse + 1}, version FROM ${schema}.events WHERE version % 10 = 0
    UNION ALL SELECT 'rare', version FROM ${schema}.events WHERE version % ${total / 10} = 0`)
  yield* run(`ALTER TABLE ${schema}.events_tags ADD PRIMARY KEY (tag, version)`)
  yield* run(`CREATE INDEX ON ${schema}.events_tags ((version + 0))`)
  const database = yield* Layer.build(
    Layer.provideMerge(
      Postgres.PostgresDatabase.layer({ schema }),
      PgClient.layer({ url: Redacted.make(postgresUrl), maxConnections: 1 })
    )
  )
  const pages = yield* Effect.provideContext(EventPages.make, database)
  const { matchesOf } = DecisionMatches.make(Context.get(database, Postgres.PostgresDatabase.PostgresDatabase))
  let prepared = 0
  /** The plan of a statement, with what it has read. The planner knows the values, or it does not. */
  const explain = Effect.fnUntraced(function* (statement: Statement.Fragment, mode: "custom" | "generic") {
    const [text, values] = sql`${statement}`.compile()
    const name = `plan_${++prepared}`
    yield* run(`SET plan_cache_mode = force_${mode}_plan`)
    yield* run(`PREPARE ${name} AS ${text}`)
    const [row] = yield* Effect.flatMap(
      run(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE ${name}(${values.map(literal).join()})`),
      Schema.decodeUnknownEffect(Explained)
    )
    return row["QUERY PLAN"][0].Plan
  })
  return { explain, matchesOf, pages, run, schema }
})

describe("in a log of a million events", () => {
  it.live("a read by tag reads what it returns", () =>
    Effect.gen(function* () {
      const { explain, matchesOf, pages, run, schema } = yield* filled
      const selected = (filter: Partial<Filter>, range: Parameters<typeof pages.page>[1]) =>
        Effect.map(pages.page(new Filter(filter), range), (select) => select("all"))
      const page = (filter: Partial<Filter>, limit: number, after = 0n) =>
        selected(filter, { after, last: BigInt(total), direction: "ASC", limit })
      const last = { after: 0n, last: BigInt(total), direction: "DESC", limit: 1 } as const
      const course = "course:7"
      // How many events it gives, and how many rows it may read for each of them.
      const reads = [
        ["a rare tag", yield* page({ tags: ["rare"] }, 1000), 10, 2],
        ["a course", yield* page({ tags: [course] }, 1000), ofCourse, 2],
        ["a course of the tenant", yield* page({ tags: [course, "tenant"] }, 1000), ofCourse, 3],
        ["a type of half of a course", yield* page({ tags: [course], eventTypes: ["Opened"] }, 1000), ofCourse / 2, 5],
        ["a page of the tenant", yield* page({ tags: ["tenant"] }, 100, 500_000n), 100, 2],
        ["a long page of the tenant", yield* page({ tags: ["tenant"] }, 1000, 500_000n), 1000, 2],
        [
          "a page of a type of the tenant",
          yield* page({ tags: ["tenant"], eventTypes: ["Opened"] }, 100, 500_000n),
          100,
          42
        ],
        ["the last of the tenant", yield* selected({ tags: ["tenant"] }, last), 1, 2],
        [
          "a course or what is rare",
          yield* page({ items: [{ tags: [course] }, { tags: ["rare"] }] }, 1000),
          ofCourse + 10,
          2
        ],
        ["a decision on a course", matchesOf([{ tags: [course, "tenant"] }]), ofCourse, 3],
        [
          "a decision on two things",
          matchesOf([{ tags: [course], eventTypes: ["Opened", "Changed"] }, { tags: ["rare"] }]),
          ofCourse + 10,
          3
        ]
      ] as const
      const wrong: Array<string> = []
      // After a load, an upgrade of the server, or a restore there may be no statistics, until autovacuum has come.
      for (const statistics of ["none", "those of ANALYZE", "those of VACUUM"] as const) {
        if (statistics !== "none") {
          const tables = `${schema}.events, ${schema}.events_tags`
          yield* run(`${statistics === "those of VACUUM" ? "VACUUM ANALYZE" : "ANALYZE"} ${tables}`)
        }
        for (const mode of ["custom", "generic"] as const) {
          for (const [what, statement, count, rowsEach] of reads) {
            const plan = yield* explain(statement, mode)
            const about = `${what}, ${mode} plan, statistics ${statistics}: ${JSON.stringify(plan)}`
            assert.approximately(plan["Actual Rows"], count, count / 50, about)
            // A look into an index of 10^6 entries is 4 blocks, and each row is a look into the events and one for a tag.
            const blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            const isFine = rowsRead(plan) <= rowsEach * plan["Actual Rows"] + 2 && blocks <= 6 * rowsEach * count + 40
            if (!isFine) wrong.push(`${rowsRead(plan)} rows and ${blocks} blocks for ${about}`)
          }
        }
      }
      assert.deepStrictEqual(wrong, [])
    })
  )
})
