-- What events are about: a row for each tag of an event, beside the log, so that appends and readers of events without tags
-- pay nothing, and Go services never see it.
--
-- The primary key has the versions of a tag in their order: a page of a tag's events begins at the cursor and reads what it
-- returns. An array of tags in the events' own rows, with a GIN index, knows no order, so each page would collect all events
-- of the tag and sort them. The second index finds the tags of an event, by `version + 0`: an index of the bare version has
-- the order of a page, too, and the planner would take it for tags of which it knows nothing, and go through all others.
--
-- No event has the empty tag. A version beside it is added whenever events are tagged that were in the log: the highest is the
-- epoch that conditions of appends carry.
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
    -- In the schema of the events, wherever that is on the search path.
    SELECT format('%I.%I', nspname, relname || '_tags') INTO STRICT tags
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = events;
    IF to_regclass(tags) IS NULL THEN
        -- Tags are only compared for equality, which is fastest byte by byte.
        EXECUTE format(
            'CREATE TABLE %s (tag TEXT COLLATE "C" NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (tag, version))', tags);
        EXECUTE format('CREATE INDEX ON %s ((version + 0))', tags);
    END IF;
END
$do$;

-- next
RESET strata.events;
