-- Optional: indexes for queries by what events contain. Runs with the option index: "containment" only, as each append
-- then costs about twice as much.
--
-- By hand: psql -f 0006_events_index_containment.sql, with -c 'SET search_path TO app' before it for a schema, and
-- -v events=NAME for another table name. On a large table, first: CREATE INDEX CONCURRENTLY ON events USING GIN (data
-- jsonb_path_ops), and the same for metadata; then there is nothing left to do here.
\if :{?events}
\else
\set events events
\endif

-- psql replaces nothing inside a quoted body. A setting carries the name into the block below.
SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := quote_ident(current_setting('strata.events'))::regclass;
    part   RECORD;
BEGIN
    -- Those that go-sync-kit has made will do. These are smaller, and know containment only, which is all that is asked for.
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
