/** `notify: "rows"`: what go-sync-kit's listeners hear, and what the table then has no room for. */
import { PgClient, PgConnection } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Latch, Layer, Queue, Redacted } from "effect"
import { InvalidInput } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import * as Wakeups from "../../src/postgres/wakeups/Wakeups.ts"
import { postgresUrl } from "../support/database.ts"
import { event, goSyncKit, plainInsert, serveEvents } from "./events.harness.ts"
import { execute, freshSchema, query } from "./harness.ts"

/** What comes on channels, as any listener gets it. */
const listen = Effect.fnUntraced(function* (channels: ReadonlyArray<string>) {
  const connection = yield* PgConnection.make({ url: Redacted.make(postgresUrl) })
  const pinned = yield* connection.pin
  return yield* Effect.forEach(channels, (channel) => pinned.listen(channel))
})

const triggers = (table: string) =>
  Effect.map(query(`SELECT tgname FROM pg_trigger WHERE tgrelid = '${table}'::regclass AND NOT tgisinternal`), (rows) =>
    rows.map(([name]) => name)
  )

/** go-sync-kit's own trigger, as far as it matters here: under its names. */
const foreignTrigger = (schema: string) => [
  `CREATE FUNCTION ${schema}.notify_event_inserted() RETURNS TRIGGER LANGUAGE plpgsql AS
   'BEGIN PERFORM pg_notify(NEW.stream_name, ''foreign''); RETURN NEW; END'`,
  `CREATE TRIGGER events_notify_trigger AFTER INSERT ON ${schema}.events
   FOR EACH ROW EXECUTE FUNCTION ${schema}.notify_event_inserted()`
]

