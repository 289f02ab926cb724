/** Go services that start beside this library's writers. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { event, goSyncKit, serveEvents, session } from "./events.harness.ts"
import { freshSchema, query } from "./harness.ts"

/** What go-sync-kit's `New` runs at each start, in one transaction. */
const start = (schema: string) => [
  "BEGIN",
  `SET LOCAL search_path TO ${schema}`,
  `CREATE TABLE IF NOT EXISTS events (
    version BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, aggregate_id TEXT NOT NULL, event_type TEXT NOT NULL,
    data JSONB, metadata JSONB, created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    stream_name TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED)`,
  "CREATE INDEX IF NOT EXISTS idx_events_aggregate_id ON events (aggregate_id)",
  "CREATE INDEX IF NOT EXISTS idx_events_version ON events (version)",
  "CREATE INDEX IF NOT EXISTS idx_events_created_at ON events (created_at)",
  "CREATE INDEX IF NOT EXISTS idx_events_stream_name ON events (stream_name)",
  "CREATE INDEX IF NOT EXISTS idx_events_type ON events (event_type)",
  "CREATE INDEX IF NOT EXISTS idx_events_data_gin ON events USING GIN (data)",
  "CREATE INDEX IF NOT EXISTS idx_events_metadata_gin ON events USING GIN (metadata)",
  `CREATE OR REPLACE FUNCTION notify_event_inserted() RETURNS TRIGGER LANGUAGE plpgsql AS $$
   BEGIN
     PERFORM pg_notify(NEW.stream_name, json_build_object('version', NEW.version, 'id', NEW.id)::text);
     PERFORM pg_notify('events_global', json_build_object('version', NEW.version, 'id', NEW.id)::text);
     RETURN NEW;
   END $$`,
  "DROP TRIGGER IF EXISTS events_notify_trigger ON events",
  `CREATE TRIGGER events_notify_trigger AFTER INSERT ON events
   FOR EACH ROW EXECUTE FUNCTION notify_event_inserted()`,
  "COMMIT"
]

const writers = 8
const starts = 128

describe("go-sync-kit", () => {
  it.live("starts beside writers, again and again: neither it nor they end in a deadlock", () =>
    Effect.gen(function* () {
      const schema = yield* freshSchema()
      yield* goSyncKit(schema)
      const served = yield* Effect.replicateEffect(serveEvents({ options: { schema } }), 2)
      const over = yield* Deferred.make<void>()
      let appended = 2
      // Appends that expect a version, appends with an id, in transactions and outside of them.
      const write = Effect.fnUntraced(function* (writer: number) {
        const { events, withTransaction } = served[writer % served.length] ?? assert.fail()
        let version: bigint | "none" = "none"
        for (let n = 0; !Deferred.isDoneUnsafe(over); n++) {
          const expected: bigint | "none" = version
          const append = events.append(event(`w${writer}`, n % 2 === 0 ? `${writer}/${n}` : undefined), { expected })
          const [stored] = yield* n % 3 === 0 ? withTransaction(append) : append
          version = stored?.version ?? "none"
          appended++
        }
      })
      const go = Effect.gen(function* () {
        const run = yield* session()
        // One after another: two starts at once wait for each other, whoever else is there.
        for (let n = 0; n < starts; n++) for (const statement of start(schema)) yield* run(statement)
        yield* Deferred.succeed(over, undefined)
      })
      yield* Effect.all([go, ...Array.from({ length: writers }, (_, writer) => write(writer))], {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(yield* query(`SELECT count(*)::int FROM ${schema}.events`), [[appended]])
      assert.isAbove(appended, writers)
    })
  )
})
