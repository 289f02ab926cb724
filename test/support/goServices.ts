/** What the Go services do on the server that share tables with this library. */

/** What go-sync-kit's `New` runs at each start, in one transaction. */
export const goSyncKitStart = (schema: string): ReadonlyArray<string> => [
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
