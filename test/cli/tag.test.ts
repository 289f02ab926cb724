/** `strata events tag`: which tags it gives, how it ends, and that it goes on after it was killed. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { serveEvents } from "../postgres/events.harness.ts"
import { execute, freshSchema, query } from "../postgres/harness.ts"
import { postgresUrl } from "../support/database.ts"
import { beginOnTerminal, fails, jsonLines, start, strata, succeeds, temporaryDirectory } from "./harness.ts"

/** A schema with events as a Go service writes them. */
const logOf = Effect.fnUntraced(function* (
  ...events: ReadonlyArray<readonly [aggregate: string, type: string, data: string, metadata?: string]>
) {
  const schema = yield* freshSchema()
  const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
  yield* succeeds(["migrate"], options)
  const rows = events.map(
    ([aggregate, type, data, metadata = "null"], index) =>
      `('go-${index}', '${aggregate}', '${type}', '${data}', '${metadata}')`
  )
  yield* execute([
    `INSERT INTO ${schema}.events (id, aggregate_id, event_type, data, metadata) VALUES ${rows.join(", ")}`
  ])
  const tagsOf = Effect.map(
    query(
      `SELECT version::int, array_agg(tag ORDER BY tag) FROM ${schema}.events_tags WHERE tag <> '' GROUP BY 1 ORDER BY 1`
    ),
    (rows) => Object.fromEntries(rows)
  )
  return { options, schema, tagsOf }
})

const tag = (...args: ReadonlyArray<string>) => ["events", "tag", ...args]

