-- Optional, by index: "containment": indexes for queries by what events contain. With them an append costs about twice as
-- much.
--
-- On a large table, first run CREATE INDEX CONCURRENTLY ON events USING GIN (data jsonb_path_ops), and the same for
-- metadata: then this file finds nothing to do, and does not keep appends waiting.
\if :{?events}
\else
\set events events
\endif

SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    part   RECORD;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- GIN indexes that go-sync-kit has made will do. Those made here are smaller, and answer containment only, which is all
    -- that queries ask for.
    FOR part IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = events AND attname IN ('data', 'metadata') AND NOT EXISTS (
            SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
            WHERE indrelid = events AND amname = 'gin' AND indkey[0] = attnum
        )
        ORDER BY attname
    LOOP
        EXECUTE format('CREATE INDEX ON %s USING GIN (%I jsonb_path_ops)', events, part.attname);
    END LOOP;
END
$do$;

-- next
RESET strata.events;
