/** A log in the compact layout keeps every promise of another one, except that its ids have to be UUIDs. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Queue, Stream } from "effect"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import { Decision, Entity, EventStore, Projection, Transactor } from "effect-strata/testing"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { fails, jsonLines, strata, succeeds, temporaryDirectory } from "../cli/harness.ts"
import { layerSchema, postgresUrl, scratchDatabase } from "../support/database.ts"
import { goSyncKitStart } from "../support/goServices.ts"
import { event, goSyncKit, plainInsert, serveEvents, session } from "./events.harness.ts"
import { execute, failsWith, freshSchema, migrate, query, shape } from "./harness.ts"

const options = { layout: "compact" } as const
const partitions = { size: 200n }

const layer = Layer.provide(Postgres.layer(options), layerSchema())

Decision.suite("postgres, compact", layer)
Entity.suite("postgres, compact", layer)
EventStore.suite("postgres, compact", layer)
Projection.suite("postgres, compact", layer)
Transactor.suite("postgres, compact", layer)

const divided = Layer.provide(Postgres.layer({ ...options, partitions }), layerSchema())

Decision.suite("postgres, compact, in partitions", divided)
EventStore.suite("postgres, compact, in partitions", divided)

EventStore.suite("pglite, compact", Layer.provide(Postgres.layer(options), Pglite.layer()), { interleaving: false })

const served = serveEvents({ options })

/** The columns of the table of events, and their types. */
const columnsOf = (table: string, url: string = postgresUrl) =>
  Effect.map(
    query(
      `SELECT string_agg(attname || ' ' || format_type(atttypid, NULL), ', ' ORDER BY attname) FROM pg_attribute
       WHERE attrelid = '${table}'::regclass AND attnum > 0 AND NOT attisdropped`,
      url
    ),
    ([row]) => String(row?.[0])
  )

const compactColumns =
  "aggregate_id text, created_at timestamp with time zone, data jsonb, event_type text, id uuid, metadata jsonb, version bigint"

const [id = "", second = "", third = "", fourth = ""] = Array.from({ length: 4 }, () => crypto.randomUUID())

/** A trigger that reads what a compact log has not. */
const reader = (schema: string) => [
  `CREATE FUNCTION ${schema}.tell() RETURNS TRIGGER LANGUAGE plpgsql AS $$
   BEGIN PERFORM pg_notify(NEW.stream_name, ''); RETURN NULL; END $$`,
  `CREATE TRIGGER tell AFTER INSERT ON ${schema}.events FOR EACH ROW EXECUTE FUNCTION ${schema}.tell()`
]

