/** `strata doctor` finds what is wrong with partitions, and what mends it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { jsonLines, strata } from "../cli/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { event, serveEvents } from "./events.harness.ts"
import { execute } from "./harness.ts"

const served = serveEvents({ options: { partitions: { size: 50n } } })

describe("strata doctor", () => {
  const findings = (schema: string, of = "partitions") =>
    Effect.map(strata(["doctor", "--json", "--schema", schema], { url: postgresUrl }), ({ stdout }) =>
      jsonLines(stdout).flatMap(({ check, level, says }) => (check === of ? [`${level}: ${says}`] : []))
    )

  /** What is done to a log, what the doctor says then, and what mends it, as it says. */
  const faults: ReadonlyArray<
    readonly [name: string, break_: (table: string) => string, says: RegExp, mend: (table: string) => string]
  > = [
    [
      "the next partitions are missing",
      (table) => `DROP TABLE ${table}_50, ${table}_100`,
      /^problem: partitions are there for \d+ versions more/,
      (table) => `SELECT ${table}_extend()`
    ],
    [
      "a partition is missing between others",
      (table) => `ALTER TABLE ${table} DETACH PARTITION ${table}_100`,
      /^problem: .* no partition for version 100, and some for versions above it/,
      (table) => `ALTER TABLE ${table} ATTACH PARTITION ${table}_100 FOR VALUES FROM (100) TO (150)`
    ],
    [
      "a default partition has events",
      (table) => `CREATE TABLE ${table}_rest PARTITION OF ${table} DEFAULT`,
      /^problem: .*events_rest is the default partition/,
      (table) => `ALTER TABLE ${table} DETACH PARTITION ${table}_rest`
    ],
    [
      "the trigger of ids is dropped",
      (table) => `DROP TRIGGER events_added ON ${table}`,
      /^problem: .* no trigger events_added/,
      (table) =>
        `CREATE TRIGGER events_added AFTER INSERT ON ${table} REFERENCING NEW TABLE AS added
         FOR EACH STATEMENT EXECUTE FUNCTION ${table}_guard('${table}_version_seq')`
    ],
    [
      "a partition lacks an index",
      (table) => `CREATE INDEX events_extra ON ONLY ${table} (event_type, id)`,
      /^problem: not every partition of .* has an index of .*events_extra/,
      (table) => `DROP INDEX ${table.split(".")[0]}.events_extra`
    ],
    [
      "nothing keeps ids unique",
      (table) => `ALTER TABLE ${table}_ids DROP CONSTRAINT events_ids_pkey`,
      /^problem: no key keeps the ids in .*events_ids/,
      (table) => `ALTER TABLE ${table}_ids ADD PRIMARY KEY (id)`
    ],
    [
      "the table of ids is missing",
      (table) => `ALTER TABLE ${table}_ids RENAME TO events_elsewhere`,
      /^problem: .*events_ids.* is missing/,
      (table) => `ALTER TABLE ${table.split(".")[0]}.events_elsewhere RENAME TO events_ids`
    ]
  ]

  it.live("finds each thing that can be wrong with partitions, and nothing once it is mended", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* served
      yield* events.append(event("a"))
      for (const [name, break_, says, mend] of faults) {
        yield* execute([break_(table)])
        const found = yield* findings(schema)
        assert.strictEqual(found.length, 1, `${name}: ${found.join("; ")}`)
        assert.match(String(found[0]), says, name)
        yield* execute([mend(table)])
        assert.match((yield* findings(schema)).join(), /^ok/, name)
      }
    }).pipe(Effect.scoped)
  )

  it.live("says how far the partitions reach, and what is missing of what makes them", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* served
      yield* events.append(event("a"))
      assert.match(
        (yield* findings(schema)).join(),
        /^ok: \d+ of 50 versions each, and there are some for \d+ versions more$/
      )
      assert.deepStrictEqual(yield* findings(schema, "triggers"), ["ok: no foreign triggers"])
      assert.match((yield* findings(schema, "sequence")).join(), /^ok/)
      yield* execute([
        `ALTER TABLE ${table} DISABLE TRIGGER events_added`,
        `ALTER FUNCTION ${schema}.events_guard() SECURITY INVOKER`,
        `SELECT nextval('${table}_version_seq') FROM generate_series(1, 140)`
      ])
      assert.match(
        (yield* findings(schema)).join("\n"),
        /^problem: .*no trigger events_added.*\nproblem: .*events_guard does not run as the owner.*\nproblem: partitions are there for \d+ versions more/
      )
      assert.match((yield* findings(schema, "sequence")).join(), /^warning/)
    }).pipe(Effect.scoped)
  )
})
