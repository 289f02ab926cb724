/** The description of the tables: `strata schema`, the comments in the database, and what is there agree. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readFile } from "node:fs/promises"
import { commentRows, ofPartitions, tables } from "../../src/postgres/TableReference.ts"
import { jsonLines, succeeds } from "../cli/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { goSyncKit } from "./events.harness.ts"
import { execute, freshRole, migrate, query } from "./harness.ts"

/** Every column that is there, and its comment; the table itself with its comment stands under an empty name. */
const columnsIn = (url: string, schema: string) =>
  query(
    `SELECT relname::text, coalesce(attname::text, ''), coalesce(format_type(atttypid, atttypmod), ''),
       CASE WHEN attnum IS NULL THEN obj_description(pg_class.oid, 'pg_class') ELSE col_description(pg_class.oid, attnum) END
     FROM pg_class LEFT JOIN LATERAL (
       SELECT attname, atttypid, atttypmod, attnum FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
       UNION ALL SELECT NULL, NULL, NULL, NULL
     ) AS columns ON true
     WHERE relnamespace = '${schema}'::regnamespace AND relkind = 'r' ORDER BY 1, 2`,
    url
  )

const descriptionOf = (all: typeof tables) =>
  all
    .flatMap(({ columns, description, name }) => [
      [name, "", "", description],
      ...columns.map((column) => [name, column.name, column.type, column.description])
    ])
    .toSorted(([table = "", column = ""], [otherTable = "", otherColumn = ""]) =>
      table === otherTable ? (column < otherColumn ? -1 : 1) : table < otherTable ? -1 : 1
    )

const described = descriptionOf(tables)

describe("the description of the tables", () => {
  it("is what the migration says", async () => {
    const file = await readFile(new URL("../../resources/postgres/0069_events_comments.sql", import.meta.url), "utf8")
    const rows = file.split("\n").filter((line) => /^ +\('\w+', (NULL|'\w+'), '/.test(line))
    assert.deepStrictEqual(
      rows.map((line) => line.trim().replace(/,$/, "")),
      commentRows.split("\n").map((line) => line.trim().replace(/,$/, "")),
      "the rows of the migration are those of src/postgres/TableReference.ts"
    )
  })

  it.live("leaves no table and no column out, and is in the database, however often the migrations run", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      yield* migrate(url, { schema: "app", index: "containment", notify: "rows" })
      assert.deepStrictEqual(yield* columnsIn(url, "app"), described)
    }).pipe(Effect.scoped)
  )

  it.live("has the table of ids that a log with partitions has, new or divided later", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const isIds = ([table]: ReadonlyArray<unknown>) => table === "events_ids"
      yield* migrate(url, { schema: "app", partitions: { size: 50n } })
      yield* migrate(url, { schema: "later" })
      yield* execute(["INSERT INTO later.events (id, aggregate_id, event_type) VALUES ('a', 'a', 'T')"], url)
      yield* migrate(url, { schema: "later", partitions: { size: 50n } })
      for (const schema of ["app", "later"]) {
        assert.deepStrictEqual((yield* columnsIn(url, schema)).filter(isIds), descriptionOf([ofPartitions]))
      }
    }).pipe(Effect.scoped)
  )

  it.live("is what strata schema prints, whole, without a database", () =>
    Effect.gen(function* () {
      const text = yield* succeeds(["schema"])
      for (const [table = "", column = "", type = "", description = ""] of descriptionOf([...tables, ofPartitions])) {
        assert.isTrue(
          text.split("\n").some((line) => line.includes(column || table)) && text.includes(description),
          `${table}.${column}`
        )
        if (column !== "") assert.match(text, new RegExp(`^  ${column} +${type.replaceAll(/[()]/g, "\\$&")} `, "m"))
      }
      const lines = jsonLines(yield* succeeds(["schema", "--json"])).length
      assert.strictEqual(lines, descriptionOf([...tables, ofPartitions]).length)
    })
  )

  it.live("is written only where the table is that of the role, is no adopted one, and has no comment yet", () =>
    Effect.gen(function* () {
      // What belongs to the role is dropped before it.
      const go = yield* freshRole()
      const url = yield* scratchDatabase()
      yield* goSyncKit("app", url)
      yield* execute(
        [
          `CREATE TABLE app.offsets_store (projection_name VARCHAR(255), shard_number BIGINT, current_offset BIGINT NOT NULL,
             timestamp BIGINT NOT NULL, PRIMARY KEY (projection_name, shard_number))`,
          `ALTER TABLE app.offsets_store OWNER TO ${go.role}`,
          `CREATE TABLE app.states_store (persistence_id VARCHAR(255) PRIMARY KEY, version_number BIGINT NOT NULL,
             state_payload BYTEA NOT NULL, state_manifest VARCHAR(255) NOT NULL, timestamp BIGINT NOT NULL, shard_number BIGINT NOT NULL)`,
          "COMMENT ON TABLE app.states_store IS 'ours'",
          "COMMENT ON COLUMN app.states_store.timestamp IS 'when'"
        ],
        url
      )
      yield* migrate(url, { schema: "app", owners: [go.role] })
      const comments = new Map(
        (yield* columnsIn(url, "app")).map(([table, column, , comment]) => [`${table}.${column}`, comment])
      )
      const ofTable = (table: string) =>
        [...comments].flatMap(([name, comment]) => (name.startsWith(`${table}.`) ? [comment] : []))
      assert.isTrue(ofTable("offsets_store").every((comment) => comment === null))
      assert.isTrue(ofTable("events").every((comment) => comment === null))
      assert.strictEqual(comments.get("states_store."), "ours")
      assert.strictEqual(comments.get("states_store.timestamp"), "when")
      assert.match(String(comments.get("states_store.state_manifest")), /decides how it is read/)
      assert.match(String(comments.get("strata_messages.")), /The messages of queues/)
    }).pipe(Effect.scoped)
  )

  it.live("goes by the names that the tables have", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const names = { events: `my "log"`, offsets: "places", messages: "letters", spool: "go", states: "things" }
      yield* migrate(url, { tables: names })
      const rows = yield* columnsIn(url, "public")
      assert.deepStrictEqual(
        rows.filter(([, , , comment]) => comment === null),
        []
      )
      assert.deepInclude(rows, [`my "log"`, "", "", tables[0]?.description])
      assert.deepInclude(rows, [`my "log"_log`, "", "", tables[1]?.description])
    }).pipe(Effect.scoped)
  )
})