describe("a compact log", () => {
  it.live(
    "has no stream_name, ids of 16 bytes and NULL for no metadata, and gives its events as another log does",
    () =>
      Effect.gen(function* () {
        const { events, table } = yield* served
        assert.strictEqual(yield* columnsOf(table), compactColumns)
        const [alone] = yield* events.append(event("a"))
        yield* events.append([event("a"), { ...event("b"), tags: ["t"] }])
        yield* events.append({ ...event("b"), tags: ["t"] })
        yield* events.append({ ...event("c", id), metadata: { by: "me" } }, { expected: "none" })
        yield* events.append(event("c", second), { expected: "some" })
        assert.deepStrictEqual(
          yield* query(
            `SELECT metadata ->> 'by', pg_column_size(id), count(*)::int FROM ${table} GROUP BY metadata, 2 ORDER BY 1`
          ),
          [
            ["me", 16, 1],
            [null, 16, 5]
          ]
        )
        const all = yield* events.load()
        assert.deepStrictEqual(all[0], alone)
        assert.deepStrictEqual(
          all.map(({ streamName }) => streamName),
          all.map(({ aggregateId }) => `stream_${aggregateId}`)
        )
        assert.deepStrictEqual(yield* events.get(id), all[4])
        assert.deepStrictEqual(yield* Stream.runCollect(events.read({ metadata: { by: "me" } })), all.slice(4, 5))
      }).pipe(Effect.scoped)
  )

  it.live("refuses ids that are no UUIDs in lower case, alone, beside others and in a transaction, and has none", () =>
    Effect.gen(function* () {
      const { events, withTransaction } = yield* served
      yield* events.append(event("a", id))
      const wrong = ["mine", id.toUpperCase().replace(/^\d/, "A"), `{${id}}`, id.replaceAll("-", ""), `${id} `]
      for (const one of wrong) {
        const refused = yield* Effect.flip(events.append([event("a"), event("a", one)]))
        assert.strictEqual(refused._tag, "InvalidInput")
        assert.match(String(refused), /events\.1\.id.*Expected a UUID in lower case/s)
        assert.strictEqual((yield* Effect.flip(withTransaction(events.append(event("a", one)))))._tag, "InvalidInput")
        assert.strictEqual((yield* Effect.flip(events.get(one)))._tag, "EventNotFound")
      }
      const atOnce = yield* Effect.all(
        ["mine", second, third, fourth].map((one) => Effect.result(events.append(event(one, one)))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        atOnce.map(({ _tag }) => _tag),
        ["Failure", "Success", "Success", "Success"]
      )
      assert.strictEqual((yield* Effect.flip(events.append(event("b", id))))._tag, "DuplicateEvent")
      assert.strictEqual((yield* events.load()).length, 4)
    }).pipe(Effect.scoped)
  )

  it.live(
    "tells an append that expects something the last version, also where an older row lies behind the others",
    () =>
      Effect.gen(function* () {
        const { events, table } = yield* served
        const stored = yield* events.append([event("a"), event("a"), event("a")])
        yield* query(`UPDATE ${table} SET event_type = 'Renamed' WHERE version = ${stored[0]?.version ?? 0n}`)
        yield* events.append(event("a"), { expected: stored[2]?.version ?? 0n })
      }).pipe(Effect.scoped)
  )

  const kinds = [
    ["in a plain table", {}],
    ["in partitions", { partitions }]
  ] as const

  it.live.each(kinds)("%s is not the log of a cursor whose id is no UUID", ([, extras]) =>
    Effect.gen(function* () {
      const { events } = yield* serveEvents({ options: { ...options, ...extras } })
      yield* events.append([event("a"), event("a")])
      assert.lengthOf(yield* events.load(), 2)
      const error = yield* Effect.flip(events.load({ version: 1n, id: "mine" }))
      assert.strictEqual(error._tag, "LogReplaced")
    }).pipe(Effect.scoped)
  )

  it.live("is worked on by processes and by the command without the option, and stays what it is", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* served
      yield* events.append(event("a", id))
      const other = yield* serveEvents({ options: { schema } })
      yield* other.events.append(event("a", second), { expected: "some" })
      yield* other.events.append([event("b"), event("b")])
      yield* (yield* session())(plainInsert(table, third))
      const before = yield* shape(postgresUrl, table)
      yield* succeeds(["migrate", "--schema", schema], { url: postgresUrl })
      yield* succeeds(["migrate", "--schema", schema, "--layout", "compact"], { url: postgresUrl })
      assert.deepStrictEqual(yield* shape(postgresUrl, table), before)
      assert.strictEqual((yield* events.load()).length, 5)
      assert.include(yield* succeeds(["events", "show", id, "--schema", schema], { url: postgresUrl }), id)
    }).pipe(Effect.scoped)
  )

  it.live("notifies of each event as go-sync-kit does, where that is asked for", () =>
    Effect.gen(function* () {
      const { events, sql } = yield* serveEvents({ options: { ...options, notify: "rows" } })
      const told = yield* sql.listen("stream_a")
      yield* events.append(event("a", id))
      const { payload } = yield* Queue.take(told)
      assert.match(String(payload), new RegExp(`^{"version" : 1, "id" : "${id}", "aggregate_id" : "a", `))
    }).pipe(Effect.scoped)
  )
})