describe(`notify: "rows"`, () => {
  it.live("tells of each row on both channels, byte for byte as go-sync-kit does", () =>
    Effect.gen(function* () {
      const { events, sql, table } = yield* serveEvents({ options: { notify: "rows" } })
      const aggregateId = `user "4\\56" é ${crypto.randomUUID()}`
      const [stream, global] = yield* listen([`stream_${aggregateId}`, "events_global"])
      assert.isDefined(stream)
      assert.isDefined(global)
      const [first, second] = yield* events.append([event(aggregateId, "event-abc-123"), event(aggregateId)])
      yield* sql.unsafe(plainInsert(table, "plain-1", aggregateId))
      for (const id of [first?.id, second?.id, "plain-1"]) {
        const [row = []] = yield* query(
          `SELECT version, to_json(aggregate_id), event_type, to_json(created_at), to_json(stream_name)
           FROM ${table} WHERE id = '${id}'`
        )
        const [version, aggregate, type, createdAt, name] = row.map((value, index) =>
          index === 1 || index >= 3 ? JSON.stringify(value) : String(value)
        )
        const begin = `{"version" : ${version}, "id" : "${id}", "aggregate_id" : ${aggregate}, "event_type" : "${type}", `
        const heard = yield* Queue.take(stream)
        assert.strictEqual(heard.payload, `${begin}"created_at" : ${createdAt}}`)
        const everywhere = yield* Queue.take(global)
        assert.strictEqual(everywhere.payload, `${begin}"stream_name" : ${name}, "created_at" : ${createdAt}}`)
      }
    })
  )

  it.live("refuses, before it writes anything, what no channel has room for", () =>
    Effect.gen(function* () {
      const { events, table } = yield* serveEvents({ options: { notify: "rows" } })
      const fits = "é".repeat(28)
      yield* events.append(event(fits))
      const error = yield* Effect.flip(events.append([event("ok"), event(`${fits}x`), event("x".repeat(57))]))
      assert.instanceOf(error, InvalidInput.InvalidInput)
      assert.deepStrictEqual(
        error.issues.map(({ field }) => field),
        ["events.1.aggregateId", "events.2.aggregateId"]
      )
      // The longest payload there can be.
      const [long, short] = ["\u0001".repeat(512), "\u0001".repeat(56)]
      yield* events.append({ ...event(short, long), eventType: long })
      assert.deepStrictEqual(yield* query(`SELECT aggregate_id FROM ${table} ORDER BY version`), [[fits], [short]])
    })
  )

  it.live("is not there unless it is asked for, and then comes to a table that is there", () =>
    Effect.gen(function* () {
      const { events, schema, table } = yield* serveEvents()
      assert.deepStrictEqual(yield* triggers(table), [])
      yield* events.append(event("x".repeat(57)))
      yield* serveEvents({ options: { schema, notify: "rows" } })
      assert.deepStrictEqual(yield* triggers(table), ["events_notify_trigger"])
    })
  )

  it.live("takes the place of go-sync-kit's own trigger, so that no listener is told twice", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* goSyncKit(schema)
      yield* execute(foreignTrigger(schema))
      const aggregateId = crypto.randomUUID()
      const [stream] = yield* listen([`stream_${aggregateId}`])
      assert.isDefined(stream)

      // Without the option, its trigger stays, and the store still refuses what the trigger has no room for.
      const { events, table } = yield* serveEvents({ options: { schema } })
      assert.instanceOf(yield* Effect.flip(events.append(event("x".repeat(57)))), InvalidInput.InvalidInput)
      yield* events.append(event(aggregateId))
      assert.strictEqual((yield* Queue.take(stream)).payload, "foreign")

      const again = yield* serveEvents({ options: { schema, notify: "rows" } })
      assert.deepStrictEqual(yield* triggers(table), ["events_notify_trigger"])
      yield* again.events.append([event(aggregateId, `a ${aggregateId}`), event(aggregateId, `b ${aggregateId}`)])
      assert.match((yield* Queue.take(stream)).payload, /"id" : "a /)
      assert.match((yield* Queue.take(stream)).payload, /"id" : "b /)
    })
  )

  it.live("refuses the same once a Go service has brought the trigger, to a store that has looked before", () =>
    Effect.gen(function* () {
      const { events, schema, table, withTransaction } = yield* serveEvents()
      const long = "x".repeat(57)
      yield* events.append(event(long, "before"))
      yield* execute(foreignTrigger(schema))
      const field = (refused: unknown) => {
        assert.instanceOf(refused, InvalidInput.InvalidInput)
        return refused.issues.map(({ field }) => field)
      }
      const alone = yield* Effect.flip(events.append(event(long)))
      assert.deepStrictEqual(field(alone), ["events.0.aggregateId"])
      const expecting = yield* Effect.flip(events.append(event(long), { expected: "some" }))
      assert.deepStrictEqual(field(expecting), ["events.0.aggregateId"])
      const inside = yield* Effect.flip(withTransaction(events.append([event("ok"), event(long)])))
      assert.deepStrictEqual(field(inside), ["events.1.aggregateId"])
      // Those that come at once with it are stored.
      const atOnce = yield* Effect.forEach(
        ["a", "b", long, "c"],
        (aggregateId) => Effect.exit(events.append(event(aggregateId, `id ${aggregateId}`))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        atOnce.map(({ _tag }) => _tag),
        ["Success", "Success", "Failure", "Success"]
      )
      assert.deepStrictEqual(yield* query(`SELECT id FROM ${table} ORDER BY id`), [
        ["before"],
        ["id a"],
        ["id b"],
        ["id c"]
      ])
    })
  )

  it.live("wakes readers of the log, who hear of the events of a Go service by it", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* goSyncKit(schema)
      yield* serveEvents({ options: { schema, notify: "rows" } })
      const pool = PgClient.layer({ url: Redacted.make(postgresUrl) })
      const database = Layer.provideMerge(Postgres.PostgresDatabase.layer({ schema }), pool)
      const { listen } = Context.get(yield* Layer.build(Layer.provide(Wakeups.layer, database)), Wakeups.Wakeups)
      const [ready, woken] = [yield* Latch.make(), yield* Latch.make()]
      // This reader does not look by itself before the test has failed.
      yield* Effect.forkScoped(
        listen("events", ({ wait }) =>
          Effect.andThen(ready.open, Effect.forever(Effect.andThen(wait("1 hour"), woken.open)))
        )
      )
      yield* ready.await
      yield* execute([plainInsert(`${schema}.events`, "go-3")])
      yield* woken.await
    })
  )
})
