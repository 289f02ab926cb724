/** Sessions with `quote_all_identifiers` get each name in quotes from the server: every index is found there, and made once. */
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Stream } from "effect"
import type * as Postgres from "effect-strata/postgres"
import { jsonLines, strata } from "../cli/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { readBy } from "../support/rowsRead.ts"
import { serveEvents } from "./events.harness.ts"
import { execute, migrate, query } from "./harness.ts"

const count = 40_000

const schema = "strata"

/** A database whose sessions have the setting. */
const quoting = Effect.fnUntraced(function* () {
  const url = yield* scratchDatabase()
  yield* execute([`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET quote_all_identifiers = on`], url)
  return url
})

/** The forms of all indexes of the log and of the tables beside it. */
const indexes = (url: string) =>
  query(
    `SELECT indrelid::regclass::text, replace(regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', ''), '"', '') FROM pg_index
     WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = '${schema}'::regnamespace) ORDER BY 1, 2`,
    url
  )

/** What the doctor says of tables, without how large they are. */
const findings = (url: string) =>
  Effect.map(strata(["doctor", "--json", "--schema", schema], { url }), ({ stdout }) =>
    jsonLines(stdout).map((line) => `${line["check"]}: ${line["level"]}`)
  )

const kinds: ReadonlyArray<readonly [name: string, options: Postgres.Options]> = [
  ["a log", {}],
  ["a log with partitions", { partitions: { size: 15_000n } }],
  ["a compact log", { layout: "compact" }],
  ["a compact log with partitions", { layout: "compact", partitions: { size: 15_000n } }]
]

describe.each(kinds)("%s whose sessions quote all names", (_, options) => {
  it.live("has the indexes of any other one, once, also where its files are run again", () =>
    Effect.gen(function* () {
      const [url, other] = [yield* quoting(), yield* scratchDatabase()]
      for (const place of [url, other]) yield* migrate(place, { ...options, schema })
      const unquoted = Effect.map(indexes(url), (rows) =>
        rows.map(([table, form]) => [String(table).replaceAll('"', ""), form])
      )
      const wanted = yield* indexes(other)
      assert.deepStrictEqual(yield* unquoted, wanted)
      yield* execute([`DELETE FROM ${schema}.strata_migrations WHERE id IN (48, 50)`], url)
      yield* migrate(url, { ...options, schema })
      assert.deepStrictEqual(yield* unquoted, wanted)
      assert.deepStrictEqual(yield* findings(url), yield* findings(other))
    }).pipe(Effect.scoped)
  )

  it.live("reads by these indexes what came after a time, and a type", () =>
    Effect.gen(function* () {
      const url = yield* quoting()
      const { events, sql, table } = yield* serveEvents({
        url,
        options: { ...options, schema },
        client: { maxConnections: 1 }
      })
      for (let first = 1; first <= count; first += count / 4) {
        yield* execute(
          [
            `INSERT INTO ${table} (id, aggregate_id, event_type, data, created_at)
             SELECT gen_random_uuid(), 'a' || n % 100, CASE WHEN n > ${count / 2} THEN 'Late' ELSE 'Early' END, '{}',
               timestamptz '2026-01-01 00:00:00Z' + n * interval '1 s'
             FROM generate_series(${first}, ${first + count / 4 - 1}) AS n`
          ],
          url
        )
      }
      yield* execute([`VACUUM ANALYZE ${table}`], url)
      const late = (second: number) => DateTime.makeUnsafe(Date.UTC(2026, 0, 1) + second * 1000)
      const reads = [
        [{ createdAfter: late(count - 10), limit: 1 }, count - 9],
        [{ after: BigInt(count - 100), eventTypes: ["Late"], limit: 1 }, count - 99],
        [{ after: BigInt(count - 100), aggregateIds: ["a7"], limit: 1 }, count - 93]
      ] as const
      for (const [read, version] of reads) {
        const { result, rows } = yield* readBy({ schema, sql }, Stream.runCollect(events.read(read)))
        assert.deepStrictEqual(
          result.map((event) => event.version),
          [BigInt(version)]
        )
        assert.isBelow(rows, 1000)
      }
    }).pipe(Effect.scoped)
  )
})