describe("the layout of a log", () => {
  it.live("becomes compact while there are no events, with partitions or without, and keeps indexes and comments", () =>
    Effect.gen(function* () {
      for (const extras of [{}, { partitions }]) {
        const [url, fresh] = [yield* scratchDatabase(), yield* scratchDatabase()]
        yield* migrate(url, { schema: "strata", ...extras })
        yield* succeeds(["migrate", "--schema", "strata", "--layout", "compact"], { url })
        yield* migrate(fresh, { schema: "strata", ...extras, ...options })
        const made = (place: string) =>
          Effect.all([
            columnsOf("strata.events", place),
            query(
              `SELECT regexp_replace(pg_get_indexdef(indexrelid), '.* (ON ONLY|ON) ', '') FROM pg_index
               WHERE indrelid = 'strata.events'::regclass ORDER BY 1`,
              place
            ),
            query(
              `SELECT obj_description('strata.events'::regclass, 'pg_class'), col_description('strata.events'::regclass, 2)`,
              place
            ),
            // One of them gives a number that is another one in each database.
            query(
              `SELECT pg_get_functiondef(oid) FROM pg_proc
               WHERE pronamespace = 'strata'::regnamespace AND proname <> 'events_key' ORDER BY 1`,
              place
            )
          ])
        const [columns, , [comments = []]] = yield* made(url)
        assert.deepStrictEqual(yield* made(url), yield* made(fresh))
        assert.strictEqual(columns, compactColumns)
        assert.match(String(comments[0]), /compact/)
        const { events } = yield* serveEvents({ url, options: { schema: "strata" } })
        yield* events.append(event("a", id), { expected: "none" })
        assert.strictEqual((yield* Effect.flip(events.append(event("b", id))))._tag, "DuplicateEvent")
        assert.strictEqual((yield* events.get(id)).aggregateId, "a")
      }
    }).pipe(Effect.scoped)
  )

  it.live("is not changed where there are events, on a table of go-sync-kit, or where a trigger needs what goes", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* serveEvents()
      const before = yield* shape(postgresUrl, table)
      const stored = yield* events.append(event("a"))
      const refused = (place: string, says: RegExp) =>
        failsWith(
          Effect.scoped(serveEvents({ options: { ...options, schema: place } })),
          "Postgres.migrate",
          "Unexpected",
          says
        )
      yield* refused(schema, /has events: the compact layout is an option for a log without any/)
      yield* fails(["migrate", "--schema", schema, "--layout", "compact"], 1, /has events/, { url: postgresUrl })
      assert.deepStrictEqual(yield* shape(postgresUrl, table), before)
      assert.deepStrictEqual(yield* events.load(), stored)
      const goes = yield* freshSchema()
      yield* goSyncKit(goes)
      yield* execute([`DELETE FROM ${goes}.events`])
      yield* refused(goes, /is one of go-sync-kit/)
      const { schema: watched } = yield* serveEvents()
      yield* execute(reader(watched))
      yield* refused(watched, /the trigger tell .* reads stream_name/)
    }).pipe(Effect.scoped)
  )

  it.live("makes no difference to an export, which is the same from each of them, byte for byte", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const from = yield* serveEvents()
      yield* from.events.append({ ...event("a"), metadata: { by: "me", large: 1e20 }, tags: ["one", "two"] })
      yield* from.events.append([event("a"), { ...event("b", id), data: null }])
      const file = (name: string) => join(directory, `${name}.jsonl`)
      const exported = (schema: string, name: string) =>
        Effect.andThen(
          succeeds(["events", "export", file(name), "--schema", schema], { url: postgresUrl }),
          Effect.promise(() => readFile(file(name), "utf8"))
        )
      const text = yield* exported(from.schema, "from")
      const imported = Effect.fnUntraced(function* (settings: Postgres.Options, source: string) {
        const { schema } = yield* serveEvents({ options: settings })
        const run = (...args: ReadonlyArray<string>) =>
          succeeds(["events", "import", ...args, file(source), "--schema", schema], { url: postgresUrl })
        assert.match(yield* run(), /^3 events imported/)
        assert.match(yield* run(), /^0 events imported/)
        yield* run("--verify")
        return schema
      })
      const compact = yield* imported(options, "from")
      assert.strictEqual(yield* exported(compact, "compact"), text)
      const inPartitions = yield* imported({ ...options, partitions }, "compact")
      assert.strictEqual(yield* exported(inPartitions, "partitions"), text)
      assert.strictEqual(yield* exported(yield* imported({}, "partitions"), "plain"), text)
      // What a compact log cannot store is refused as a whole.
      yield* from.events.append(event("a", "mine"))
      yield* exported(from.schema, "mine")
      const place = { url: postgresUrl }
      yield* fails(
        ["events", "import", file("mine"), "--schema", compact],
        1,
        /line 4.*"mine".*Expected a UUID/s,
        place
      )
      yield* fails(["events", "import", "--verify", file("mine"), "--schema", compact], 1, /"mine"/, place)
      assert.strictEqual(yield* exported(compact, "still"), text)
    }).pipe(Effect.scoped)
  )

  it.live("stays while a log with events is divided into partitions, and parts of it are archived and restored", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* served
      const place = { url: postgresUrl }
      yield* events.append(event("a", id))
      yield* events.append(Array.from({ length: 149 }, () => ({ ...event("a"), metadata: { by: "me" } })))
      yield* succeeds(["migrate", "--schema", schema, "--partitions", "50"], place)
      // The next events come after the end of the first partition, which is the table that was there.
      const [row] = yield* query(
        `SELECT split_part(pg_get_expr(relpartbound, oid), '''', 4) FROM pg_class WHERE oid = '${table}_0'::regclass`
      )
      const ending = String(row?.[0])
      yield* query(`SELECT setval(pg_get_serial_sequence('${table}', 'version'), ${ending})`)
      yield* events.append(Array.from({ length: 10 }, () => event("b")))
      const other = yield* serveEvents({ options: { schema } })
      assert.strictEqual((yield* Effect.flip(other.events.append(event("b", id))))._tag, "DuplicateEvent")
      const rows = query(`SELECT event::text FROM ${table} AS event ORDER BY version`)
      const before = yield* rows
      const directory = yield* temporaryDirectory
      const where = ["--dir", directory, "--schema", schema]
      yield* succeeds(["archive", "--before", ending, ...where], place)
      assert.lengthOf(yield* rows, 10)
      assert.deepStrictEqual(yield* query(`SELECT version FROM ${table}_ids WHERE id = '${id}'`), [[1n]])
      yield* succeeds(["restore", ...where], place)
      assert.deepStrictEqual(yield* rows, before)
      assert.include(yield* columnsOf(table), "id uuid")
    }).pipe(Effect.scoped)
  )

  it.live("is told by strata doctor, with a trigger that does not go with it", () =>
    Effect.gen(function* () {
      const found = (schema: string) =>
        Effect.map(strata(["doctor", "--json", "--schema", schema], { url: postgresUrl }), ({ stdout }) =>
          jsonLines(stdout).flatMap((line) => (line["check"] === "layout" ? [`${line["level"]}: ${line["says"]}`] : []))
        )
      const { schema: plain } = yield* serveEvents()
      assert.match((yield* found(plain)).join(), /^ok: ids are texts/)
      const { schema } = yield* served
      assert.match((yield* found(schema)).join(), /^ok: compact/)
      yield* execute(reader(schema))
      assert.match((yield* found(schema)).join(), /^problem: the trigger tell reads stream_name/)
    }).pipe(Effect.scoped)
  )

  it.live("stops go-sync-kit at its start where it is compact, with an error that names the column", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* served
      yield* events.append(event("a"))
      const before = yield* shape(postgresUrl, table)
      const go = yield* session()
      const { reason } = yield* Effect.flip(
        Effect.forEach(goSyncKitStart(schema), (statement) => go(statement), { discard: true })
      )
      assert.match(String(reason.cause), /column "stream_name" does not exist/)
      yield* go("ROLLBACK")
      assert.deepStrictEqual(yield* shape(postgresUrl, table), before)
      yield* events.append(event("a"))
    }).pipe(Effect.scoped)
  )
})
