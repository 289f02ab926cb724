import { PgClient } from "@effect/sql-pg"
/** A table that has had events is divided into partitions while others read and write: nothing is lost, and nobody notices. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Queue, Redacted } from "effect"
import { EventStore } from "effect-strata"
import * as Pglite from "effect-strata/pglite"
import * as Postgres from "effect-strata/postgres"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { temporaryDirectory } from "../cli/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { goSyncKitStart } from "../support/goServices.ts"
import {
  event,
  follow,
  goSyncKit,
  plainInsert,
  serveEvents,
  type ServedEvents,
  session,
  untilBlocked,
  versionsIn
} from "./events.harness.ts"
import { execute, failsWith, freshRole, freshSchema, migrate, query } from "./harness.ts"

const size = 50n

/** Divides the table of a schema, as a deployment step does. */
const divide = (schema: string, url: string, options: Postgres.Options = {}) =>
  migrate(url, { schema, partitions: { size }, ...options })

/** Where events are: before which version the first partition ends. */
const firstEnding = (table: string, url: string) =>
  Effect.map(
    query(
      `SELECT split_part(pg_get_expr(relpartbound, oid), '''', 4)::bigint::text FROM pg_class WHERE oid = '${table}_0'::regclass`,
      url
    ),
    ([row]) => BigInt(String(row?.[0]))
  )

/** Whether the table of ids has exactly the ids of the events, with their versions. */
const assertIds = (table: string, url: string) =>
  Effect.map(
    query(
      `SELECT count(*)::int FROM ${table} FULL JOIN ${table}_ids USING (id, version) WHERE event_type IS NULL OR id IS NULL`,
      url
    ),
    (rows) => assert.deepStrictEqual(rows, [[0]])
  )

/** The versions of the next events are those of the next partition. */
const drawUntil = (table: string, version: bigint, url: string) =>
  query(`SELECT setval(pg_get_serial_sequence('${table}', 'version'), ${version})`, url)

const refused = (statement: Effect.Effect<unknown, { readonly reason: { readonly cause: unknown } }>, why: RegExp) =>
  Effect.map(Effect.flip(statement), ({ reason }) => assert.match(String(reason.cause), why))

/** Tables with some events: one of ours, whose versions are an identity, and one of go-sync-kit's, where they are a default. */
const origins = [
  { name: "ours", prepare: (_schema: string, _url: string) => Effect.void },
  { name: "go-sync-kit's", prepare: (schema: string, url: string) => goSyncKit(schema, url) }
]

/** Appends so many events, some with ids of their own. */
const appendSome = ({ events }: Pick<ServedEvents, "events">, name: string) =>
  Effect.forEach([1, 2, 3, 4, 5], (number) =>
    events.append([event(`aggregate ${number}`), event("many", `${name} ${number}`)])
  )

/** The wake-ups of a layer of its own. */
const wakeupsOf = Effect.fnUntraced(function* (url: string, schema: string) {
  const context = yield* Layer.build(
    Wakeups.layer.pipe(
      Layer.provide(Postgres.PostgresDatabase.layer({ schema })),
      Layer.provide(PgClient.layer({ url: Redacted.make(url) }))
    )
  )
  const { announce, listen } = Context.get(context, Wakeups.Wakeups)
  return { announce: Effect.sync(() => announce("events")), listen }
})

/** Listens for wake-ups of the table of events. */
const listen = Effect.fnUntraced(function* ({ listen }: Effect.Success<ReturnType<typeof wakeupsOf>>) {
  const listening = yield* Deferred.make<void>()
  const woken = yield* Queue.unbounded<void>()
  yield* listen("events", ({ wait }) =>
    Effect.andThen(
      Deferred.succeed(listening, undefined),
      Effect.forever(Effect.andThen(wait("1 hour"), Queue.offer(woken, undefined)))
    )
  ).pipe(Effect.forkScoped)
  yield* Deferred.await(listening)
  return { once: Queue.take(woken), forget: Queue.clear(woken) }
})