describe("strata events tag", () => {
  it.live("makes tags of fields of the data, of lists, of the aggregate and of the metadata", () =>
    Effect.gen(function* () {
      const { options, tagsOf } = yield* logOf(
        ["c1", "Subscribed", `{"course":"c1","student":{"id":7}}`, `{"tenant":"nz"}`],
        ["c2", "Subscribed", `{"course":"c2","student":{"id":9007199254740993}}`, `{"tenant":"au"}`],
        ["o1", "Ordered", `{"lines":[{"sku":"a"},{"sku":"b"},{"sku":"a"}],"paid":true,"of":[]}`]
      )
      const type = ["--type", "Subscribed"]
      const templates = [
        "--tag",
        "course:{course}",
        "--tag",
        "student:{student.id}",
        "--tag",
        "{@metadata.tenant}/{course}"
      ]
      const dry = yield* strata(tag(...type, ...templates, "--dry-run"), options)
      assert.strictEqual(dry.stdout, "2 events would get 6 tags; 2 events looked at\n")
      assert.strictEqual(
        dry.stderr,
        "event 1: course:c1, student:7, nz/c1\nevent 2: course:c2, student:9007199254740993, au/c2\n"
      )
      assert.deepStrictEqual(yield* tagsOf, {})
      assert.strictEqual(
        yield* succeeds(tag(...type, ...templates), options),
        "2 events got 6 tags; 2 events looked at\n"
      )
      yield* succeeds(tag("--type", "Ordered", "--tag", "sku:{lines.sku}", "--tag", "{@aggregateId} {paid}"), options)
      assert.deepStrictEqual(yield* tagsOf, {
        1: ["course:c1", "nz/c1", "student:7"],
        2: ["au/c2", "course:c2", "student:9007199254740993"],
        3: ["o1 true", "sku:a", "sku:b"]
      })
      const read = yield* succeeds(["events", "read", "--tag", "student:7", "--json"], options)
      assert.include(read, `"aggregateId":"c1"`)
      const json = yield* succeeds(tag(...type, ...templates, "--json"), options)
      assert.deepStrictEqual(JSON.parse(json), { events: 0, tags: 0, read: 2, dryRun: false })
    }).pipe(Effect.scoped)
  )

  it.live("begins and ends with the versions that are given", () =>
    Effect.gen(function* () {
      const { options, tagsOf } = yield* logOf(["a", "T", "1"], ["a", "U", "2"], ["a", "T", "3"], ["a", "T", "4"])
      yield* succeeds(tag("--tag", "all", "--type", "T", "--from", "2", "--to", "3"), options)
      assert.deepStrictEqual(yield* tagsOf, { 3: ["all"] })
      yield* succeeds(tag("--tag", "all", "--to", "2"), options)
      assert.deepStrictEqual(Object.keys(yield* tagsOf), ["1", "2", "3"])
      assert.match(
        yield* succeeds(tag("--tag", "all", "--from", "5"), options),
        /^0 events got 0 tags; 0 events looked at$/m
      )
    }).pipe(Effect.scoped)
  )

  it.live("ends before an event that lacks a value, unless it is told to leave the tag out", () =>
    Effect.gen(function* () {
      const { options, tagsOf } = yield* logOf(
        ["a", "T", `{"x":"1"}`],
        ["a", "T", `{"x":null,"y":{"z":1}}`],
        ["a", "T", `{"x":"${"long".repeat(64)}"}`]
      )
      const says = /event 2 \("T"\): has no value for x:\{x\}; --skip-missing leaves the tag out/
      yield* fails(tag("--tag", "x:{x}"), 1, says, options)
      yield* fails(tag("--tag", "y:{y}"), 1, /event 1 \("T"\): has no value for y:\{y\}/, options)
      yield* fails(
        tag("--tag", "x:{x}", "--skip-missing"),
        1,
        /event 3 \("T"\): x:\{x\} gives a tag that .* 255/,
        options
      )
      yield* succeeds(tag("--tag", "x:{x}", "--tag", "has", "--skip-missing", "--to", "2"), options)
      assert.deepStrictEqual(yield* tagsOf, { 1: ["has", "x:1"], 2: ["has"] })
    }).pipe(Effect.scoped)
  )

  it.live("refuses what is no template", () =>
    Effect.gen(function* () {
      const { options } = yield* logOf(["a", "T", "1"])
      for (const [template, says] of [
        ["", /such as course:\{course\}/],
        ["a:{b", /in pairs/],
        ["a:b}", /in pairs/],
        ["a:{{b}}", /in pairs/],
        ["a:{}", /the name of a field/],
        ["a:{b..c}", /the name of a field/],
        ["a:{@id}", /\{@aggregateId\}/],
        ["a:{@metadata}", /\{@metadata\.field\}/],
        ["a:{@aggregateId.x}", /\{@metadata\.field\}/]
      ] as const) {
        const ended = yield* strata(tag("--tag", template), options)
        assert.strictEqual(ended.status, 2, template)
        assert.match(ended.stderr + ended.stdout, says, template)
      }
      assert.strictEqual((yield* strata(tag(), options)).status, 2)
    }).pipe(Effect.scoped)
  )

  it.live("goes on after it was killed in the middle, with a bar on a terminal", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* serveEvents()
      const total = 20_000
      yield* execute([
        `INSERT INTO ${table} (id, aggregate_id, event_type, data)
         SELECT 'go-' || n, 'a', 'T', jsonb_build_object('n', n, 'm', n % 5) FROM generate_series(1, ${total}) AS n`
      ])
      const before = yield* events.readForDecision([{ tags: ["m:1"] }])
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      const args = tag("--tag", "n:{n}", "--tag", "m:{m}")
      const killed = yield* start(args, options)
      yield* killed.says(/looked at \d/)
      yield* Effect.sync(() => killed.child.kill("SIGKILL"))
      yield* killed.ended
      const count = Effect.map(
        query(`SELECT count(*)::int, count(DISTINCT version)::int FROM ${table}_tags WHERE tag <> ''`),
        ([row]) => ({ tags: Number(row?.[0]), events: Number(row?.[1]) })
      )
      const half = yield* count
      assert.isAbove(half.events, 0)
      assert.strictEqual(half.tags, 2 * half.events, "each batch is there as a whole, or not at all")
      const again = yield* beginOnTerminal(args, options)
      yield* again.says(/\[#+\.+\] looked at [\d,]+ of 20,000 versions/)
      const ended = yield* again.ended
      assert.strictEqual(ended.status, 0, ended.stderr)
      const rest = (total - half.events).toLocaleString("en-US")
      assert.include(ended.stdout, `${rest} events got`)
      assert.deepStrictEqual(yield* count, { tags: 2 * total, events: total })
      const late = { aggregateId: "a", eventType: "T", data: 0, tags: ["m:1"] }
      const error = yield* Effect.flip(events.append(late, { condition: before.condition }))
      assert.strictEqual(error._tag, "ConditionFailed")
      const now = yield* events.readForDecision([{ tags: ["m:1"] }])
      assert.lengthOf(now.events, total / 5)
      yield* events.append(late, { condition: now.condition })
    }).pipe(Effect.scoped)
  )
})

