-- The type of the event beside each of its tags: readers and decisions that name types need not look at each event of a tag.
-- Rows from before this file, and those of processes of then, have none: for these the event is looked at.
\if :{?events}
\else
\set events events
\endif

SET strata.events TO :"events";

-- next
DO $do$
DECLARE
    events CONSTANT REGCLASS := pg_catalog.quote_ident(pg_catalog.current_setting('strata.events'))::regclass;
    tags   TEXT;
BEGIN
    -- Only built-in functions and operators are found from here on, whatever the schemas of the search path have.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT format('%I.%I', nspname, relname || '_tags') INTO STRICT tags
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = tags::regclass AND attname = 'event_type' AND NOT attisdropped
    ) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN event_type TEXT COLLATE "C"', tags);
    END IF;
END
$do$;

-- next
RESET strata.events;