describe("a table that has had events", () => {
  for (const { name, prepare } of origins) {
    it.live(`is divided while processes run, and goes on in partitions as before: ${name}`, () =>
      Effect.gen(function* () {
        const url = yield* scratchDatabase()
        const schema = yield* freshSchema(url)
        yield* prepare(schema, url)
        const before = yield* serveEvents({ url, options: { schema } })
        const { table } = before
        const reader = yield* follow(before, { after: "start" })
        yield* appendSome(before, "first")
        yield* Effect.flip(before.events.get("missing"))
        const stored = yield* before.events.load()
        const files = query(
          `SELECT pg_relation_filenode(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
           WHERE relname IN ('events', 'events_0') AND pg_relation_filenode(indexrelid) IS NOT NULL ORDER BY 1`,
          url
        )
        const indexes = yield* files
        yield* divide(schema, url)
        assert.deepStrictEqual(
          yield* query(`SELECT relkind::text FROM pg_class WHERE oid = '${table}'::regclass`, url),
          [["p"]]
        )
        assert.deepStrictEqual(yield* before.events.load(), stored)
        assert.deepStrictEqual(yield* files, indexes)
        // The process that ran before, one that comes now, and plain SQL.
        const after = yield* serveEvents({ url, options: { schema } })
        const [next] = yield* before.events.append(event("next"))
        assert.strictEqual(next?.version, (stored.at(-1)?.version ?? 0n) + 1n)
        yield* appendSome(after, "second")
        yield* reader.until((yield* after.events.load()).at(-1)?.version ?? 0n)
        yield* query(plainInsert(table, "plain"), url)
        yield* drawUntil(table, (yield* firstEnding(table, url)) - 5n, url)
        yield* appendSome(before, "third")
        yield* appendSome(after, "fourth")
        for (const stores of [before, after]) {
          for (const known of ["first 1", "plain", "third 5", "fourth 2"]) {
            assert.strictEqual((yield* stores.events.get(known)).id, known)
            assert.strictEqual((yield* Effect.flip(stores.events.append(event("a", known))))._tag, "DuplicateEvent")
            yield* refused(query(plainInsert(table, known), url), /duplicate key/)
          }
          const conflict = yield* Effect.flip(stores.events.append(event("many"), { expected: "none" }))
          assert.strictEqual(conflict._tag, "VersionConflict")
        }
        const versions = yield* versionsIn(table, "true", url)
        yield* reader.until(versions.at(-1) ?? 0n)
        assert.deepStrictEqual(reader.seen, versions)
        yield* assertIds(table, url)
        // Nothing of the preparation is left, and a Go service that starts finds what it has made.
        assert.deepStrictEqual(
          yield* query(
            `SELECT proname::text FROM pg_proc WHERE proname LIKE 'events_gather%'
             UNION ALL SELECT relname::text FROM pg_class WHERE relname LIKE 'events_gather%'
             UNION ALL SELECT conname::text FROM pg_constraint WHERE conname = 'events_first'`,
            url
          ),
          []
        )
        const go = yield* session(url)
        for (const statement of goSyncKitStart(schema)) yield* go(statement)
        yield* go(plainInsert(table, "go"))
        yield* divide(schema, url)
      }).pipe(Effect.scoped)
    )
  }

  it.live("keeps the keys of the locks of appends: who has one before keeps out appends afterwards", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const schema = yield* freshSchema(url)
      const before = yield* serveEvents({ url, options: { schema } })
      yield* appendSome(before, "first")
      const holder = yield* session(url)
      yield* holder("BEGIN")
      // What an append takes that expects something of the aggregate, and what a condition takes of its tag.
      yield* holder(
        `SELECT pg_advisory_xact_lock(hashtextextended('held', 2 * '${before.table}'::regclass::oid::bigint)),
           pg_advisory_xact_lock(hashtextextended('held', -1 - '${before.table}'::regclass::oid::bigint))`
      )
      yield* divide(schema, url)
      const after = yield* serveEvents({ url, options: { schema } })
      const appends = yield* Effect.forEach([before, after], (stores) =>
        Effect.gen(function* () {
          const appends = yield* Effect.forEach(
            [
              stores.events.append(event("held")),
              stores.events.append({ ...event("tagged"), tags: ["held"] }),
              stores.withTransaction(stores.events.append(event("held"), { expected: "none" }).pipe(Effect.ignore))
            ],
            (append) => Effect.forkScoped(append)
          )
          yield* untilBlocked(3, stores.applicationName)
          return appends
        })
      )
      for (const fiber of appends.flat()) assert.isUndefined(fiber.pollUnsafe())
      assert.strictEqual((yield* after.events.loadByAggregate("held")).length, 0)
      yield* holder("COMMIT")
      for (const fiber of appends.flat()) yield* Fiber.join(fiber)
    }).pipe(Effect.scoped)
  )

  it.live("is heard of by who listened before, whoever tells of it afterwards, and the other way round", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const schema = yield* freshSchema(url)
      const stores = yield* serveEvents({ url, options: { schema } })
      yield* appendSome(stores, "first")
      const before = yield* wakeupsOf(url, schema)
      const told = yield* listen(before)
      yield* (yield* wakeupsOf(url, schema)).announce
      yield* told.once
      yield* divide(schema, url)
      yield* told.forget
      const after = yield* wakeupsOf(url, schema)
      yield* after.announce
      yield* told.once
      const toldLater = yield* listen(after)
      yield* before.announce
      yield* toldLater.once
    }).pipe(Effect.scoped)
  )

  it.live("is divided in PGlite, too", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const use = (options: Postgres.Options) =>
        EventStore.EventStore.use((events) =>
          Effect.gen(function* () {
            yield* events.append(event("a", `with ${Object.keys(options).length} options`))
            return (yield* events.load()).map(({ version }) => version)
          })
        ).pipe(Effect.provide(Layer.provide(Postgres.layer(options), Pglite.layer({ dataDir: directory }))))
      assert.deepStrictEqual(yield* use({}), [1n])
      assert.deepStrictEqual(yield* use({ partitions: { size } }), [1n, 2n])
    }).pipe(Effect.scoped)
  )

  it.live("gathers the ids of events that come, are deleted and come again until it is divided", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const schema = yield* freshSchema(url)
      const stores = yield* serveEvents({ url, options: { schema } })
      const { events, table } = stores
      yield* appendSome(stores, "first")
      const reader = yield* session(url)
      yield* reader("BEGIN")
      yield* reader(`SELECT FROM ${table}`)
      // All ids are gathered then, and the reader is in the way of the limit.
      yield* failsWith(
        divide(schema, url, { migrationWait: 0 }),
        "Postgres.migrate",
        "Contention",
        /lock that a migration needs/
      )
      yield* appendSome(stores, "second")
      yield* query(`DELETE FROM ${table} WHERE id IN ('first 1', 'first 2', 'second 1')`, url)
      yield* events.append(event("again", "first 2"))
      yield* reader("COMMIT")
      // Another process has chosen the limit and was killed, and writers have come near it.
      yield* query(
        `ALTER TABLE ${table} ADD CONSTRAINT events_first CHECK (version >= 0 AND version < 250050) NOT VALID`,
        url
      )
      yield* drawUntil(table, 200_000n, url)
      yield* events.append(event("far"))
      yield* divide(schema, url)
      assert.isTrue((yield* firstEnding(table, url)) > 450_000n)
      yield* assertIds(table, url)
      yield* events.append([event("again", "first 1"), event("again", "second 1")])
      assert.strictEqual((yield* Effect.flip(events.append(event("again", "first 2"))))._tag, "DuplicateEvent")
      yield* query(`TRUNCATE ${table}`, url)
      yield* assertIds(table, url)
    }).pipe(Effect.scoped)
  )

  it.live("keeps its indexes, triggers, comments and grants, and who may insert may go on", () =>
    Effect.gen(function* () {
      const { role, url: roleUrl } = yield* freshRole()
      const url = yield* scratchDatabase()
      yield* migrate(url, { schema: "strata", notify: "rows", index: "containment" })
      const stores = yield* serveEvents({ url, options: { schema: "strata" } })
      yield* appendSome(stores, "first")
      yield* execute(
        [
          `GRANT USAGE ON SCHEMA strata TO ${role}`,
          `GRANT SELECT, INSERT (id, aggregate_id, event_type, data, metadata) ON strata.events TO ${role}`,
          `GRANT SELECT, INSERT ON strata.events_tags TO ${role}`,
          `GRANT SELECT ON strata.events_log TO ${role}`
        ],
        url
      )
      const own = new URL(url)
      own.username = role
      own.password = new URL(roleUrl).password
      const theirs = yield* serveEvents({ url: own.href, layer: Postgres.layerStorage, options: { schema: "strata" } })
      yield* appendSome(theirs, "theirs")
      const described = query(
        `SELECT regexp_replace(pg_get_indexdef(indexrelid), '.* (ON ONLY|ON) ', ''), '' FROM pg_index
         WHERE indrelid = 'strata.events'::regclass AND NOT indisunique
         UNION ALL SELECT tgname::text, '' FROM pg_trigger WHERE tgrelid = 'strata.events'::regclass AND tgname = 'events_notify_trigger'
         UNION ALL SELECT attname::text, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'strata.events'::regclass AND attnum > 0
         UNION ALL SELECT 'comment', obj_description('strata.events'::regclass, 'pg_class')
         UNION ALL SELECT 'may insert', has_column_privilege('${role}', 'strata.events', 'data', 'INSERT')::text
         UNION ALL SELECT 'may forge', has_column_privilege('${role}', 'strata.events', 'version', 'INSERT')::text
         ORDER BY 1, 2`,
        url
      )
      const before = yield* described
      yield* divide("strata", url)
      assert.deepStrictEqual(yield* described, before)
      yield* appendSome(theirs, "after")
      yield* theirs.events.append(Array.from({ length: 120 }, () => event("a")))
      const run = yield* session(own.href)
      yield* run(plainInsert("strata.events", "plain"))
      yield* refused(run(plainInsert("strata.events_0", "aside")), /permission denied/)
      assert.strictEqual((yield* theirs.events.get("first 1")).id, "first 1")
    }).pipe(Effect.scoped)
  )

  it.live("is refused beside what would stay with the first partition, and all of it is named", () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const stores = yield* serveEvents({ url, options: { schema: "strata" } })
      yield* appendSome(stores, "first")
      yield* execute(
        [
          "CREATE VIEW recent AS SELECT * FROM strata.events",
          "CREATE TABLE notes (event TEXT REFERENCES strata.events (id))",
          "CREATE PUBLICATION copies FOR TABLE strata.events"
        ],
        url
      )
      yield* failsWith(
        divide("strata", url),
        "Postgres.migrate",
        "Unexpected",
        /the foreign key notes_event_fkey of public.notes; the publication copies, .*; the view public.recent: drop/
      )
      yield* execute(["DROP VIEW recent", "DROP TABLE notes", "DROP PUBLICATION copies"], url)
      yield* divide("strata", url)
      assert.strictEqual((yield* stores.events.load()).length, 10)
    }).pipe(Effect.scoped)
  )
})