describe("tags that events got afterwards", () => {
  /** Names with what JSON, SQL and terminals treat in a way of their own. */
  const names = [`Jöhn "the" \\ 7`, "a'b\u2028", "{x}", "\u{1f600} z"]

  const emptyLog = (schema: string, options: { readonly url: string }) =>
    Effect.as(succeeds(["migrate", "--schema", schema], options), schema)

  const rowsOf = (schema: string) =>
    query(
      `SELECT tag, id FROM ${schema}.events_tags JOIN ${schema}.events USING (version) WHERE tag <> '' ORDER BY 2, 1`
    )

  it.live("are in an export and in an import of it, byte for byte", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* logOf(
        ...names.map((name, n) => [`a${n}`, "T", JSON.stringify({ name }).replaceAll("'", "''")] as const)
      )
      yield* succeeds(["events", "append", "--aggregate", "b", "--type", "U", "--tag", "mine"], options)
      yield* succeeds(tag("--skip-missing", "--tag", "name:{name}", "--tag", "of {@aggregateId}"), options)
      const exported = yield* succeeds(["events", "export"], options)
      assert.deepStrictEqual(
        jsonLines(exported).flatMap(({ tags }) => (tags === undefined ? [] : [tags])),
        [...names.map((name, n) => [`name:${name}`, `of a${n}`]), ["mine", "of b"]]
      )
      const to = yield* Effect.flatMap(freshSchema(), (schema) => emptyLog(schema, options))
      const importing = ["events", "import", "-", "--schema", to]
      yield* succeeds(importing, { ...options, input: exported })
      assert.strictEqual(yield* succeeds(["events", "export", "--schema", to], options), exported)
      assert.deepStrictEqual(yield* rowsOf(to), yield* rowsOf(schema))
      assert.lengthOf(yield* rowsOf(to), 2 * names.length + 2)
      // Whoever imports it once more changes nothing.
      assert.match(
        yield* succeeds(importing, { ...options, input: exported }),
        /^0 events imported from .*, 5 were there/
      )
      assert.deepStrictEqual(yield* rowsOf(to), yield* rowsOf(schema))
    }).pipe(Effect.scoped)
  )

  it.live("go through events append, from the lines of an export", () =>
    Effect.gen(function* () {
      const { options, schema } = yield* logOf(
        ...names.map((name, n) => [`a${n}`, "T", JSON.stringify({ name }).replaceAll("'", "''")] as const)
      )
      yield* succeeds(tag("--tag", "name:{name}", "--tag", "of {@aggregateId}"), options)
      const lines = jsonLines(yield* succeeds(["events", "export"], options)).slice(0, -1)
      const input = lines
        .map(({ aggregateId, data, eventType, id, tags }) => JSON.stringify({ id, aggregateId, eventType, data, tags }))
        .join("\n")
      const to = yield* Effect.flatMap(freshSchema(), (schema) => emptyLog(schema, options))
      yield* succeeds(["events", "append", "--schema", to], { ...options, input: `${input}\n` })
      assert.deepStrictEqual(yield* rowsOf(to), yield* rowsOf(schema))
      assert.lengthOf(yield* rowsOf(to), 2 * names.length)
    }).pipe(Effect.scoped)
  )

  it.live("are those of events from SQLite, which come with none", () =>
    Effect.gen(function* () {
      const file = join(yield* temporaryDirectory, "events.db")
      const database = new DatabaseSync(file)
      database.exec(`
        CREATE TABLE events (
          version INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL,
          event_type TEXT NOT NULL, data TEXT, metadata TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
        );
        INSERT INTO events (id, aggregate_id, event_type, data, metadata) VALUES
          ('e1', 'u1', 'Created', '{"tags":["x"],"name":"anna"}', '{"tags":["y"]}'),
          ('e2', 'u2', 'Renamed', '{"name":"bert"}', 'null')`)
      database.close()
      const schema = yield* freshSchema()
      const options = { url: postgresUrl, env: { DB_SCHEMA: schema } }
      yield* succeeds(["migrate"], options)
      yield* succeeds(["events", "import", "--sqlite", file], options)
      assert.deepStrictEqual(yield* query(`SELECT tag FROM ${schema}.events_tags`), [])
      assert.strictEqual(
        yield* succeeds(tag("--tag", "name:{name}"), options),
        "2 events got 2 tags; 2 events looked at\n"
      )
      const tagged = [
        ["name:anna", "e1"],
        ["name:bert", "e2"]
      ]
      assert.deepStrictEqual(yield* rowsOf(schema), tagged)
      yield* succeeds(["events", "import", "--sqlite", file], options)
      assert.deepStrictEqual(yield* rowsOf(schema), tagged)
      const read = yield* succeeds(["events", "read", "--tag", "name:bert", "--json"], options)
      assert.deepStrictEqual(
        jsonLines(read).map(({ id }) => id),
        ["e2"]
      )
    }).pipe(Effect.scoped)
  )
})
