-- The mark that a primary publishes for its standbys, where nobody can see the locks of the primary: one row, beside the table
-- of events. When the row was written, every event up to its version that there will ever be was committed, so a statement on a
-- standby that sees the row sees these events.
--
-- `server` is the server that has settled the version, and its sequence, as readers name them. After `TRUNCATE .. RESTART
-- IDENTITY` the sequence is another one, and the row means nothing. Only the version changes, of which there is no index: the
-- server overwrites the row in its page.
\if :{?events}
\else
\set events events
\endif

SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    mark   TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- In the schema of the events, wherever that is on the search path.
    SELECT format('%I.%I', nspname, relname || '_mark') INTO STRICT mark
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    IF to_regclass(mark) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE %s (
                single  BOOLEAN PRIMARY KEY DEFAULT true CHECK (single),
                version BIGINT NOT NULL,
                server  TEXT NOT NULL
            )', mark);
    END IF;
END
$do$;

-- next
RESET strata.events;
