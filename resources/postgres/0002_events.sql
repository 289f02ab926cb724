-- The log of events. go-sync-kit's Postgres store reads and writes the same table. A table that go-sync-kit has created is
-- adopted with its rows, and keeps its sequence, its indexes and its triggers. The file of the indexes adds what it lacks.
\if :{?events}
\else
\set events events
\endif

-- The identity is ALWAYS generated, so that no client draws a version by itself. A version that is drawn before its
-- transaction locks the table has no holder that readers could find, and they would pass the hole.
CREATE TABLE IF NOT EXISTS :"events"
(
    version      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    aggregate_id TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    data         JSONB,
    metadata     JSONB,
    created_at   TIMESTAMPTZ DEFAULT now(),
    stream_name  TEXT GENERATED ALWAYS AS ('stream_' || aggregate_id) STORED
);

-- next
SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events  CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    missing TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT string_agg(needed.name, ', ') INTO missing
    FROM unnest(ARRAY['version', 'id', 'aggregate_id', 'event_type', 'data', 'metadata', 'created_at', 'stream_name'])
        AS needed (name)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = events AND attname = needed.name AND attnum > 0 AND NOT attisdropped
    ) AND NOT (needed.name = 'stream_name' AND EXISTS (
        -- A compact log has none.
        SELECT FROM pg_attribute WHERE attrelid = events AND attname = 'id' AND atttypid = 'uuid'::regtype
    ));
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the table % is there already and is no log of events: it has no column %', events, missing
            USING ERRCODE = 'wrong_object_type';
    END IF;
END
$do$;

-- next
RESET strata.events;
